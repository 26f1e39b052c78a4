"""Before anything is rolled: who leads, a password, and the order. It runs for one node after the other, and what the
first one wrote the others find."""

import secrets

import maand

nodes = maand.get_kv_value("maand/job/store", "workers").split(",")

known = maand.get_store_value("vars/job/store", "leader")
leader = known.json()["value"] if known.ok else None
if leader not in nodes:
    leader = nodes[0]
    print("leader:", leader)
    maand.put_job_variable("leader", leader).raise_for_status()

if not maand.get_store_value("secrets/job/store", "password").ok:
    maand.put_job_secret("password", secrets.token_hex(24)).raise_for_status()

# Followers first: while they are away the leader goes on taking writes.
order = [node for node in nodes if node != leader] + [leader]
maand.put_rollout_order(order).raise_for_status()
