//! Decides the key-values that build owns (`spec/behaviour.md` 3.4). Made when asked for: of a hundred
//! thousand allocations few have a template that reads their namespace.

use std::collections::{BTreeMap, HashMap};

use shared::{BucketId, Host, JobName, Name};

use crate::model::kv::{Keys, Namespace, ROLLOUT_ORDER, Value};
use crate::model::{Allocation, Fingerprint, Job, JobSpec, Worker};
use crate::workspace::Workspace;

/// The key with an allocation's siblings.
pub const PEERS: &str = "peer_workers";

/// All that build owns, ready to be asked.
#[derive(Debug)]
pub struct Derived {
    bucket: BucketId,
    ca: String,
    variables: BTreeMap<String, String>,
    workers: BTreeMap<Host, Worker>,
    /// By label, in worker order.
    labels: BTreeMap<Name, Vec<Host>>,
    jobs: BTreeMap<JobName, Facts>,
    /// Jobs that are active on a host.
    on_host: HashMap<Host, Vec<JobName>>,
}

#[derive(Debug)]
struct Facts {
    spec: JobSpec,
    overrides: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
    active: Vec<Host>,
    /// Not removed, drained ones included.
    placed: Vec<Host>,
    /// Some allocation is removed.
    removed: bool,
    /// Where in `placed` a host is.
    index: HashMap<Host, usize>,
    /// Digest of `placed`.
    placement: [u8; 32],
}

impl Facts {
    /// Everything that it had is removed: its key-values go, as those of a job that is gone.
    fn is_left(&self) -> bool {
        self.placed.is_empty() && self.removed
    }
}

/// What is taken of a namespace: one rule makes them all, and only the values that are wanted.
enum Taken<'a> {
    All(Keys),
    One(&'a str, Option<Value>),
}

impl Taken<'_> {
    fn put(&mut self, key: impl AsRef<str> + Into<String>, value: impl FnOnce() -> String) {
        match self {
            Self::All(keys) => drop(keys.insert(key.into(), Value::plain(value().trim()))),
            Self::One(wanted, found) if *wanted == key.as_ref() => *found = Some(Value::plain(value().trim())),
            Self::One(..) => {}
        }
    }

    fn put_all<'b>(&mut self, pairs: impl IntoIterator<Item = (&'b String, &'b String)>) {
        pairs.into_iter().for_each(|(key, value)| self.put(key.as_str(), || value.clone()));
    }
}

fn joined<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for item in items {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(item.as_ref());
    }
    text
}

fn number(value: f64) -> String {
    // Without exponent, and without decimals where there are none.
    format!("{value}")
}

/// An id of a name: derived, so that it is the same after every rebuild.
fn id_of(bucket: BucketId, kind: &str, name: &str) -> String {
    let mut print = Fingerprint::new("maand-name-1");
    print.part(bucket.uuid().as_bytes());
    print.part(kind);
    print.part(name);
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&print.finish()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

impl Derived {
    /// Of a build; `ca` is the certificate of the jobs' authority, PEM.
    pub fn new(
        bucket: BucketId,
        ca: &str,
        workspace: &Workspace,
        workers: &[Worker],
        jobs: &[Job],
        allocations: &[Allocation],
    ) -> Self {
        let mut labels: BTreeMap<Name, Vec<Host>> = BTreeMap::new();
        for worker in workers {
            for label in &worker.labels {
                labels.entry(label.clone()).or_default().push(worker.host.clone());
            }
        }
        let inputs: BTreeMap<&JobName, _> = workspace.jobs.iter().map(|input| (&input.name, input)).collect();
        let mut facts: BTreeMap<JobName, Facts> = BTreeMap::new();
        for job in jobs {
            let input = inputs.get(&job.name);
            let of_job = Facts {
                spec: job.spec.clone(),
                overrides: input.map(|input| input.overrides.clone()).unwrap_or_default(),
                variables: input.map(|input| input.variables.clone()).unwrap_or_default(),
                active: Vec::new(),
                placed: Vec::new(),
                removed: false,
                index: HashMap::new(),
                placement: [0; 32],
            };
            facts.insert(job.name.clone(), of_job);
        }
        let mut on_host: HashMap<Host, Vec<JobName>> = HashMap::new();
        for allocation in allocations {
            let Some(facts) = facts.get_mut(&allocation.job) else { continue };
            if allocation.removed {
                facts.removed = true;
                continue;
            }
            facts.index.insert(allocation.host.clone(), facts.placed.len());
            facts.placed.push(allocation.host.clone());
            if !allocation.disabled {
                facts.active.push(allocation.host.clone());
                on_host.entry(allocation.host.clone()).or_default().push(allocation.job.clone());
            }
        }
        for facts in facts.values_mut() {
            let mut print = Fingerprint::new("maand-placement-2");
            facts.placed.iter().for_each(|host| print.part(host.as_str()));
            facts.placement = print.finish();
        }
        let workers = workers.iter().map(|worker| (worker.host.clone(), worker.clone())).collect();
        let (ca, variables) = (ca.to_owned(), workspace.variables.clone());
        Self { bucket, ca, variables, workers, labels, jobs: facts, on_host }
    }

    /// Namespaces that build owns wholly, but for those of single allocations.
    pub fn namespaces(&self) -> Vec<Namespace> {
        let mut all = vec![Namespace::Bucket, Namespace::BucketVars, Namespace::Workers];
        all.extend(
            self.workers.keys().flat_map(|host| [Namespace::Worker(host.clone()), Namespace::Tags(host.clone())]),
        );
        all.extend(
            self.jobs
                .iter()
                .filter(|(_, facts)| !facts.is_left())
                .flat_map(|(job, _)| [Namespace::Job(job.clone()), Namespace::JobOverrides(job.clone())]),
        );
        all
    }

    /// The certificate of the jobs' authority, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// The jobs of the workspace.
    pub fn jobs(&self) -> impl Iterator<Item = &JobName> {
        self.jobs.keys()
    }

    /// Hosts with an allocation of `job` that is not removed, in worker order.
    pub fn placed(&self, job: &JobName) -> &[Host] {
        self.jobs.get(job).map_or(&[], |facts| &facts.placed)
    }

    /// vars.toml of `job`.
    pub fn variables(&self, job: &JobName) -> Keys {
        let variables = self.jobs.get(job).map(|facts| &facts.variables);
        variables.into_iter().flatten().map(|(key, value)| (key.clone(), Value::plain(value.trim()))).collect()
    }

    /// Digest of where the job is, in order: what its allocations' indexes and peers are made of.
    pub fn placement_digest(&self, job: &JobName) -> [u8; 32] {
        self.jobs.get(job).map_or([0; 32], |facts| facts.placement)
    }

    /// Digest of all that the namespaces of the job's allocations are made of.
    pub fn allocations_digest(&self, job: &JobName) -> [u8; 32] {
        let mut print = Fingerprint::new("maand-allocations-1");
        print.part(self.placement_digest(job));
        print.part(self.jobs.get(job).map(|facts| facts.spec.deploy_version()).unwrap_or_default());
        print.finish()
    }

    /// The keys of a namespace that build owns; certificates are not among them.
    pub fn keys(&self, namespace: &Namespace) -> Keys {
        let mut taken = Taken::All(Keys::new());
        self.take(namespace, &mut taken);
        if let Taken::All(keys) = taken { keys } else { Keys::new() }
    }

    /// One of them.
    pub fn get(&self, namespace: &Namespace, key: &str) -> Option<Value> {
        let mut taken = Taken::One(key, None);
        self.take(namespace, &mut taken);
        if let Taken::One(_, found) = taken { found } else { None }
    }

    fn take(&self, namespace: &Namespace, keys: &mut Taken<'_>) {
        match namespace {
            Namespace::Bucket => self.bucket_keys(keys),
            Namespace::BucketVars => keys.put_all(&self.variables),
            Namespace::Workers => self.workers_keys(keys),
            Namespace::Worker(host) => self.worker_keys(host, keys),
            Namespace::Tags(host) => keys.put_all(self.workers.get(host).into_iter().flat_map(|worker| &worker.tags)),
            Namespace::Job(job) => self.job_keys(job, keys),
            Namespace::JobOverrides(job) => {
                let facts = self.jobs.get(job).filter(|facts| !facts.is_left());
                keys.put_all(facts.into_iter().flat_map(|facts| &facts.overrides));
            }
            Namespace::Allocation(job, host) => self.allocation_keys(job, host, keys),
            Namespace::JobVars(_) | Namespace::JobSecrets(_) => {}
        }
    }

    fn bucket_keys(&self, keys: &mut Taken<'_>) {
        let running: BTreeMap<&JobName, &Facts> =
            self.jobs.iter().filter(|(_, facts)| !facts.active.is_empty()).collect();
        // Of a drained job too: its templates go on being rendered.
        let placed = self.jobs.values().filter(|facts| !facts.placed.is_empty());
        for (name, port) in placed.flat_map(|facts| &facts.spec.ports) {
            keys.put(name.as_str(), || port.to_string());
        }
        keys.put("bucket_id", || self.bucket.to_string());
        keys.put("jobs", || joined(self.jobs.keys()));
        keys.put("activejobs", || joined(running.keys()));
    }

    fn workers_keys(&self, keys: &mut Taken<'_>) {
        keys.put("certs/ca.crt", || self.ca.clone());
        for (label, hosts) in &self.labels {
            keys.put(format!("{label}_label_id"), || id_of(self.bucket, "label", label.as_str()));
            keys.put(format!("{label}_workers"), || joined(hosts));
            keys.put(format!("{label}_workers_length"), || hosts.len().to_string());
            for (at, host) in hosts.iter().enumerate() {
                keys.put(format!("{label}_{at}"), || host.to_string());
            }
        }
    }

    fn worker_keys(&self, host: &Host, keys: &mut Taken<'_>) {
        let Some(worker) = self.workers.get(host) else { return };
        keys.put("worker_ip", || host.to_string());
        keys.put("worker_id", || worker.worker_id.to_string());
        keys.put("labels", || joined(&worker.labels));
        keys.put("worker_cpu_mhz", || number(worker.cpu_mhz));
        keys.put("worker_memory_mb", || number(worker.memory_mb));
        keys.put("position", || worker.position.to_string());
        keys.put("jobs", || joined(self.on_host.get(host).into_iter().flatten()));
        if let Some(hostname) = &worker.hostname {
            keys.put("hostname", || hostname.clone());
        }
        for label in &worker.labels {
            let Some(hosts) = self.labels.get(label) else { continue };
            if hosts.len() > 1 {
                keys.put(format!("{label}_peers"), || joined(hosts.iter().filter(|other| *other != host)));
            }
            // A label's hosts have the label: it is among them.
            keys.put(format!("{label}_allocation_index"), || {
                hosts.iter().take_while(|other| *other != host).count().to_string()
            });
        }
    }

    fn job_keys(&self, job: &JobName, keys: &mut Taken<'_>) {
        let Some(facts) = self.jobs.get(job).filter(|facts| !facts.is_left()) else { return };
        let spec = &facts.spec;
        keys.put("job_id", || id_of(self.bucket, "job", job.as_str()));
        keys.put("name", || job.to_string());
        keys.put("job_name", || job.to_string());
        keys.put("version", || spec.deploy_version());
        keys.put("selectors", || joined(&spec.selectors));
        for (what, unit, amount) in [("memory", "mb", &spec.memory), ("cpu", "mhz", &spec.cpu)] {
            keys.put(what, || number(amount.reserved));
            keys.put(format!("min_{what}_{unit}"), || number(amount.min));
            keys.put(format!("max_{what}_{unit}"), || number(amount.max));
        }
        keys.put("workers", || joined(&facts.active));
        keys.put("workers_length", || facts.active.len().to_string());
        keys.put(ROLLOUT_ORDER, || joined(&facts.active));
        for (at, host) in facts.active.iter().enumerate() {
            keys.put(format!("worker_{at}"), || host.to_string());
        }
    }

    fn allocation_keys(&self, job: &JobName, host: &Host, keys: &mut Taken<'_>) {
        let Some(facts) = self.jobs.get(job) else { return };
        let Some(index) = facts.index.get(host) else { return };
        keys.put(format!("{job}_allocation_index"), || index.to_string());
        keys.put(PEERS, || joined(facts.placed.iter().filter(|other| *other != host)));
        keys.put("version", || facts.spec.deploy_version());
    }
}
