-- The catalog, version 9: workers that are left alone: what they start after a boot, and in which order; what
-- they put back; those that an operator wants nothing changed on.

-- The job's wave, and whether its manifest says that edited files are put back. drive writes it.
ALTER TABLE desired_allocation ADD COLUMN deployment_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE desired_allocation ADD COLUMN self_heal INTEGER NOT NULL DEFAULT 0;

-- Workers on which nothing is changed for a while. maand agent hold and unhold write it; it ends by itself, and
-- the row goes with the next deploy.
CREATE TABLE worker_hold (
  worker_id TEXT PRIMARY KEY,
  until_ms INTEGER NOT NULL,
  reason TEXT NOT NULL,
  since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
