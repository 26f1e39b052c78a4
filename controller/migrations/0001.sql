-- The catalog, version 1. Who writes what:
--   build   worker worker_gone job job_file allocation bundle key_value (one transaction a build)
--   drive   desired_* promoted rollout* bucket.update_seq               (one transaction a step)
--   serve   observed_* agent_certificate join_token.redeemed*           (one transaction a request)
--   gc      takes away what was an allocation's or a worker's, once nothing is left of it; agent forget too
--   recover bucket.epoch, and what it makes promoted and desired_* of what agents have
-- Times are milliseconds since 1970 UTC. JSON columns hold what only Rust types read.

CREATE TABLE bucket (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  bucket_id TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  update_seq INTEGER NOT NULL,
  built_at INTEGER,                 -- last successful build
  build_run TEXT
) STRICT;

CREATE TABLE worker (
  worker_id TEXT PRIMARY KEY,
  host TEXT NOT NULL UNIQUE,
  hostname TEXT,
  labels TEXT NOT NULL,             -- JSON array, sorted, "worker" included
  tags TEXT NOT NULL,               -- JSON object
  memory_mb REAL NOT NULL,
  cpu_mhz REAL NOT NULL,
  position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A worker taken out of workers.json stays known until it has cleaned up.
CREATE TABLE worker_gone (
  worker_id TEXT PRIMARY KEY,
  host TEXT NOT NULL,
  gone_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE job (
  name TEXT PRIMARY KEY,
  version TEXT,                     -- as in the manifest; NULL when it has none
  spec TEXT NOT NULL                -- JSON of model::job::JobSpec
) STRICT, WITHOUT ROWID;

-- What a job's directory holds, control files and template sources included.
CREATE TABLE job_file (
  job TEXT NOT NULL,
  path TEXT NOT NULL,
  mode INTEGER NOT NULL,
  len INTEGER NOT NULL,
  blob TEXT NOT NULL,
  kind TEXT NOT NULL,               -- shipped | template | control
  PRIMARY KEY (job, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE allocation (
  alloc_id TEXT PRIMARY KEY,
  job TEXT NOT NULL,
  host TEXT NOT NULL,
  worker_id TEXT NOT NULL,
  disabled INTEGER NOT NULL,
  removed INTEGER NOT NULL,
  start_pending INTEGER NOT NULL DEFAULT 0, -- re-enabled: the next deploy starts it
  deployment_seq INTEGER NOT NULL,
  new_version TEXT NOT NULL,        -- canonical; 0.0.0 when the job has none
  bundle TEXT,                      -- what the last build made; NULL when removed
  UNIQUE (job, host)
) STRICT, WITHOUT ROWID;
CREATE INDEX allocation_worker ON allocation (worker_id);

CREATE TABLE bundle (
  digest TEXT PRIMARY KEY,
  entries BLOB NOT NULL             -- JSON array of shared::Entry, zstd
) STRICT, WITHOUT ROWID;

CREATE TABLE key_value (
  namespace TEXT NOT NULL,
  key TEXT NOT NULL,
  version INTEGER NOT NULL,
  value TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  deleted INTEGER NOT NULL,
  PRIMARY KEY (namespace, key, version)
) STRICT, WITHOUT ROWID;

-- What every worker is told. A document is assembled from these rows alone, so the same generation
-- always has the same bytes.
CREATE TABLE desired_worker (
  worker_id TEXT PRIMARY KEY,
  host TEXT NOT NULL,
  labels TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  update_seq INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  issued_at INTEGER NOT NULL,
  prefetch TEXT NOT NULL            -- JSON array of bundle digests
) STRICT, WITHOUT ROWID;

CREATE TABLE desired_allocation (
  alloc_id TEXT PRIMARY KEY,
  worker_id TEXT NOT NULL,
  job TEXT NOT NULL,
  state TEXT NOT NULL,              -- running | stopped | absent | purged
  disabled INTEGER NOT NULL,
  bundle TEXT,
  current_version TEXT NOT NULL,
  new_version TEXT NOT NULL,
  action TEXT                       -- JSON of DesiredAction
) STRICT, WITHOUT ROWID;
CREATE INDEX desired_allocation_worker ON desired_allocation (worker_id);

-- What every worker said last. serve alone writes it.
CREATE TABLE observed_worker (
  worker_id TEXT PRIMARY KEY,
  session INTEGER NOT NULL,
  number INTEGER NOT NULL,
  agent_version TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  clock_offset_ms INTEGER NOT NULL, -- agent's clock less ours
  accepted_epoch INTEGER,
  accepted_seq INTEGER,
  accepted_generation INTEGER,
  refused TEXT,
  facts TEXT,                       -- JSON of WorkerFacts
  reported_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Liveness, apart from what was said: written at most every few seconds a worker, and when a
-- connection ends.
CREATE TABLE agent_contact (
  worker_id TEXT PRIMARY KEY,
  last_seen INTEGER NOT NULL,
  connected INTEGER NOT NULL        -- 1 while a request of it is being waited on
) STRICT, WITHOUT ROWID;

CREATE TABLE observed_allocation (
  alloc_id TEXT PRIMARY KEY,
  worker_id TEXT NOT NULL,
  bundle TEXT,
  observed TEXT NOT NULL,           -- JSON of ObservedAllocation
  changed INTEGER NOT NULL          -- ascending over the whole table: what a driver has not seen yet
) STRICT, WITHOUT ROWID;
CREATE INDEX observed_allocation_worker ON observed_allocation (worker_id);
CREATE INDEX observed_allocation_changed ON observed_allocation (changed);

-- Which bytes of an action's output have been written to the logs.
CREATE TABLE log_offset (
  action_id TEXT NOT NULL,
  stream TEXT NOT NULL,
  offset INTEGER NOT NULL,
  PRIMARY KEY (action_id, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE promoted (
  alloc_id TEXT PRIMARY KEY,
  bundle TEXT NOT NULL,
  version TEXT NOT NULL,
  promoted_at INTEGER NOT NULL,
  run_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE join_token (
  token_id TEXT PRIMARY KEY,        -- base64url
  worker_id TEXT NOT NULL,
  public_key BLOB NOT NULL,         -- Ed25519, of the token's secret
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  failures INTEGER NOT NULL DEFAULT 0,
  redeemed_at INTEGER,
  redeemed_spki BLOB,               -- sha256 of the key that it was redeemed with
  certificate TEXT                  -- PEM: the same token with the same key gets the same answer
) STRICT, WITHOUT ROWID;

CREATE TABLE agent_certificate (
  fingerprint BLOB PRIMARY KEY,     -- sha256 of the DER
  worker_id TEXT NOT NULL,
  serial TEXT NOT NULL,
  not_after INTEGER NOT NULL,
  issued_at INTEGER NOT NULL,
  revoked_at INTEGER,
  revoked_reason TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX agent_certificate_worker ON agent_certificate (worker_id);

CREATE TABLE rollout (
  run_id TEXT PRIMARY KEY,
  state TEXT NOT NULL,              -- running | paused | done | failed | aborted
  attended INTEGER NOT NULL,
  options TEXT NOT NULL,            -- JSON of rollout::Options
  update_seq INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  ended_at INTEGER,
  lease_owner TEXT,                 -- "pid 4711 on host": who drives it
  lease_until INTEGER,
  summary TEXT                      -- JSON, once it ended
) STRICT, WITHOUT ROWID;
-- One at a time per bucket.
CREATE UNIQUE INDEX rollout_one ON rollout ((1)) WHERE state IN ('running', 'paused');

CREATE TABLE rollout_job (
  run_id TEXT NOT NULL,
  job TEXT NOT NULL,
  plan TEXT NOT NULL,               -- JSON of plan::JobPlan, written once when the job was decided
  state TEXT NOT NULL,              -- JSON of rollout::job::State, small, written with every step
  PRIMARY KEY (run_id, job)
) STRICT, WITHOUT ROWID;

-- What a workspace file's content was when the last build read it: not read again while its stamp stays.
CREATE TABLE file_seen (
  path TEXT PRIMARY KEY,            -- relative to the bucket
  len INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  ctime_ns INTEGER NOT NULL,
  inode INTEGER NOT NULL,
  blob TEXT NOT NULL
) STRICT, WITHOUT ROWID;
