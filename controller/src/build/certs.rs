//! Decides which certificates there must be, and which of them are to be issued: what is missing,
//! changed or due (`spec/behaviour.md` 3.5, with the changes of `spec/decisions.md`).

use std::collections::BTreeMap;

use shared::{Host, JobName, Name};

use crate::model::Fingerprint;
use crate::model::cert::{CertSpec, Issued, KeyKind, renewal_due};

/// One pair of key and certificate that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub name: Name,
    /// What it is like.
    pub spec: CertSpec,
    /// Whose addresses it is for: one, or all of the job's for `one`.
    pub hosts: Vec<Host>,
    /// Digest of all that it is made of.
    pub inputs: [u8; 32],
}

/// Every pair that `job` is to have on `hosts`, its allocations that are not removed, under the
/// authority with the digest `ca`.
pub fn wanted(job: &JobName, certs: &BTreeMap<Name, CertSpec>, hosts: &[Host], ca: &[u8; 32]) -> Vec<Wanted> {
    let mut all = Vec::new();
    for (name, spec) in certs {
        let groups: Vec<Vec<Host>> =
            if spec.one { vec![hosts.to_vec()] } else { hosts.iter().map(|host| vec![host.clone()]).collect() };
        for hosts in groups.into_iter().filter(|hosts| !hosts.is_empty()) {
            let inputs = inputs(job, name, spec, &hosts, ca);
            all.push(Wanted { name: name.clone(), spec: spec.clone(), hosts, inputs });
        }
    }
    all
}

fn inputs(job: &JobName, name: &Name, spec: &CertSpec, hosts: &[Host], ca: &[u8; 32]) -> [u8; 32] {
    let mut print = Fingerprint::new("maand-certificate-1");
    print.part(ca);
    let key = match spec.key {
        KeyKind::Ecdsa => "ecdsa",
        KeyKind::Rsa => "rsa",
    };
    let parts = [job.as_str(), name.as_str(), &spec.common_name, key, if spec.pkcs8 { "pkcs8" } else { "own" }];
    parts.into_iter().chain(hosts.iter().map(Host::as_str)).for_each(|part| print.part(part));
    print.finish()
}

/// Whether the pair has to be issued: some host lacks it, has another one, or has one that is due. One
/// that ends with its authority is left: another would end no later.
pub fn is_due(
    wanted: &Wanted,
    there: &BTreeMap<(Name, Host), Issued>,
    now_ms: i64,
    buffer_days: u32,
    ca_not_after_ms: i64,
) -> bool {
    !wanted.hosts.iter().all(|host| {
        there.get(&(wanted.name.clone(), host.clone())).is_some_and(|issued| {
            issued.inputs == wanted.inputs
                && (issued.not_after_ms >= ca_not_after_ms || !renewal_due(issued.not_after_ms, now_ms, buffer_days))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::BlobDigest;

    const DAY: i64 = 86_400_000;

    fn spec(one: bool) -> CertSpec {
        CertSpec { pkcs8: false, one, common_name: "api".into(), key: KeyKind::Ecdsa }
    }

    fn pairs(one: bool, hosts: &[&str], ca: u8) -> Vec<Wanted> {
        let hosts: Vec<Host> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        wanted(&"api".parse().unwrap(), &[("tls".parse().unwrap(), spec(one))].into(), &hosts, &[ca; 32])
    }

    fn issued(pairs: &[Wanted], not_after_ms: i64) -> BTreeMap<(Name, Host), Issued> {
        let blob = (BlobDigest::of(b""), 0);
        let rows = pairs.iter().flat_map(|pair| {
            pair.hosts.iter().map(move |host| {
                let issued = Issued {
                    job: "api".parse().unwrap(),
                    name: pair.name.clone(),
                    host: host.clone(),
                    inputs: pair.inputs,
                    common_name: "api".into(),
                    not_after_ms,
                    crt: blob,
                    key: blob,
                };
                ((pair.name.clone(), host.clone()), issued)
            })
        });
        rows.collect()
    }

    fn due(pairs: &[Wanted], there: &BTreeMap<(Name, Host), Issued>, now_ms: i64) -> Vec<Vec<String>> {
        let due = pairs.iter().filter(|pair| is_due(pair, there, now_ms, 10, 1000 * DAY));
        due.map(|pair| pair.hosts.iter().map(ToString::to_string).collect()).collect()
    }

    #[test]
    fn only_what_is_missing_changed_or_due_is_issued() {
        let (two, three) = (pairs(false, &["a", "b"], 1), pairs(false, &["a", "b", "c"], 1));
        let there = issued(&two, 60 * DAY);
        assert!(due(&two, &there, 0).is_empty());
        assert_eq!(due(&three, &there, 0), [["c"]], "a new worker re-issues nobody else's");
        assert_eq!(due(&two, &there, 50 * DAY).len(), 2, "inside the renewal window");
        assert_eq!(due(&pairs(false, &["a", "b"], 2), &there, 0).len(), 2, "another authority");
        let shared = pairs(true, &["a", "b"], 1);
        let there = issued(&shared, 60 * DAY);
        assert!(due(&shared, &there, 0).is_empty());
        assert_eq!(due(&pairs(true, &["a", "b", "c"], 1), &there, 0), [["a", "b", "c"]], "one for all of them");
        assert!(pairs(true, &[], 1).is_empty());
    }
}
