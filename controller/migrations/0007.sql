-- How far logs are is kept for each worker's newest actions only: an agent names actions as it likes.
ALTER TABLE log_offset RENAME TO log_offset_before;
CREATE TABLE log_offset (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  worker_id TEXT NOT NULL,          -- empty: from before this column was there
  action_id TEXT NOT NULL,
  stream TEXT NOT NULL,
  offset INTEGER NOT NULL,
  UNIQUE (worker_id, action_id, stream)
) STRICT;
INSERT INTO log_offset (worker_id, action_id, stream, offset)
  SELECT '', action_id, stream, offset FROM log_offset_before;
DROP TABLE log_offset_before;
