//! What bundles are made of, as digests: of a job as a whole, and of what is rendered for one allocation.

use std::collections::BTreeMap;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use shared::{BucketId, Entry, Host, WorkerId};

use super::values::{CERTIFICATES, Live};
use crate::build::namespaces::{Derived, PEERS};
use crate::catalog::certificates::OfJob;
use crate::model::cert::Issued;
use crate::model::kv::{Asked, Namespace, Source};
use crate::model::{Allocation, FileKind, Fingerprint, Job, JobFile, Worker};

/// What the templates of a job read when they were last rendered. Key by key: a template is rendered
/// again when a value changes that it read, or a key comes or goes where it asked which there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// By namespace; one that each worker has its own of is there once, for all of them.
    #[serde(default)]
    asked: BTreeMap<String, Asked>,
    /// The version that was promoted.
    current_version: bool,
    /// Digest of the files that all bundles of the job had in common.
    #[serde(default)]
    shipped: String,
}

impl Reads {
    /// Of one run of rendering.
    pub(super) fn new(asked: BTreeMap<Namespace, Asked>, current_version: bool, shipped: &str) -> Self {
        let mut reads = Self { asked: BTreeMap::new(), current_version, shipped: shipped.to_owned() };
        let every = Host::unknown();
        for (namespace, asked) in asked {
            reads.also(namespace.at(&every).to_string(), asked);
        }
        reads
    }

    /// Whether any of it is variables or secrets, which hooks may write.
    pub fn of_hooks(&self) -> bool {
        self.asked.keys().any(|name| matches!(name.parse(), Ok(Namespace::JobVars(_) | Namespace::JobSecrets(_))))
    }

    /// What earlier renderings that were kept read, too.
    pub(super) fn add(&mut self, other: &Self) {
        for (namespace, asked) in &other.asked {
            self.also(namespace.clone(), asked.clone());
        }
        self.current_version |= other.current_version;
    }

    /// Whether bundles whose own files are the same are the same.
    pub(super) fn has_shipped(&self, shipped: &str) -> bool {
        self.shipped == shipped
    }

    fn also(&mut self, namespace: String, asked: Asked) {
        let all = self.asked.entry(namespace).or_default();
        all.values.extend(asked.values);
        all.names |= asked.names;
    }
}

/// What bundles are made of, besides the jobs themselves.
pub(super) struct Made {
    bucket: BucketId,
    workers: BTreeMap<WorkerId, [u8; 32]>,
    derived: Arc<Derived>,
    live: Arc<Live>,
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
        Self { bucket, workers: workers.iter().map(of_worker).collect(), derived, live }
    }

    pub(super) fn bucket(&self) -> BucketId {
        self.bucket
    }

    /// What a job is made of, when its templates read what `reads` says.
    pub(super) fn of<'a>(
        &'a self,
        job: &'a Job,
        certificates: &'a OfJob,
        reads: &'a Reads,
    ) -> Result<MadeOf<'a>, String> {
        let mut print = Fingerprint::new("maand-templates-1");
        for file in job.files.iter().filter(|file| file.kind == FileKind::Template) {
            file_parts(&mut print, file);
        }
        // A read that is not allowed any more is an error, not the value that it once had.
        for demand in job.spec.hooks.values().filter_map(|hook| hook.demand.as_ref()) {
            print.part(demand.job.as_str());
        }
        let mut of_worker = Vec::new();
        for (text, asked) in &reads.asked {
            let Ok(namespace) = text.parse::<Namespace>() else { continue };
            if namespace.is_of_worker() {
                of_worker.push((namespace, asked));
                continue;
            }
            print.part(text);
            let keys = self.live.keys(&namespace)?;
            asked
                .values
                .iter()
                .for_each(|key| value(&mut print, key, keys.get(key).map(|value| value.text.as_bytes())));
            if asked.names {
                names(&mut print, keys.keys().map(String::as_str));
            }
        }
        Ok(MadeOf { made: self, job, certificates, reads, common: print.finish(), of_worker })
    }
}

/// What one job is made of.
pub(super) struct MadeOf<'a> {
    made: &'a Made,
    job: &'a Job,
    certificates: &'a OfJob,
    reads: &'a Reads,
    /// What is the same for all of its allocations.
    common: [u8; 32],
    /// What was asked of namespaces that each worker has its own of.
    of_worker: Vec<(Namespace, &'a Asked)>,
}

impl MadeOf<'_> {
    /// All of its bundles.
    pub(super) fn all(&self, allocations: &[Allocation]) -> [u8; 32] {
        let mut print = Fingerprint::new("maand-job-2");
        for file in self.job.files.iter().filter(|file| file.kind != FileKind::Control) {
            file_parts(&mut print, file);
        }
        print.part(self.made.derived.ca());
        for issued in self.certificates.values() {
            print.part(issued.name.as_str());
            print.part(issued.host.as_str());
            print.part(issued.crt.0.as_bytes());
            print.part(issued.key.0.as_bytes());
        }
        let rendered = self.job.files.iter().any(|file| file.kind == FileKind::Template);
        for allocation in allocations.iter().filter(|a| !a.removed) {
            print.part(allocation.alloc_id.uuid().as_bytes());
            if rendered {
                print.part(self.rendering(allocation));
            }
        }
        print.finish()
    }

    /// What is rendered for one allocation.
    pub(super) fn rendering(&self, allocation: &Allocation) -> [u8; 32] {
        let mut print = Fingerprint::new("maand-rendering-2");
        print.part(self.common);
        print.part(allocation.alloc_id.uuid().as_bytes());
        print.part(&allocation.new_version);
        if self.reads.current_version {
            print.part(allocation.promoted.as_ref().map_or("", |promoted| &promoted.version));
        }
        print.part(self.made.workers.get(&allocation.worker_id).map_or(&[][..], |digest| &digest[..]));
        let host = &allocation.host;
        for (namespace, asked) in &self.of_worker {
            let namespace = namespace.at(host);
            for key in &asked.values {
                self.value(&mut print, &namespace, host, key);
            }
            if asked.names {
                let keys = self.made.derived.keys(&namespace);
                names(&mut print, keys.keys().map(String::as_str));
                if matches!(namespace, Namespace::Allocation(..)) {
                    names(&mut print, self.issued(host).map(|issued| issued.name.as_str()));
                }
            }
        }
        print.finish()
    }

    fn value(&self, print: &mut Fingerprint, namespace: &Namespace, host: &Host, key: &str) {
        let is_allocation = matches!(namespace, Namespace::Allocation(..));
        if let Some(file) = key.strip_prefix(CERTIFICATES).filter(|_| is_allocation) {
            let blob = self.issued(host).find_map(|issued| match file.strip_prefix(issued.name.as_str())? {
                ".crt" => Some(&issued.crt.0),
                ".key" => Some(&issued.key.0),
                _ => None,
            });
            value(print, key, blob.map(|blob| &blob.as_bytes()[..]));
        } else if is_allocation && key == PEERS {
            // A long list, made of where the job is and who asks: the latter is in the digest.
            value(print, key, Some(&self.made.derived.placement_digest(&self.job.name)));
        } else {
            value(print, key, self.made.derived.get(namespace, key).as_ref().map(|value| value.text.as_bytes()));
        }
    }

    /// The certificates that the allocation on `host` has.
    fn issued<'b>(&'b self, host: &'b Host) -> impl Iterator<Item = &'b Issued> + Clone {
        let names = self.job.spec.certs.keys();
        names.filter_map(move |name| self.certificates.get(&(name.clone(), host.clone())))
    }
}

/// Digest of the files that all bundles of a job have in common, and of what is rendered to which path.
pub(super) fn shipped(job: &Job, ca: &Entry) -> String {
    let mut print = Fingerprint::new("maand-shipped-1");
    print.part(ca.blob.as_bytes());
    for file in job.files.iter().filter(|file| file.kind != FileKind::Control) {
        match file.kind {
            FileKind::Template => print.part(file.path.as_str()),
            _ => file_parts(&mut print, file),
        }
    }
    HEXLOWER.encode(&print.finish())
}

fn file_parts(print: &mut Fingerprint, file: &JobFile) {
    print.part(file.path.as_str());
    print.part(file.mode.to_le_bytes());
    print.part(file.blob.as_bytes());
}

/// A key that was read: its value, or that it has none.
fn value(print: &mut Fingerprint, key: &str, value: Option<&[u8]>) {
    print.part(key);
    print.part([u8::from(value.is_some())]);
    print.part(value.unwrap_or_default());
}

/// Which keys there are.
fn names<'a>(print: &mut Fingerprint, names: impl Iterator<Item = &'a str> + Clone) {
    print.part(names.clone().count().to_le_bytes());
    names.for_each(|name| print.part(name));
}
