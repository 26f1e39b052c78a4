-- The catalog, version 8: the agents' authority can be replaced. The pairs are files of secrets/: number 1 is agent-ca.*,
-- number n agent-ca-n.*. This row decides which of them count; maand agent rotate-ca writes it, after a file is made
-- and before one is taken away.

CREATE TABLE agent_authority (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  current INTEGER NOT NULL,         -- signs what the controller shows; join tokens pin it
  other INTEGER,                    -- trusted beside it while it is being replaced
  issues INTEGER NOT NULL,          -- signs agents' certificates: one of the two
  last INTEGER NOT NULL,            -- the highest number that was ever used
  began_at INTEGER
) STRICT;
INSERT INTO agent_authority (id, current, other, issues, last) VALUES (1, 1, NULL, 1, 1);

-- Which authority signed it.
ALTER TABLE agent_certificate ADD COLUMN authority INTEGER NOT NULL DEFAULT 1;

-- Which authorities a worker's agent says that it trusts. serve writes it.
CREATE TABLE agent_trust (
  worker_id TEXT PRIMARY KEY,
  pins TEXT NOT NULL                -- sha256 of their public keys, hexadecimal, commas between
) STRICT, WITHOUT ROWID;
