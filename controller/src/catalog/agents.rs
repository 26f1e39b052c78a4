//! Edge: join tokens and agents' certificates.

use rusqlite::{Connection, OptionalExtension, params};
use shared::{Host, WorkerId};

use super::identities::{self, NewCertificate};
use super::{During, Result, parsed};

/// Wrong proofs after which a token is dead.
const MAX_FAILURES: u32 = 5;

/// Records a token for `worker`.
pub fn create_token(
    connection: &Connection,
    id: &str,
    worker: WorkerId,
    public_key: &[u8],
    now_ms: i64,
    expires_ms: i64,
) -> Result<()> {
    connection
        .execute(
            "INSERT INTO join_token (token_id, worker_id, public_key, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, worker.to_string(), public_key, now_ms, expires_ms],
        )
        .during("recording a join token")?;
    // Tokens that nobody used are of no interest for long.
    connection
        .execute("DELETE FROM join_token WHERE expires_at < ?1", [now_ms - 7 * 86_400_000])
        .during("forgetting old join tokens")?;
    Ok(())
}

/// A token's row.
#[derive(Debug, Clone)]
pub struct Token {
    /// For whom.
    pub worker: WorkerId,
    /// The worker's name; `None` when it is in the catalog no more.
    pub host: Option<Host>,
    /// Ed25519, of the token's secret.
    pub public_key: Vec<u8>,
    /// When it ends.
    pub expires_ms: i64,
    /// Wrong proofs so far.
    pub failures: u32,
    /// What it was redeemed with, and the certificate that was given.
    pub redeemed: Option<(Vec<u8>, String)>,
}

impl Token {
    /// Whether wrong proofs have killed it.
    pub fn is_dead(&self) -> bool {
        self.failures >= MAX_FAILURES
    }
}

/// Looks a token up.
pub fn token(connection: &Connection, id: &str) -> Result<Option<Token>> {
    type Raw = (String, Option<String>, Vec<u8>, i64, u32, Option<Vec<u8>>, Option<String>);
    let row: Option<Raw> = connection
        .query_row(
            "SELECT t.worker_id, w.host, t.public_key, t.expires_at, t.failures, t.redeemed_spki, t.certificate \
             FROM join_token t LEFT JOIN worker w USING (worker_id) WHERE t.token_id = ?1",
            [id],
            |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?)),
        )
        .optional()
        .during("looking up a join token")?;
    let Some((worker, host, public_key, expires_ms, failures, spki, certificate)) = row else { return Ok(None) };
    Ok(Some(Token {
        worker: parsed("join_token.worker_id", &worker)?,
        host: host.map(|host| parsed("worker.host", &host)).transpose()?,
        public_key,
        expires_ms,
        failures,
        redeemed: spki.zip(certificate),
    }))
}

/// Counts a wrong proof.
pub fn count_failure(connection: &Connection, id: &str) -> Result<()> {
    connection
        .execute("UPDATE join_token SET failures = failures + 1 WHERE token_id = ?1", [id])
        .during("counting a wrong proof")?;
    Ok(())
}

/// Marks the token used, with the key (sha256 of its SubjectPublicKeyInfo) and the certificate.
pub fn redeem(
    connection: &Connection,
    id: &str,
    worker: WorkerId,
    spki: &[u8],
    certificate: &NewCertificate<'_>,
    now_ms: i64,
) -> Result<()> {
    connection
        .execute(
            "UPDATE join_token SET redeemed_at = ?2, redeemed_spki = ?3, certificate = ?4 WHERE token_id = ?1",
            params![id, now_ms, spki, certificate.pem],
        )
        .during("redeeming a join token")?;
    identities::insert(connection, worker, None, certificate, now_ms)?;
    Ok(())
}

/// Ends all of a worker's certificates, and its join tokens that nobody has used; how many certificates.
pub fn revoke(connection: &Connection, worker: WorkerId, reason: &str, now_ms: i64) -> Result<usize> {
    let id = worker.to_string();
    connection
        .execute("DELETE FROM join_token WHERE worker_id = ?1 AND redeemed_at IS NULL", [&id])
        .during("ending a worker's join tokens")?;
    connection
        .execute(
            "UPDATE agent_certificate SET revoked_at = ?2, revoked_reason = ?3 WHERE worker_id = ?1 AND revoked_at IS NULL",
            params![id, now_ms, reason],
        )
        .during("revoking a worker's certificates")
}

/// Whether a worker has a good certificate.
pub fn is_joined(connection: &Connection, worker: WorkerId) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM agent_certificate WHERE worker_id = ?1 AND revoked_at IS NULL")
        .and_then(|mut select| select.exists([worker.to_string()]))
        .during("looking for an agent's certificate")
}

/// End of each worker's newest good certificate, milliseconds since 1970 UTC: who has joined.
pub fn joined(connection: &Connection) -> Result<std::collections::BTreeMap<WorkerId, i64>> {
    let mut select = connection
        .prepare_cached(
            "SELECT worker_id, max(not_after) FROM agent_certificate WHERE revoked_at IS NULL GROUP BY worker_id",
        )
        .during("listing agents' certificates")?;
    let mut rows = select.query([]).during("listing agents' certificates")?;
    let mut found = std::collections::BTreeMap::new();
    while let Some(row) = rows.next().during("listing agents' certificates")? {
        let worker: String = row.get(0).during("listing agents' certificates")?;
        found.insert(
            parsed("agent_certificate.worker_id", &worker)?,
            row.get(1).during("listing agents' certificates")?,
        );
    }
    Ok(found)
}
