-- The catalog, version 4: operations for agents, and what they say of health.

-- What the agent asks of the job while it runs (JSON of HealthSpec); NULL: nothing. drive writes it.
ALTER TABLE desired_allocation ADD COLUMN health TEXT;

-- Ad-hoc work for one worker each. Whoever asks for it (drive) writes it; a row that is not closed is in
-- its worker's desired state, so every change of it moves the worker's generation.
CREATE TABLE operation (
  operation_id TEXT PRIMARY KEY,
  worker_id TEXT NOT NULL,
  position INTEGER NOT NULL,        -- ascending over the whole table: their order in the desired state
  asked TEXT NOT NULL,              -- JSON of Operation
  state TEXT NOT NULL,              -- open | cancelled | closed
  created_at INTEGER NOT NULL,
  not_after INTEGER NOT NULL        -- too late to start; who follows it closes it
) STRICT, WITHOUT ROWID;
CREATE INDEX operation_open ON operation (worker_id, position) WHERE state <> 'closed';

-- What agents say of operations of theirs. serve writes it.
CREATE TABLE operation_result (
  operation_id TEXT PRIMARY KEY,
  observed TEXT NOT NULL,           -- JSON of ObservedOperation; final once it has an outcome
  reported_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Their output, as it comes; whoever follows them reads on from the last number. serve writes it, and it
-- goes when the operation is closed: the logs have it too.
CREATE TABLE operation_output (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  operation_id TEXT NOT NULL,
  stream TEXT NOT NULL,             -- stdout | stderr
  omitted INTEGER NOT NULL,         -- bytes that were left out before it
  bytes BLOB NOT NULL
) STRICT;
CREATE INDEX operation_output_of ON operation_output (operation_id, number);
