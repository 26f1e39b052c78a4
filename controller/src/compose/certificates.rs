//! Issues the certificates that are missing, changed or due, and forgets those that nobody wants.

use std::collections::{BTreeMap, BTreeSet};

use shared::{Host, JobName, Name};

use super::Held;
use crate::build::certs::{self, Wanted};
use crate::bundle::store::Batch;
use crate::catalog::certificates::OfJob;
use crate::model::Job;
use crate::model::cert::Issued;
use crate::model::kv::{Namespace, Value};
use crate::secrets::SealingKey;
use crate::tls::ca::Authority;
use crate::tls::leaf::{self, Pair};

/// What becomes of a job's certificates.
#[derive(Debug, Default)]
pub struct Changes {
    /// New ones, with what their key-values are: certificate, sealed key.
    pub issued: Vec<(Issued, String, String)>,
    /// Not wanted any more.
    pub gone: Vec<(JobName, Name, Host)>,
}

impl Changes {
    /// Where there is another certificate than before, or none any more.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.issued.iter().map(|(issued, ..)| &issued.host).chain(self.gone.iter().map(|(.., host)| host))
    }
}

/// What issuing needs; the authority is loaded when the first certificate is due.
pub(super) struct Issuing<'a> {
    pub(super) authority: &'a dyn Fn() -> Result<Authority, Held>,
    pub(super) loaded: Option<Authority>,
    pub(super) key: &'a SealingKey,
    /// Digest of the authority's certificate.
    pub(super) ca: [u8; 32],
    pub(super) ca_not_after_ms: i64,
    pub(super) now_ms: i64,
    pub(super) ttl_days: u32,
    pub(super) renewal_days: u32,
}

/// Brings `there`, the certificates of `job`, to what its spec wants on `hosts`. The PEMs of what was
/// issued go to `pems`.
pub(super) fn bring(
    issuing: &mut Issuing<'_>,
    batch: &mut Batch<'_>,
    job: &Job,
    hosts: &[Host],
    there: &mut OfJob,
    pems: &mut super::values::Pems,
) -> Result<Changes, Held> {
    let wanted = certs::wanted(&job.name, &job.spec.certs, hosts, &issuing.ca);
    let keep: BTreeSet<(&Name, &Host)> =
        wanted.iter().flat_map(|pair| pair.hosts.iter().map(move |host| (&pair.name, host))).collect();
    let gone: Vec<(Name, Host)> = there.keys().filter(|(name, host)| !keep.contains(&(name, host))).cloned().collect();
    let mut changes = Changes::default();
    for (name, host) in gone {
        there.remove(&(name.clone(), host.clone()));
        changes.gone.push((job.name.clone(), name, host));
    }
    let (now_ms, buffer, end) = (issuing.now_ms, issuing.renewal_days, issuing.ca_not_after_ms);
    let due: Vec<&Wanted> = wanted.iter().filter(|pair| certs::is_due(pair, there, now_ms, buffer, end)).collect();
    if due.is_empty() {
        return Ok(changes);
    }
    if issuing.loaded.is_none() {
        issuing.loaded = Some((issuing.authority)()?);
    }
    let Some(authority) = &issuing.loaded else { return Ok(changes) };
    for (wanted, pair) in due.iter().zip(issue_all(authority, &due, now_ms, issuing.ttl_days)?) {
        let crt = (batch.put(pair.crt.as_bytes())?, pair.crt.len() as u64);
        let key = (batch.put_private(issuing.key, pair.key.as_bytes())?, pair.key.len() as u64);
        for host in &wanted.hosts {
            let namespace = Namespace::Allocation(job.name.clone(), host.clone());
            let key_name = format!("certs/{}.key", wanted.name);
            let sealed = issuing.key.seal_value(&namespace.to_string(), &key_name, &pair.key)?;
            let issued = Issued {
                job: job.name.clone(),
                name: wanted.name.clone(),
                host: host.clone(),
                inputs: wanted.inputs,
                common_name: wanted.spec.common_name.clone(),
                not_after_ms: pair.not_after_ms,
                crt,
                key,
            };
            there.insert((wanted.name.clone(), host.clone()), issued.clone());
            let keys = pems.entry(namespace).or_default();
            keys.insert(format!("certs/{}.crt", wanted.name), Value::plain(&pair.crt));
            keys.insert(key_name, Value { text: pair.key.to_string(), secret: true });
            changes.issued.push((issued, pair.crt.clone(), sealed));
        }
    }
    Ok(changes)
}

/// Making keys is the slow part, and needs nothing but a processor.
fn issue_all(authority: &Authority, due: &[&Wanted], now_ms: i64, ttl_days: u32) -> Result<Vec<Pair>, Held> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(due.len().div_ceil(16)).max(1);
    let issue = |part: &[&Wanted]| -> Result<Vec<Pair>, Held> {
        part.iter().map(|pair| Ok(leaf::issue(authority, &pair.spec, &pair.hosts, now_ms, ttl_days)?)).collect()
    };
    let parts: Vec<&[&Wanted]> = due.chunks(due.len().div_ceil(threads)).collect();
    let results: Vec<Result<Vec<Pair>, Held>> = std::thread::scope(|scope| {
        let running: Vec<_> = parts.iter().map(|part| scope.spawn(|| issue(part))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(Err(Held::Thread))).collect()
    });
    let mut pairs = Vec::with_capacity(due.len());
    for result in results {
        pairs.extend(result?);
    }
    Ok(pairs)
}

/// The certificates of one allocation, for its templates.
pub(super) fn read_pems(
    connection: &rusqlite::Connection,
    key: &SealingKey,
    job: &JobName,
    there: &OfJob,
    pems: &mut super::values::Pems,
) -> Result<(), Held> {
    let hosts: BTreeSet<&Host> = there.keys().map(|(_, host)| host).collect();
    for host in hosts {
        let namespace = Namespace::Allocation(job.clone(), host.clone());
        let mut keys: BTreeMap<String, Value> = BTreeMap::new();
        for (name, row) in crate::catalog::kv::rows(connection, &namespace.to_string())? {
            if name.starts_with("certs/") && !row.deleted {
                let value = match row.is_sealed() {
                    true => {
                        Value { text: key.open_value(&row.namespace, &name, &row.value)?.to_string(), secret: true }
                    }
                    false => Value::plain(&row.value),
                };
                keys.insert(name, value);
            }
        }
        // What was issued now is newer.
        keys.extend(pems.remove(&namespace).unwrap_or_default());
        pems.insert(namespace, keys);
    }
    Ok(())
}

/// Stores the files of `pems`, which are in the catalog, once more.
pub(super) fn store(batch: &mut Batch<'_>, key: &SealingKey, pems: &super::values::Pems) -> Result<(), Held> {
    for value in pems.values().flat_map(BTreeMap::values) {
        if value.secret {
            batch.put_private(key, value.text.as_bytes())?;
        } else {
            batch.put(value.text.as_bytes())?;
        }
    }
    Ok(())
}
