//! Edge: bundles' lists in the catalog.

use rusqlite::{Connection, OptionalExtension, params};
use shared::{Bundle, BundleDigest};

use super::{During, Error, Result};

/// The stored form of a list.
pub fn pack(bundle: &Bundle) -> Result<Vec<u8>> {
    let damaged = |why: String| Error::Damaged { what: "a bundle's list", why };
    let json = serde_json::to_vec(bundle).map_err(|error| damaged(error.to_string()))?;
    zstd::encode_all(&json[..], 3).map_err(|error| damaged(error.to_string()))
}

/// Stores a list, packed, if it is not there.
pub fn put(connection: &Connection, digest: &BundleDigest, packed: &[u8]) -> Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO bundle (digest, entries) VALUES (?1, ?2)")
        .and_then(|mut insert| insert.execute(params![digest.to_string(), packed]))
        .during("storing a bundle's list")?;
    Ok(())
}

/// Whether the list is there.
pub fn contains(connection: &Connection, digest: &BundleDigest) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM bundle WHERE digest = ?1")
        .and_then(|mut select| select.exists([digest.to_string()]))
        .during("looking for a bundle's list")
}

/// A bundle's list, checked against its digest.
pub fn get(connection: &Connection, digest: &BundleDigest) -> Result<Option<Bundle>> {
    let packed: Option<Vec<u8>> = connection
        .prepare_cached("SELECT entries FROM bundle WHERE digest = ?1")
        .and_then(|mut select| select.query_row([digest.to_string()], |row| row.get(0)).optional())
        .during("reading a bundle's list")?;
    let Some(packed) = packed else { return Ok(None) };
    let damaged = |why: String| Error::Damaged { what: "a bundle's list", why };
    let json = zstd::decode_all(&packed[..]).map_err(|error| damaged(error.to_string()))?;
    let bundle: Bundle = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
    bundle.checked(*digest).map(Some).map_err(|error| damaged(error.to_string()))
}

/// Every list that something refers to. What an open rollout will ask for is in its plan alone, so while one
/// is open all of them count.
const REFERENCED: &str = "SELECT bundle FROM allocation WHERE bundle IS NOT NULL \
     UNION SELECT bundle FROM desired_allocation WHERE bundle IS NOT NULL UNION SELECT bundle FROM promoted \
     UNION SELECT deferred_bundle FROM rolled WHERE deferred_bundle IS NOT NULL \
     UNION SELECT value FROM desired_worker, json_each(desired_worker.prefetch) \
     UNION SELECT digest FROM bundle WHERE EXISTS (SELECT 1 FROM rollout WHERE state IN ('running', 'paused'))";

/// Forgets the lists that nothing refers to any more; how many.
pub fn forget_unreferenced(connection: &Connection) -> Result<usize> {
    connection
        .execute(&format!("DELETE FROM bundle WHERE digest NOT IN ({REFERENCED})"), [])
        .during("forgetting old bundles")
}

/// The lists that something refers to, and how many others there are.
pub fn referenced(connection: &Connection) -> Result<(Vec<BundleDigest>, usize)> {
    let mut select = connection
        .prepare(&format!("SELECT digest, digest IN ({REFERENCED}) FROM bundle"))
        .during("listing bundles")?;
    let mut rows = select.query([]).during("listing bundles")?;
    let (mut found, mut others) = (Vec::new(), 0);
    while let Some(row) = rows.next().during("listing bundles")? {
        let (digest, kept): (String, bool) =
            (row.get(0).during("listing bundles")?, row.get(1).during("listing bundles")?);
        if kept {
            found.push(super::parsed("bundle.digest", &digest)?);
        } else {
            others += 1;
        }
    }
    Ok((found, others))
}
