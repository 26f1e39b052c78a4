"""What hooks may ask of the controller that runs them. Standard library only.

    import maand
    maand.put_job_variable("primary", maand.allocation_ip())

Responses have status_code, text, json() and raise_for_status(); nothing but raise_for_status() and the
functions that say so raises for a status. docs/reference/hook-api.md has all of it.
"""

import json as _json
import os as _os
import subprocess as _subprocess
import urllib.error as _error
import urllib.parse as _parse
import urllib.request as _request

# A proxy of the environment is not for this machine itself.
_opener = _request.build_opener(_request.ProxyHandler({}))
_TIMEOUT = 30


class HTTPError(Exception):
    """The API refused; the message is what it said."""

    def __init__(self, response):
        super().__init__(f"{response.method} {response.path}: {response.status_code} {response.text.strip()}")
        self.response = response


class Response:
    """An answer of the API."""

    def __init__(self, method, path, status_code, content):
        self.method = method
        self.path = path
        self.status_code = status_code
        self.content = content

    @property
    def ok(self):
        return 200 <= self.status_code < 400

    @property
    def text(self):
        return self.content.decode("utf-8", "replace")

    def json(self):
        return _json.loads(self.content)

    def raise_for_status(self):
        if not self.ok:
            raise HTTPError(self)

    def __repr__(self):
        return f"<Response [{self.status_code}]>"


def _env(name):
    value = _os.environ.get(name)
    if value is None:
        raise RuntimeError(f"{name} is not set: this runs as a hook, such as with maand hooks {_os.path.basename(__file__)}")
    return value


def _call(method, path, body=None, timeout=_TIMEOUT):
    headers = {
        "Authorization": "Bearer " + _env("HOOK_API_TOKEN"),
        "X-ALLOCATION-ID": _env("ALLOCATION_ID"),
        "EVENT": _env("EVENT"),
        "COMMAND": _env("COMMAND"),
        "Content-Type": "application/json",
    }
    data = None if body is None else _json.dumps(body).encode("utf-8")
    request = _request.Request(_env("HOOK_API_URL") + path, data=data, method=method, headers=headers)
    try:
        with _opener.open(request, timeout=timeout) as answer:
            return Response(method, path, answer.status, answer.read())
    except _error.HTTPError as answer:
        with answer:
            return Response(method, path, answer.code, answer.read())


# Who and what this run is.


def allocation_id():
    return _env("ALLOCATION_ID")


def allocation_ip():
    """The worker's host, as workers.json names it."""
    return _env("ALLOCATION_IP")


def allocation_index():
    """The allocation's place among its job's, an int; None when it is not known any more."""
    value = _env("ALLOCATION_INDEX")
    return int(value) if value else None


def is_allocation_disabled():
    return _env("DISABLED") == "1"


def hook_event():
    return _env("EVENT")


def hook_name():
    return _env("HOOK")


def job_name():
    return _env("JOB")


def current_version():
    """What runs; 0.0.0 when nothing does."""
    return _env("CURRENT_VERSION")


def new_version():
    return _env("NEW_VERSION")


# Key-values.


def get_store_value(namespace, key):
    return _call("GET", "/kv", {"namespace": namespace, "key": key})


def get_kv_value(namespace, key):
    """The value as text; raises when there is none."""
    response = get_store_value(namespace, key)
    response.raise_for_status()
    return response.json()["value"]


def put_job_variable(key, value):
    return _call("PUT", "/kv", {"namespace": f"vars/job/{job_name()}", "key": key, "value": str(value)})


def delete_job_variable(key):
    return _call("DELETE", "/kv", {"namespace": f"vars/job/{job_name()}", "key": key})


def put_job_secret(key, value):
    return _call("PUT", "/kv/secret", {"namespace": f"secrets/job/{job_name()}", "key": key, "value": str(value)})


def delete_job_secret(key):
    return _call("DELETE", "/kv/secret", {"namespace": f"secrets/job/{job_name()}", "key": key})


def list_job_keys(namespace=None):
    return _call("GET", "/kv/keys", {} if namespace is None else {"namespace": namespace})


def put_rollout_order(order):
    """A list of hosts, or a text with commas. Events pre_deploy and cli only."""
    if not isinstance(order, str):
        order = ",".join(order)
    return _call("PUT", "/kv", {"namespace": f"maand/job/{job_name()}", "key": "rollout_order", "value": order})


def get_rollout_order():
    return get_store_value(f"maand/job/{job_name()}", "rollout_order")


def list_hook_demands():
    return _call("GET", "/demands")


# Semaphores: one of a name for each job and event.


def acquire_semaphore(name, capacity=1, timeout_seconds=600):
    body = {"name": name, "capacity": capacity, "timeout_seconds": timeout_seconds}
    return _call("POST", "/semaphore/acquire", body, timeout=min(timeout_seconds if timeout_seconds > 0 else 600, 3600) + 30)


def release_semaphore(name):
    return _call("POST", "/semaphore/release", {"name": name})


def semaphore_status(name):
    return _call("GET", "/semaphore/status?" + _parse.urlencode({"name": name}))


# The worker's side, by its agent. Nothing connects to a worker.


def _work(path, body, worker_ip, timeout, check, what):
    body["timeout_seconds"] = timeout
    if worker_ip is not None:
        body["host"] = worker_ip
    response = _call("POST", path, body, timeout=min(timeout if timeout > 0 else 300, 3600) + 120)
    response.raise_for_status()
    done = response.json()
    # As timeout(1) has it.
    exit_code = 124 if done["timed_out"] else done.get("exit", 1)
    result = _subprocess.CompletedProcess(what, exit_code, done["stdout"], done["stderr"])
    if done["timed_out"] and check:
        raise _subprocess.TimeoutExpired(what, timeout, done["stdout"], done["stderr"])
    if check:
        result.check_returncode()
    return result


def run_ssh(ip, cmd, timeout=300, check=True, connect_timeout=15, **options):
    """Runs a shell script on a worker that has an allocation of this job. The name is from when that was
    done with SSH; options of SSH mean nothing any more. Returns a subprocess.CompletedProcess."""
    del connect_timeout, options
    script = cmd if isinstance(cmd, str) else " ".join(cmd)
    return _work("/script", {"script": script}, ip, timeout, check, script)


def run_make_target(target, worker_ip=None, job=None, timeout=300, check=True):
    """Runs a make target of this job on a worker: the allocation's own, or another one of the job."""
    if job is not None and job != job_name():
        raise ValueError(f"a hook of job {job_name()} runs targets of its own job, not of {job}")
    return _work("/make", {"target": target}, worker_ip, timeout, check, f"make {target}")


def run_runner_target(target, worker_ip=None, job=None, timeout=300, check=True):
    return run_make_target(target, worker_ip, job, timeout, check)


def find_bucket_root(start=None):
    """The bucket's directory; None outside of one."""
    at = _os.path.abspath(start or _os.getcwd())
    while True:
        if _os.path.exists(_os.path.join(at, "maand.conf")) or _os.path.exists(_os.path.join(at, "data", "maand.db")):
            return at
        above = _os.path.dirname(at)
        if above == at:
            return None
        at = above


def load_ssh(*_args, **_options):
    raise RuntimeError("nothing connects to workers with SSH any more: run_ssh() and run_make_target() ask their agents")


# Older names.

command_event = get_event = hook_event
command_name = get_command = get_hook = hook_name
get_job = job_name
get_allocation_id = allocation_id
get_allocation_ip = allocation_ip
get_allocation_index = allocation_index
kv_get = get_store_value
kv_put = put_job_variable
kv_put_secret = put_job_secret
list_command_demands = get_demands = list_hook_demands
put_deploy_order = put_rollout_order
get_deploy_order = get_rollout_order
