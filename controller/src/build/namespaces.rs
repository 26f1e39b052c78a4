//! Decides the key-values that build owns (`spec/behaviour.md` 3.4). Made when asked for: of a hundred
//! thousand allocations few have a template that reads their namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    /// Digest of what the allocations' namespaces are made of.
    placement: [u8; 32],
}

impl Facts {
    /// Everything that it had is removed: its key-values go, as those of a job that is gone.
    fn is_left(&self) -> bool {
        self.placed.is_empty() && self.removed
    }
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
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
            let mut print = Fingerprint::new("maand-placement-1");
            print.part(facts.spec.deploy_version());
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

    /// Digest of what the namespaces of the job's allocations are made of.
    pub fn placement_digest(&self, job: &JobName) -> [u8; 32] {
        self.jobs.get(job).map_or([0; 32], |facts| facts.placement)
    }

    /// The keys of a namespace that build owns; certificates are not among them.
    pub fn keys(&self, namespace: &Namespace) -> Keys {
        let mut keys: BTreeMap<String, String> = BTreeMap::new();
        match namespace {
            Namespace::Bucket => self.bucket_keys(&mut keys),
            Namespace::BucketVars => keys.extend(self.variables.clone()),
            Namespace::Workers => self.workers_keys(&mut keys),
            Namespace::Worker(host) => self.worker_keys(host, &mut keys),
            Namespace::Tags(host) => {
                keys.extend(self.workers.get(host).map(|worker| worker.tags.clone()).unwrap_or_default());
            }
            Namespace::Job(job) => self.job_keys(job, &mut keys),
            Namespace::JobOverrides(job) => {
                let facts = self.jobs.get(job).filter(|facts| !facts.is_left());
                keys.extend(facts.map(|facts| facts.overrides.clone()).unwrap_or_default());
            }
            Namespace::Allocation(job, host) => self.allocation_keys(job, host, &mut keys),
            Namespace::JobVars(_) | Namespace::JobSecrets(_) => {}
        }
        keys.into_iter().map(|(key, value)| (key, Value::plain(value.trim()))).collect()
    }

    fn bucket_keys(&self, keys: &mut BTreeMap<String, String>) {
        let running: BTreeSet<&JobName> =
            self.jobs.iter().filter(|(_, facts)| !facts.active.is_empty()).map(|(job, _)| job).collect();
        for facts in running.iter().filter_map(|job| self.jobs.get(*job)) {
            keys.extend(facts.spec.ports.iter().map(|(name, port)| (name.to_string(), port.to_string())));
        }
        keys.insert("bucket_id".into(), self.bucket.to_string());
        keys.insert("jobs".into(), joined(self.jobs.keys()));
        keys.insert("activejobs".into(), joined(running));
    }

    fn workers_keys(&self, keys: &mut BTreeMap<String, String>) {
        keys.insert("certs/ca.crt".into(), self.ca.clone());
        for (label, hosts) in &self.labels {
            keys.insert(format!("{label}_label_id"), id_of(self.bucket, "label", label.as_str()));
            keys.insert(format!("{label}_workers"), joined(hosts));
            keys.insert(format!("{label}_workers_length"), hosts.len().to_string());
            for (at, host) in hosts.iter().enumerate() {
                keys.insert(format!("{label}_{at}"), host.to_string());
            }
        }
    }

    fn worker_keys(&self, host: &Host, keys: &mut BTreeMap<String, String>) {
        let Some(worker) = self.workers.get(host) else { return };
        keys.insert("worker_ip".into(), host.to_string());
        keys.insert("worker_id".into(), worker.worker_id.to_string());
        keys.insert("labels".into(), joined(&worker.labels));
        keys.insert("worker_cpu_mhz".into(), number(worker.cpu_mhz));
        keys.insert("worker_memory_mb".into(), number(worker.memory_mb));
        keys.insert("position".into(), worker.position.to_string());
        keys.insert("jobs".into(), joined(self.on_host.get(host).into_iter().flatten()));
        if let Some(hostname) = &worker.hostname {
            keys.insert("hostname".into(), hostname.clone());
        }
        for label in &worker.labels {
            let Some(hosts) = self.labels.get(label) else { continue };
            if hosts.len() > 1 {
                keys.insert(format!("{label}_peers"), joined(hosts.iter().filter(|other| *other != host)));
            }
            if let Some(index) = hosts.iter().position(|other| other == host) {
                keys.insert(format!("{label}_allocation_index"), index.to_string());
            }
        }
    }

    fn job_keys(&self, job: &JobName, keys: &mut BTreeMap<String, String>) {
        let Some(facts) = self.jobs.get(job).filter(|facts| !facts.is_left()) else { return };
        let spec = &facts.spec;
        keys.insert("job_id".into(), id_of(self.bucket, "job", job.as_str()));
        keys.insert("name".into(), job.to_string());
        keys.insert("job_name".into(), job.to_string());
        keys.insert("version".into(), spec.deploy_version());
        keys.insert("selectors".into(), joined(&spec.selectors));
        for (what, unit, amount) in [("memory", "mb", &spec.memory), ("cpu", "mhz", &spec.cpu)] {
            keys.insert(what.into(), number(amount.reserved));
            keys.insert(format!("min_{what}_{unit}"), number(amount.min));
            keys.insert(format!("max_{what}_{unit}"), number(amount.max));
        }
        keys.insert("workers".into(), joined(&facts.active));
        keys.insert("workers_length".into(), facts.active.len().to_string());
        keys.insert(ROLLOUT_ORDER.into(), joined(&facts.active));
        for (at, host) in facts.active.iter().enumerate() {
            keys.insert(format!("worker_{at}"), host.to_string());
        }
    }

    fn allocation_keys(&self, job: &JobName, host: &Host, keys: &mut BTreeMap<String, String>) {
        let Some(facts) = self.jobs.get(job) else { return };
        let Some(index) = facts.index.get(host) else { return };
        keys.insert(format!("{job}_allocation_index"), index.to_string());
        keys.insert(PEERS.into(), joined(facts.placed.iter().filter(|other| *other != host)));
        keys.insert("version".into(), facts.spec.deploy_version());
    }
}
