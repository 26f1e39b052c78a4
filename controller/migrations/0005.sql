-- The catalog, version 5: agents' certificates over years, and what is wrong with identities. serve writes it; an
-- operator's commands end certificates and alarms.

-- Counts the certificates of a worker: a renewal moves it.
ALTER TABLE agent_certificate ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;
-- Counts the worker's join tokens that were used: what a later one brought in takes the place of all before it.
ALTER TABLE agent_certificate ADD COLUMN enrolment INTEGER NOT NULL DEFAULT 1;
-- sha256 of its key's SubjectPublicKeyInfo, and the certificate: the same key asked for again gets the same one.
ALTER TABLE agent_certificate ADD COLUMN spki BLOB;
ALTER TABLE agent_certificate ADD COLUMN pem TEXT;
-- When an agent first showed it; with that its older ones ended.
ALTER TABLE agent_certificate ADD COLUMN first_used_at INTEGER;
CREATE INDEX agent_certificate_revoked ON agent_certificate (revoked_at) WHERE revoked_at IS NOT NULL;

-- What an operator has to look at: one row for each kind of trouble of a worker's identity.
CREATE TABLE agent_alarm (
  worker_id TEXT NOT NULL,
  kind TEXT NOT NULL,               -- admission::alarm::Kind
  first_at INTEGER NOT NULL,
  last_at INTEGER NOT NULL,
  count INTEGER NOT NULL,
  detail TEXT NOT NULL,             -- for people
  PRIMARY KEY (worker_id, kind)
) STRICT, WITHOUT ROWID;
