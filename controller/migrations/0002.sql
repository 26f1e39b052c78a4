-- The catalog, version 2: what a build made things of, so that it makes again only what changed.
-- build writes it, but for the last column.

-- Digest of what the allocation's templates were rendered from; NULL without templates.
ALTER TABLE allocation ADD COLUMN render_inputs BLOB;

-- Digest of everything that the job's bundles were made of, and the namespaces that its templates read.
ALTER TABLE job ADD COLUMN inputs BLOB;
ALTER TABLE job ADD COLUMN reads TEXT NOT NULL DEFAULT '[]';

-- 1: the value is not here but follows from the rows of allocation; `value` is a digest of it.
ALTER TABLE key_value ADD COLUMN derived INTEGER NOT NULL DEFAULT 0;

-- Digest of what a group of namespaces was made of at the last build.
CREATE TABLE kv_scope (
  scope TEXT PRIMARY KEY,           -- a namespace, or "allocations of <job>"
  digest BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Certificates of jobs; their PEMs are key-values and blobs.
CREATE TABLE certificate (
  job TEXT NOT NULL,
  name TEXT NOT NULL,
  host TEXT NOT NULL,
  inputs BLOB NOT NULL,             -- digest of what it is made of
  common_name TEXT NOT NULL,
  not_after INTEGER NOT NULL,
  crt TEXT NOT NULL,                -- blob
  crt_len INTEGER NOT NULL,
  key TEXT NOT NULL,                -- private blob
  key_len INTEGER NOT NULL,
  PRIMARY KEY (job, name, host)
) STRICT, WITHOUT ROWID;

-- When old versions of key-values were last purged.
ALTER TABLE bucket ADD COLUMN kv_purged_at INTEGER NOT NULL DEFAULT 0;

-- How many allocations the last build placed: removed ones do not count, so that nobody else changes it.
ALTER TABLE bucket ADD COLUMN allocations INTEGER NOT NULL DEFAULT 0;

-- Permission bits of the job's directory on the worker, when its manifest sets them. drive writes it.
ALTER TABLE desired_allocation ADD COLUMN dir_mode INTEGER;
