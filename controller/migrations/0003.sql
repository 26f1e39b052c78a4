-- The catalog, version 3: rollouts with gates, drains, removals, budgets and agents that are away; what gc and
-- recover need. drive writes all of it where nothing else is said.

-- What rollouts have made of an allocation, apart from what was promoted; a row from the first that concerned it.
CREATE TABLE rolled (
  alloc_id TEXT PRIMARY KEY,
  may_run INTEGER NOT NULL DEFAULT 0, -- 1 from the release of a start until a stop has succeeded
  post_deploy TEXT,                   -- pending | success | failed; NULL when the job has no such hook
  health_failed INTEGER NOT NULL DEFAULT 0, -- 1: its last gate was not passed; 2: its last action did not end well
  deferred_at INTEGER,                -- since when its agent is waited for; NULL when it is not
  deferred_bundle TEXT,               -- what it gets when its agent is back
  deferred_version TEXT
) STRICT, WITHOUT ROWID;
INSERT INTO rolled (alloc_id, may_run) SELECT alloc_id, 1 FROM promoted;

-- What an operator asked the driver of a rollout for: pause | abort.
ALTER TABLE rollout ADD COLUMN request TEXT;
-- The build that it rolls out: what a newer one made of a job is for the next deploy.
ALTER TABLE rollout ADD COLUMN built_at INTEGER;

-- Every release of a rollout: written when it changes, apart from the rest of its job's state.
CREATE TABLE rollout_flight (
  run_id TEXT NOT NULL,
  alloc_id TEXT NOT NULL,
  job TEXT NOT NULL,
  flight TEXT NOT NULL,               -- JSON of rollout::flight::Flight
  PRIMARY KEY (run_id, alloc_id)
) STRICT, WITHOUT ROWID;

-- The state of a rollout's job has another form now: one that is open cannot be gone on with.
UPDATE rollout SET state = 'aborted' WHERE state IN ('running', 'paused');
DELETE FROM rollout_job;

-- Since when the allocation is no longer wanted; NULL while it is. build writes it, gc counts its days of grace
-- from it.
ALTER TABLE allocation ADD COLUMN removed_at INTEGER;
UPDATE allocation SET removed_at = (SELECT built_at FROM bucket) WHERE removed;

-- What agents have of allocations that this catalog knows nothing of: it comes from a backup. serve writes it.
CREATE TABLE observed_unknown (
  worker_id TEXT NOT NULL,
  alloc_id TEXT NOT NULL,
  observed TEXT NOT NULL,             -- JSON of ObservedAllocation
  PRIMARY KEY (worker_id, alloc_id)
) STRICT, WITHOUT ROWID;

-- Workers whose agents have not said yet what they run since maand recover, which alone writes it.
CREATE TABLE recovering (
  worker_id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
