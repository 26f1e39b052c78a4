//! Key-values: namespaces, who may do what with them (`spec/behaviour.md` 3.4 and 6.3), and what is
//! in them. Templates and hooks share one rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use shared::{Host, JobName};

use super::HookEvent;

/// The key of `maand/job/<job>` that hooks may set.
pub const ROLLOUT_ORDER: &str = "rollout_order";
/// Its older name.
pub const DEPLOY_ORDER: &str = "deploy_order";

/// A namespace. There are no others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// `maand/bucket`: build's.
    Bucket,
    /// `vars/bucket`: bucket.conf.
    BucketVars,
    /// `maand/worker`: build's, over all workers.
    Workers,
    /// `maand/worker/<host>`: build's.
    Worker(Host),
    /// `maand/worker/<host>/tags`: workers.json.
    Tags(Host),
    /// `maand/job/<job>`: build's, but for the order of its rollout.
    Job(JobName),
    /// `vars/bucket/job/<job>`: bucket.jobs*.conf.
    JobOverrides(JobName),
    /// `vars/job/<job>`: vars.toml, and hooks.
    JobVars(JobName),
    /// `secrets/job/<job>`: hooks alone; sealed.
    JobSecrets(JobName),
    /// `maand/job/<job>/worker/<host>`: build's, certificates included.
    Allocation(JobName, Host),
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket => f.write_str("maand/bucket"),
            Self::BucketVars => f.write_str("vars/bucket"),
            Self::Workers => f.write_str("maand/worker"),
            Self::Worker(host) => write!(f, "maand/worker/{host}"),
            Self::Tags(host) => write!(f, "maand/worker/{host}/tags"),
            Self::Job(job) => write!(f, "maand/job/{job}"),
            Self::JobOverrides(job) => write!(f, "vars/bucket/job/{job}"),
            Self::JobVars(job) => write!(f, "vars/job/{job}"),
            Self::JobSecrets(job) => write!(f, "secrets/job/{job}"),
            Self::Allocation(job, host) => write!(f, "maand/job/{job}/worker/{host}"),
        }
    }
}

/// Not a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoNamespace;

impl FromStr for Namespace {
    type Err = NoNamespace;

    fn from_str(text: &str) -> Result<Self, NoNamespace> {
        let job = |name: &str| name.parse::<JobName>().map_err(|_| NoNamespace);
        let host = |name: &str| name.parse::<Host>().map_err(|_| NoNamespace);
        match text.split('/').collect::<Vec<_>>()[..] {
            ["maand", "bucket"] => Ok(Self::Bucket),
            ["vars", "bucket"] => Ok(Self::BucketVars),
            ["maand", "worker"] => Ok(Self::Workers),
            ["maand", "worker", name] => host(name).map(Self::Worker),
            ["maand", "worker", name, "tags"] => host(name).map(Self::Tags),
            ["maand", "job", name] => job(name).map(Self::Job),
            ["vars", "bucket", "job", name] => job(name).map(Self::JobOverrides),
            ["vars", "job", name] => job(name).map(Self::JobVars),
            ["secrets", "job", name] => job(name).map(Self::JobSecrets),
            ["maand", "job", name, "worker", at] => Ok(Self::Allocation(job(name)?, host(at)?)),
            _ => Err(NoNamespace),
        }
    }
}

impl Namespace {
    /// The job that it is of, if it is of one.
    pub fn job(&self) -> Option<&JobName> {
        match self {
            Self::Job(job) | Self::JobOverrides(job) | Self::JobVars(job) | Self::JobSecrets(job) => Some(job),
            Self::Allocation(job, _) => Some(job),
            _ => None,
        }
    }

    /// Whether every worker has its own.
    pub fn is_of_worker(&self) -> bool {
        matches!(self, Self::Worker(_) | Self::Tags(_) | Self::Allocation(..))
    }

    /// The same namespace as another worker has it: what one allocation read stands for what its
    /// siblings read.
    pub fn at(&self, host: &Host) -> Self {
        match self {
            Self::Worker(_) => Self::Worker(host.clone()),
            Self::Tags(_) => Self::Tags(host.clone()),
            Self::Allocation(job, _) => Self::Allocation(job.clone(), host.clone()),
            other => other.clone(),
        }
    }
}

/// What the templates and hooks of one allocation may do.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// Its job.
    pub job: &'a JobName,
    /// Its worker.
    pub host: &'a Host,
    /// Jobs that a hook of its job demands something of.
    pub upstream: &'a BTreeSet<JobName>,
}

/// What is to be done to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A variable is written.
    Put,
    /// A variable is deleted.
    Delete,
    /// A secret is written or deleted.
    Secret,
}

impl Access<'_> {
    /// Everything that may be read.
    pub fn readable(&self) -> Vec<Namespace> {
        let (job, host) = (self.job, self.host);
        let mut all = vec![
            Namespace::Bucket,
            Namespace::BucketVars,
            Namespace::Workers,
            Namespace::Worker(host.clone()),
            Namespace::Tags(host.clone()),
            Namespace::Job(job.clone()),
            Namespace::JobOverrides(job.clone()),
            Namespace::JobVars(job.clone()),
            Namespace::JobSecrets(job.clone()),
            Namespace::Allocation(job.clone(), host.clone()),
        ];
        for upstream in self.upstream {
            all.push(Namespace::Job(upstream.clone()));
            all.push(Namespace::JobVars(upstream.clone()));
            all.push(Namespace::JobSecrets(upstream.clone()));
        }
        all
    }

    /// Whether a template or a hook may read `namespace`. What a hook demands, its manifest says: that is what
    /// opens the secrets of another job.
    pub fn may_read(&self, namespace: &Namespace) -> bool {
        match namespace {
            Namespace::Bucket | Namespace::BucketVars | Namespace::Workers => true,
            Namespace::Worker(host) | Namespace::Tags(host) => host == self.host,
            Namespace::Job(job) | Namespace::JobVars(job) | Namespace::JobSecrets(job) => {
                job == self.job || self.upstream.contains(job)
            }
            Namespace::JobOverrides(job) => job == self.job,
            Namespace::Allocation(job, host) => job == self.job && host == self.host,
        }
    }

    /// Whether a hook may do `change` to `key` at `event`.
    pub fn may_write(&self, namespace: &Namespace, key: &str, change: Change, event: HookEvent) -> bool {
        if event == HookEvent::HealthCheck {
            return false;
        }
        match (namespace, change) {
            (Namespace::JobVars(job), Change::Put | Change::Delete) => job == self.job,
            (Namespace::JobSecrets(job), Change::Secret) => job == self.job,
            (Namespace::Job(job), Change::Put) => {
                job == self.job
                    && (key == ROLLOUT_ORDER || key == DEPLOY_ORDER)
                    && matches!(event, HookEvent::PreDeploy | HookEvent::Cli)
            }
            _ => false,
        }
    }
}

/// A value, and whether it is to be kept from everybody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// In clear.
    pub text: String,
    /// What is made of it is private.
    pub secret: bool,
}

impl Value {
    /// One that anybody may see.
    pub fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), secret: false }
    }
}

/// The keys of a namespace.
pub type Keys = BTreeMap<String, Value>;

/// Where values come from.
pub trait Source: Send + Sync {
    /// The live keys of a namespace; a namespace without any is an empty map. Failing to read them is
    /// an error that says why.
    fn keys(&self, namespace: &Namespace) -> Result<Arc<Keys>, String>;

    /// One live value, `None` when there is none: cheaper than all of them, where that can be.
    fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Value>, String> {
        Ok(self.keys(namespace)?.get(key).cloned())
    }
}

/// What a template asks. Where it is rendered in another process, each is a question to a [`Source`] of this one.
pub trait Lookup: Send + Sync {
    /// The live keys of a namespace. Failing to read them is an error that says why.
    fn names(&self, namespace: &Namespace) -> Result<Vec<String>, String>;

    /// One live value, `None` when there is none.
    fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Value>, String>;
}

impl fmt::Debug for dyn Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

impl fmt::Debug for dyn Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// What was asked of a namespace: what is made of the answers changes with them alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Single values, of keys that are there and of keys that are not.
    pub values: BTreeSet<String>,
    /// Which keys there are.
    pub names: bool,
}

/// A source that remembers what it was asked for.
pub struct Remembering {
    source: Arc<dyn Source>,
    asked: Mutex<BTreeMap<Namespace, Asked>>,
    /// What all workers have in common is asked for again and again.
    given: Mutex<BTreeMap<Namespace, Arc<Keys>>>,
}

impl fmt::Debug for Remembering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values stay out of logs.
        f.debug_struct("Remembering").field("asked", &*lock(&self.asked)).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Remembering {
    /// Nothing asked for yet.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self { source, asked: Mutex::default(), given: Mutex::default() }
    }

    /// What was asked for.
    pub fn asked(&self) -> BTreeMap<Namespace, Asked> {
        lock(&self.asked).clone()
    }

    fn common(&self, namespace: &Namespace) -> Result<Arc<Keys>, String> {
        if let Some(keys) = lock(&self.given).get(namespace) {
            return Ok(keys.clone());
        }
        let keys = self.source.keys(namespace)?;
        lock(&self.given).insert(namespace.clone(), keys.clone());
        Ok(keys)
    }
}

impl Source for Remembering {
    fn keys(&self, namespace: &Namespace) -> Result<Arc<Keys>, String> {
        lock(&self.asked).entry(namespace.clone()).or_default().names = true;
        if namespace.is_of_worker() { self.source.keys(namespace) } else { self.common(namespace) }
    }

    fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Value>, String> {
        let mut all = lock(&self.asked);
        let asked = all.entry(namespace.clone()).or_default();
        if !asked.values.contains(key) {
            asked.values.insert(key.to_owned());
        }
        drop(all);
        if namespace.is_of_worker() {
            return self.source.get(namespace, key);
        }
        Ok(self.common(namespace)?.get(key).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_of_who_may_do_what() {
        let (job, host): (JobName, Host) = ("api".parse().unwrap(), "w1".parse().unwrap());
        let upstream = ["db".parse().unwrap()].into();
        let access = Access { job: &job, host: &host, upstream: &upstream };
        let read = |namespace: &str| namespace.parse().is_ok_and(|namespace: Namespace| access.may_read(&namespace));
        for yes in [
            "maand/bucket",
            "vars/bucket",
            "maand/worker",
            "maand/worker/w1",
            "maand/worker/w1/tags",
            "maand/job/api",
            "vars/bucket/job/api",
            "vars/job/api",
            "secrets/job/api",
            "maand/job/api/worker/w1",
            "maand/job/db",
            "vars/job/db",
            "secrets/job/db",
        ] {
            assert!(read(yes), "{yes}");
            assert!(access.readable().contains(&yes.parse().unwrap()), "{yes}");
            assert_eq!(yes.parse::<Namespace>().unwrap().to_string(), yes);
        }
        for no in [
            "maand/worker/w2",
            "maand/worker/w2/tags",
            "maand/job/api/worker/w2",
            "maand/job/db/worker/w1",
            "vars/bucket/job/db",
            "vars/job/other",
            "secrets/job/other",
            "maand/job/other",
            "nonsense",
            "maand/job/../x",
        ] {
            assert!(!read(no), "{no}");
        }
        use Change::{Delete, Put, Secret};
        use HookEvent::{Cli, HealthCheck, PostDeploy, PreDeploy};
        let write = |namespace: &str, key: &str, change, event| {
            access.may_write(&namespace.parse().unwrap(), key, change, event)
        };
        for (namespace, key, change, event, allowed) in [
            ("vars/job/api", "k", Put, PostDeploy, true),
            ("vars/job/api", "k", Delete, Cli, true),
            ("vars/job/api", "k", Put, HealthCheck, false),
            ("vars/job/api", "k", Secret, Cli, false),
            ("vars/job/db", "k", Put, Cli, false),
            ("secrets/job/api", "k", Secret, PreDeploy, true),
            ("secrets/job/api", "k", Put, PreDeploy, false),
            ("secrets/job/db", "k", Secret, PreDeploy, false),
            ("secrets/job/api", "k", Secret, HealthCheck, false),
            ("maand/job/api", "rollout_order", Put, PreDeploy, true),
            ("maand/job/api", "rollout_order", Put, Cli, true),
            ("maand/job/api", "rollout_order", Put, PostDeploy, false),
            ("maand/job/api", "rollout_order", Delete, PreDeploy, false),
            ("maand/job/api", "version", Put, PreDeploy, false),
            ("maand/job/db", "rollout_order", Put, PreDeploy, false),
            ("vars/bucket", "k", Put, Cli, false),
        ] {
            assert_eq!(write(namespace, key, change, event), allowed, "{namespace} {key} {change:?} {event:?}");
        }
    }
}
