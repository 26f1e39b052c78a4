//! Edge: certificates of jobs, as rows.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};
use shared::{Host, JobName, Name};

use super::kv::SEALED;
use super::{During, Error, Result, parsed};
use crate::model::cert::Issued;
use crate::model::kv::Namespace;

/// Certificates of one job, by name and host.
pub type OfJob = BTreeMap<(Name, Host), Issued>;

const COLUMNS: &str = "job, name, host, inputs, common_name, not_after, crt, crt_len, key, key_len";

/// Every certificate, by job.
pub fn all(connection: &Connection) -> Result<BTreeMap<JobName, OfJob>> {
    let mut found: BTreeMap<JobName, OfJob> = BTreeMap::new();
    let mut select = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM certificate ORDER BY job, name, host"))
        .during("reading certificates")?;
    let mut rows = select.query([]).during("reading certificates")?;
    while let Some(row) = rows.next().during("reading certificates")? {
        let issued = issued(row)?;
        found.entry(issued.job.clone()).or_default().insert((issued.name.clone(), issued.host.clone()), issued);
    }
    Ok(found)
}

/// Those of one job.
pub fn of(connection: &Connection, job: &JobName) -> Result<OfJob> {
    let mut select = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM certificate WHERE job = ?1 ORDER BY name, host"))
        .during("reading certificates")?;
    let mut rows = select.query([job.as_str()]).during("reading certificates")?;
    let mut found = OfJob::new();
    while let Some(row) = rows.next().during("reading certificates")? {
        let issued = issued(row)?;
        found.insert((issued.name.clone(), issued.host.clone()), issued);
    }
    Ok(found)
}

/// The keys of all of them as they are stored, sealed, older ones that are kept included: namespace, key, stored form.
pub fn sealed_keys(connection: &Connection) -> Result<Vec<(String, String, String)>> {
    let during = "reading the keys of certificates";
    let mut select = connection.prepare_cached("SELECT job, host, name FROM certificate").during(during)?;
    let mut rows = select.query([]).during(during)?;
    let mut versions = connection
        .prepare_cached("SELECT DISTINCT value FROM key_value WHERE namespace = ?1 AND key = ?2 AND deleted = 0")
        .during(during)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during(during)? {
        let text = |at: usize| -> Result<String> { row.get(at).during(during) };
        let job: JobName = parsed("certificate.job", &text(0)?)?;
        let host: Host = parsed("certificate.host", &text(1)?)?;
        let (namespace, key) = (Namespace::Allocation(job, host).to_string(), format!("certs/{}.key", text(2)?));
        let stored = versions.query_map([&namespace, &key], |row| row.get::<_, String>(0)).during(during)?;
        for stored in stored {
            let stored = stored.during(during)?;
            found.extend(stored.starts_with(SEALED).then(|| (namespace.clone(), key.clone(), stored)));
        }
    }
    Ok(found)
}

fn issued(row: &Row<'_>) -> Result<Issued> {
    let text = |at: usize| -> Result<String> { row.get(at).during("reading a certificate") };
    let number = |at: usize| -> Result<u64> { row.get(at).during("reading a certificate") };
    let inputs: Vec<u8> = row.get(3).during("reading a certificate")?;
    Ok(Issued {
        job: parsed("certificate.job", &text(0)?)?,
        name: parsed("certificate.name", &text(1)?)?,
        host: parsed("certificate.host", &text(2)?)?,
        inputs: inputs
            .try_into()
            .map_err(|_| Error::Damaged { what: "certificate.inputs", why: "it has not 32 bytes".to_owned() })?,
        common_name: text(4)?,
        not_after_ms: row.get(5).during("reading a certificate")?,
        crt: (parsed("certificate.crt", &text(6)?)?, number(7)?),
        key: (parsed("certificate.key", &text(8)?)?, number(9)?),
    })
}

/// Writes one.
pub fn put(connection: &Connection, issued: &Issued) -> Result<()> {
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO certificate ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
        ))
        .and_then(|mut insert| {
            insert.execute(params![
                issued.job.as_str(),
                issued.name.as_str(),
                issued.host.as_str(),
                issued.inputs.as_slice(),
                issued.common_name,
                issued.not_after_ms,
                issued.crt.0.to_string(),
                issued.crt.1,
                issued.key.0.to_string(),
                issued.key.1
            ])
        })
        .during("recording a certificate")?;
    Ok(())
}

/// Forgets one.
pub fn delete(connection: &Connection, job: &JobName, name: &Name, host: &Host) -> Result<()> {
    connection
        .prepare_cached("DELETE FROM certificate WHERE job = ?1 AND name = ?2 AND host = ?3")
        .and_then(|mut delete| delete.execute([job.as_str(), name.as_str(), host.as_str()]))
        .during("forgetting a certificate")?;
    Ok(())
}
