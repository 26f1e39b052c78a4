"""A key-value store with a leader: writes go to it from any node, and from it to every node."""

import json
import os
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

with open("node.json") as file:
    NODE = json.load(file)
DATA = "data/store.json"
LOCK = Lock()
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def load():
    try:
        with open(DATA) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def save(values):
    with open(DATA + ".new", "w") as file:
        json.dump(values, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(DATA + ".new", DATA)


VALUES = load()


def send(node, method, path, value):
    headers = {"Authorization": "Bearer " + NODE["password"]}
    url = f"http://{node}:{NODE['port']}{path}"
    request = urllib.request.Request(url, data=value, method=method, headers=headers)
    with NO_PROXY.open(request, timeout=5) as answer:
        return answer.read()


class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def is_ours(self):
        return self.headers.get("Authorization") == "Bearer " + NODE["password"]

    def do_GET(self):
        if self.path == "/status":
            leads = NODE["me"] == NODE["leader"]
            status = {"node": NODE["me"], "leader": NODE["leader"], "leads": leads, "version": NODE["version"], "keys": len(VALUES)}
            return self.answer(200, json.dumps(status).encode())
        if not self.is_ours():
            return self.answer(401)
        if self.path == "/all":
            return self.answer(200, json.dumps(VALUES).encode())
        value = VALUES.get(self.path.removeprefix("/kv/"))
        return self.answer(404) if value is None else self.answer(200, value.encode())

    def do_PUT(self):
        if not self.is_ours():
            return self.answer(401)
        value = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 1 << 20))
        key = self.path.removeprefix("/copy/").removeprefix("/kv/")
        try:
            if self.path.startswith("/kv/") and NODE["me"] != NODE["leader"]:
                send(NODE["leader"], "PUT", self.path, value)
                return self.answer(204)
            with LOCK:
                VALUES[key] = value.decode()
                save(VALUES)
            if self.path.startswith("/kv/"):
                for node in NODE["nodes"]:
                    if node != NODE["me"]:
                        send(node, "PUT", "/copy/" + key, value)
            return self.answer(204)
        except (urllib.error.URLError, OSError) as error:
            return self.answer(502, f"not written everywhere: {error}\n".encode())

    def log_message(self, format, *arguments):
        print(self.address_string(), format % arguments, flush=True)


if NODE["me"] != NODE["leader"]:
    # What was written while this node was away.
    try:
        VALUES.update(json.loads(send(NODE["leader"], "GET", "/all", None)))
        save(VALUES)
    except (urllib.error.URLError, OSError) as error:
        print("the leader is not there yet:", error, flush=True)
ThreadingHTTPServer((NODE["me"], NODE["port"]), Handler).serve_forever()
