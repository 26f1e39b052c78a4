"""Part of each gate: the node answers, with the version of this deploy and the leader that was chosen."""

import json
import urllib.request

import maand

port = maand.get_kv_value("maand/bucket", "store_http")
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with opener.open(f"http://{maand.allocation_ip()}:{port}/status", timeout=5) as answer:
    status = json.load(answer)
leader = maand.get_kv_value("vars/job/store", "leader")
if (status["leader"], status["version"]) != (leader, maand.new_version()):
    raise SystemExit(f"it should follow {leader} at {maand.new_version()}, and says {status}")
