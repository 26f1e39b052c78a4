"""After all of it: what is written through this node is read from every node."""

import time
import urllib.request

import maand

port = maand.get_kv_value("maand/bucket", "store_http")
password = maand.get_kv_value("secrets/job/store", "password")
nodes = maand.get_kv_value("maand/job/store", "workers").split(",")
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(node, method, value=None):
    url = f"http://{node}:{port}/kv/smoke-{maand.allocation_index()}"
    request = urllib.request.Request(url, data=value, method=method, headers={"Authorization": "Bearer " + password})
    with opener.open(request, timeout=10) as answer:
        return answer.read().decode()


value = str(time.time())
call(maand.allocation_ip(), "PUT", value.encode())
for node in nodes:
    found = call(node, "GET")
    if found != value:
        raise SystemExit(f"{node} has {found!r}, {value!r} was written through {maand.allocation_ip()}")
print(f"written through {maand.allocation_ip()}, read from {len(nodes)} nodes")
