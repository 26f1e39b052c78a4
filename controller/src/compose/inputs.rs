//! What bundles are made of, as digests: of a job as a whole, and of what is rendered for one allocation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shared::{BucketId, Host, Name, WorkerId};

use super::values::Live;
use crate::build::namespaces::Derived;
use crate::catalog::certificates::OfJob;
use crate::model::cert::{CertSpec, Issued};
use crate::model::kv::{Namespace, Source};
use crate::model::{Allocation, FileKind, Fingerprint, Job, Worker};

/// What the templates of a job read when they were last rendered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// Namespaces, as one of the allocations has them.
    namespaces: BTreeSet<String>,
    /// The version that was promoted.
    current_version: bool,
}

impl Reads {
    /// Of one run of rendering.
    pub(super) fn new(asked: &BTreeSet<Namespace>, current_version: bool) -> Self {
        // Another allocation's namespace stands for this one's: one of a kind is enough.
        let mut kinds = BTreeSet::new();
        let mut namespaces = BTreeSet::new();
        for namespace in asked {
            let kind = match namespace {
                Namespace::Worker(_) => Some("worker"),
                Namespace::Tags(_) => Some("tags"),
                Namespace::Allocation(..) => Some("allocation"),
                _ => None,
            };
            if kind.is_none_or(|kind| kinds.insert(kind)) {
                namespaces.insert(namespace.to_string());
            }
        }
        Self { namespaces, current_version }
    }

    /// What earlier renderings that were kept read, too.
    pub(super) fn add(&mut self, other: &Self) {
        let all: BTreeSet<Namespace> =
            self.namespaces.iter().chain(&other.namespaces).filter_map(|text| text.parse().ok()).collect();
        *self = Self::new(&all, self.current_version || other.current_version);
    }
}

/// Digests, each made once a build.
pub(super) struct Made {
    bucket: BucketId,
    workers: BTreeMap<WorkerId, [u8; 32]>,
    derived: Arc<Derived>,
    live: Arc<Live>,
    namespaces: BTreeMap<Namespace, [u8; 32]>,
}

impl Made {
    pub(super) fn new(bucket: BucketId, workers: &[Worker], derived: Arc<Derived>, live: Arc<Live>) -> Self {
        let of_worker = |worker: &Worker| {
            let mut print = Fingerprint::new("maand-worker-1");
            print.part(worker.worker_id.uuid().as_bytes());
            print.part(worker.host.as_str());
            worker.labels.iter().for_each(|label| print.part(label.as_str()));
            (worker.worker_id, print.finish())
        };
        Self { bucket, workers: workers.iter().map(of_worker).collect(), derived, live, namespaces: BTreeMap::new() }
    }

    pub(super) fn bucket(&self) -> BucketId {
        self.bucket
    }

    /// Everything that the bundles of a job are made of.
    pub(super) fn job(
        &mut self,
        job: &Job,
        allocations: &[Allocation],
        certificates: &OfJob,
        reads: &Reads,
    ) -> Result<[u8; 32], String> {
        let mut print = Fingerprint::new("maand-job-1");
        for file in job.files.iter().filter(|file| file.kind != FileKind::Control) {
            print.part(file.path.as_str());
            print.part(file.mode.to_le_bytes());
            print.part(file.blob.as_bytes());
        }
        print.part(self.derived.ca());
        for issued in certificates.values() {
            print.part(issued.name.as_str());
            print.part(issued.host.as_str());
            print.part(issued.crt.0.as_bytes());
            print.part(issued.key.0.as_bytes());
        }
        let rendered = job.files.iter().any(|file| file.kind == FileKind::Template);
        for allocation in allocations.iter().filter(|a| !a.removed) {
            print.part(allocation.alloc_id.uuid().as_bytes());
            if rendered {
                print.part(self.rendering(job, allocation, reads, certificates)?);
            }
        }
        Ok(print.finish())
    }

    /// Everything that is rendered for one allocation is made of.
    pub(super) fn rendering(
        &mut self,
        job: &Job,
        allocation: &Allocation,
        reads: &Reads,
        certificates: &OfJob,
    ) -> Result<[u8; 32], String> {
        let mut print = Fingerprint::new("maand-rendering-1");
        for file in job.files.iter().filter(|file| file.kind == FileKind::Template) {
            print.part(file.path.as_str());
            print.part(file.mode.to_le_bytes());
            print.part(file.blob.as_bytes());
        }
        print.part(allocation.alloc_id.uuid().as_bytes());
        print.part(&allocation.new_version);
        if reads.current_version {
            print.part(allocation.promoted.as_ref().map_or("", |promoted| &promoted.version));
        }
        print.part(self.workers.get(&allocation.worker_id).map_or(&[][..], |digest| &digest[..]));
        let names = &job.spec.certs;
        for text in &reads.namespaces {
            let Ok(namespace) = text.parse::<Namespace>() else { continue };
            print.part(text_kind(&namespace));
            match namespace.at(&allocation.host) {
                Namespace::Allocation(job, host) => {
                    // Not its keys: with the list of its peers they are long, and follow from this.
                    print.part(self.derived.placement_digest(&job));
                    print.part(host.as_str());
                    let own = job_certificates(certificates, names, &host);
                    for issued in own {
                        print.part(issued.crt.0.as_bytes());
                        print.part(issued.key.0.as_bytes());
                    }
                }
                namespace => print.part(self.namespace(&namespace)?),
            }
        }
        Ok(print.finish())
    }

    fn namespace(&mut self, namespace: &Namespace) -> Result<[u8; 32], String> {
        if let Some(digest) = self.namespaces.get(namespace) {
            return Ok(*digest);
        }
        let mut print = Fingerprint::new("maand-namespace-1");
        for (key, value) in self.live.keys(namespace)?.iter() {
            print.part(key);
            print.part(&value.text);
        }
        let digest = print.finish();
        self.namespaces.insert(namespace.clone(), digest);
        Ok(digest)
    }
}

fn job_certificates<'a>(
    certificates: &'a OfJob,
    names: &'a BTreeMap<Name, CertSpec>,
    host: &'a Host,
) -> impl Iterator<Item = &'a Issued> {
    names.keys().filter_map(move |name| certificates.get(&(name.clone(), host.clone())))
}

fn text_kind(namespace: &Namespace) -> String {
    match namespace {
        Namespace::Worker(_) => "maand/worker/*".to_owned(),
        Namespace::Tags(_) => "maand/worker/*/tags".to_owned(),
        Namespace::Allocation(job, _) => format!("maand/job/{job}/worker/*"),
        other => other.to_string(),
    }
}
