// What hooks may ask of the controller that runs them. Needs nothing but fetch.
//
//     import * as maand from "./maand";
//     await maand.putJobVariable("primary", maand.allocationIp());
//
// Responses have statusCode, ok, text, json() and raiseForStatus(); nothing but raiseForStatus() and the
// functions that say so throws for a status. docs/reference/hook-api.md has all of it.

declare const process: { env: Record<string, string | undefined>; cwd(): string };

// A proxy of the environment is not for this machine itself; fetch has no other way to be told.
for (const name of ["NO_PROXY", "no_proxy"]) {
  const given = process.env[name];
  if (given !== "*") process.env[name] = given ? `${given},127.0.0.1` : "127.0.0.1";
}

export class HttpError extends Error {
  response: Response;

  constructor(response: Response) {
    super(`${response.method} ${response.path}: ${response.statusCode} ${response.text.trim()}`);
    this.name = "HttpError";
    this.response = response;
  }
}

export class Response {
  method: string;
  path: string;
  statusCode: number;
  text: string;

  constructor(method: string, path: string, statusCode: number, text: string) {
    this.method = method;
    this.path = path;
    this.statusCode = statusCode;
    this.text = text;
  }

  get status(): number {
    return this.statusCode;
  }

  get ok(): boolean {
    return this.statusCode >= 200 && this.statusCode < 400;
  }

  json(): any {
    return JSON.parse(this.text);
  }

  raiseForStatus(): void {
    if (!this.ok) throw new HttpError(this);
  }
}

export interface Done {
  exit: number;
  stdout: string;
  stderr: string;
  timedOut: boolean;
}

function env(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set: this runs as a hook, such as with maand hooks`);
  return value;
}

async function call(method: string, path: string, body?: unknown, timeoutSeconds = 30): Promise<Response> {
  const headers: Record<string, string> = {
    Authorization: `Bearer ${env("HOOK_API_TOKEN")}`,
    "X-ALLOCATION-ID": env("ALLOCATION_ID"),
    EVENT: env("EVENT"),
    COMMAND: env("COMMAND"),
    "Content-Type": "application/json",
  };
  const answer = await fetch(env("HOOK_API_URL") + path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(timeoutSeconds * 1000),
  });
  return new Response(method, path, answer.status, await answer.text());
}

// A GET of fetch has no body.
function query(parameters: Record<string, string>): string {
  return new URLSearchParams(parameters).toString();
}

// Who and what this run is.

export const allocationId = (): string => env("ALLOCATION_ID");
/** The worker's host, as workers.json names it. */
export const allocationIp = (): string => env("ALLOCATION_IP");
/** The allocation's place among its job's; undefined when it is not known any more. */
export const allocationIndex = (): number | undefined => {
  const value = env("ALLOCATION_INDEX");
  return value === "" ? undefined : Number(value);
};
export const isAllocationDisabled = (): boolean => env("DISABLED") === "1";
export const hookEvent = (): string => env("EVENT");
export const hookName = (): string => env("HOOK");
export const jobName = (): string => env("JOB");
/** What runs; 0.0.0 when nothing does. */
export const currentVersion = (): string => env("CURRENT_VERSION");
export const newVersion = (): string => env("NEW_VERSION");

// Key-values.

export function getStoreValue(namespace: string, key: string): Promise<Response> {
  return call("GET", `/kv?${query({ namespace, key })}`);
}

/** The value as text; throws when there is none. */
export async function getKvValue(namespace: string, key: string): Promise<string> {
  const response = await getStoreValue(namespace, key);
  response.raiseForStatus();
  return response.json().value;
}

export function putJobVariable(key: string, value: string | number): Promise<Response> {
  return call("PUT", "/kv", { namespace: `vars/job/${jobName()}`, key, value: String(value) });
}

export function deleteJobVariable(key: string): Promise<Response> {
  return call("DELETE", "/kv", { namespace: `vars/job/${jobName()}`, key });
}

export function putJobSecret(key: string, value: string): Promise<Response> {
  return call("PUT", "/kv/secret", { namespace: `secrets/job/${jobName()}`, key, value: String(value) });
}

export function deleteJobSecret(key: string): Promise<Response> {
  return call("DELETE", "/kv/secret", { namespace: `secrets/job/${jobName()}`, key });
}

export function listJobKeys(namespace = ""): Promise<Response> {
  return call("GET", `/kv/keys?${query({ namespace })}`);
}

/** A list of hosts, or a text with commas. Events pre_deploy and cli only. */
export function putRolloutOrder(order: string | string[]): Promise<Response> {
  const value = Array.isArray(order) ? order.join(",") : order;
  return call("PUT", "/kv", { namespace: `maand/job/${jobName()}`, key: "rollout_order", value });
}

export function getRolloutOrder(): Promise<Response> {
  return getStoreValue(`maand/job/${jobName()}`, "rollout_order");
}

export function listHookDemands(): Promise<Response> {
  return call("GET", "/demands");
}

// Semaphores: one of a name for each job and event.

export function acquireSemaphore(name: string, capacity = 1, timeoutSeconds = 600): Promise<Response> {
  const wait = Math.min(timeoutSeconds > 0 ? timeoutSeconds : 600, 3600) + 30;
  return call("POST", "/semaphore/acquire", { name, capacity, timeout_seconds: timeoutSeconds }, wait);
}

export function releaseSemaphore(name: string): Promise<Response> {
  return call("POST", "/semaphore/release", { name });
}

export function semaphoreStatus(name: string): Promise<Response> {
  return call("GET", `/semaphore/status?${query({ name })}`);
}

// The worker's side, by its agent. Nothing connects to a worker.

async function work(path: string, body: Record<string, unknown>, host: string | undefined, timeout: number, check: boolean): Promise<Done> {
  const wait = Math.min(timeout > 0 ? timeout : 300, 3600) + 120;
  const response = await call("POST", path, { ...body, host, timeout_seconds: timeout }, wait);
  response.raiseForStatus();
  const said = response.json();
  // As timeout(1) has it.
  const exit = said.timed_out ? 124 : (said.exit ?? 1);
  if (check && exit !== 0) throw new Error(`exit code ${exit} on ${host ?? allocationIp()}: ${said.stderr.trim()}`);
  return { exit, stdout: said.stdout, stderr: said.stderr, timedOut: said.timed_out };
}

/** Runs a shell script on a worker that has an allocation of this job. */
export function runSsh(ip: string | undefined, script: string, timeout = 300, check = true): Promise<Done> {
  return work("/script", { script }, ip, timeout, check);
}

/** Runs a make target of this job on a worker: the allocation's own, or another one of the job. */
export async function runMakeTarget(target: string, workerIp?: string, job?: string, timeout = 300, check = true): Promise<Done> {
  if (job !== undefined && job !== jobName()) {
    throw new Error(`a hook of job ${jobName()} runs targets of its own job, not of ${job}`);
  }
  return work("/make", { target }, workerIp, timeout, check);
}

export const runRunnerTarget = runMakeTarget;

/** The bucket's directory: hooks run in its tmp/hooks/<run>/<number>/<job>/_modules. */
export function findBucketRoot(): string | undefined {
  const at = process.cwd().lastIndexOf("/tmp/hooks/");
  return at < 0 ? undefined : process.cwd().slice(0, at);
}

export function loadSsh(): never {
  throw new Error("nothing connects to workers with SSH any more: runSsh() and runMakeTarget() ask their agents");
}

// Older names.

export { hookEvent as commandEvent, hookEvent as getEvent };
export { hookName as commandName, hookName as getCommand, hookName as getHook };
export { jobName as getJob };
export { allocationId as getAllocationId, allocationIp as getAllocationIp, allocationIndex as getAllocationIndex };
export { getStoreValue as kvGet, putJobVariable as kvPut, putJobSecret as kvPutSecret };
export { listHookDemands as listCommandDemands, listHookDemands as getDemands };
export { putRolloutOrder as putDeployOrder, getRolloutOrder as getDeployOrder };
