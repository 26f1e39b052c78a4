-- The catalog, version 6: starts of agents. serve writes it.

CREATE TABLE agent_session (
  worker_id TEXT NOT NULL,
  number INTEGER NOT NULL,          -- ascending for a worker: a request with an older one is refused
  start_id TEXT NOT NULL,           -- the start of an agent that it was given to
  opened_at INTEGER NOT NULL,
  address TEXT NOT NULL,            -- where it was opened from
  machine TEXT,                     -- digest of the machine's id, as the agent says
  boot_id TEXT NOT NULL,
  instance TEXT NOT NULL,           -- of the directory that the identity is in
  agent_version TEXT NOT NULL,
  PRIMARY KEY (worker_id, number)
) STRICT, WITHOUT ROWID;
