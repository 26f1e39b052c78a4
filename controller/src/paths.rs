//! Every path of a bucket's directory, named once.

use std::path::{Path, PathBuf};

/// A bucket's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketDir(PathBuf);

macro_rules! paths {
    ($($(#[$doc:meta])* $name:ident = $relative:literal;)*) => {
        impl BucketDir {
            $($(#[$doc])* pub fn $name(&self) -> PathBuf { self.0.join($relative) })*
        }
    };
}

paths! {
    /// Settings.
    conf = "maand.conf";
    /// The catalog and the store.
    data = "data";
    /// The catalog.
    database = "data/maand.db";
    /// Blobs, by digest.
    blobs = "data/store/blobs";
    /// Private blobs, sealed.
    private_blobs = "data/store/private";
    /// Packs, by want-list; a cache.
    packs = "data/store/packs";
    /// Held by whoever speaks to agents.
    serve_lock = "data/serve.lock";
    /// Where a driver tells serve that something changed; a hint.
    serve_socket = "data/serve.sock";
    /// Held by whoever drives what nobody waits for.
    drive_lock = "data/drive.lock";
    /// Held while a build commits.
    build_lock = "data/build.lock";
    /// The operator's input.
    workspace = "workspace";
    /// Workers.
    workers_json = "workspace/workers.json";
    /// Variables of the bucket.
    bucket_conf = "workspace/bucket.conf";
    /// What is drained.
    disabled_json = "workspace/disabled.json";
    /// Jobs, a directory each.
    jobs = "workspace/jobs";
    /// Keys and certificates; 0700.
    secrets = "secrets";
    /// Certificate of the CA of jobs.
    ca_cert = "secrets/ca.crt";
    /// Key of the CA of jobs.
    ca_key = "secrets/ca.key";
    /// Certificate of the CA of agents and of this controller.
    agent_ca_cert = "secrets/agent-ca.crt";
    /// Key of the CA of agents and of this controller.
    agent_ca_key = "secrets/agent-ca.key";
    /// Seals secrets: 32 raw bytes.
    kv_key = "secrets/kv.key";
    /// Highest (epoch, update_seq) ever handed out, outside the database on purpose.
    high_water = "secrets/high-water.json";
    /// Says that this bucket was taken out of a backup and not recovered since.
    from_backup = "secrets/from-backup.json";
    /// Rendered trees, while a command lasts.
    tmp = "tmp";
    /// What hooks run in, while a command lasts.
    hook_stages = "tmp/hooks";
    /// Of these, what `maand stage` writes: a directory a worker.
    staged = "tmp/workers";
    /// Structured logs.
    logs = "logs";
    /// Logs of each run.
    runs = "logs/runs";
    /// Log of what concerns no worker.
    maand_log = "logs/maand.log";
}

/// The bucket of this machine's controller, as the packages make it.
pub const CONTROLLERS: &str = "/var/lib/maand/bucket";

impl BucketDir {
    /// The bucket in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Certificate and key of one of the agents' authorities: number 1 is the first that there was.
    pub fn agent_ca(&self, number: u32) -> (PathBuf, PathBuf) {
        match number {
            1 => (self.agent_ca_cert(), self.agent_ca_key()),
            n => (self.secrets().join(format!("agent-ca-{n}.crt")), self.secrets().join(format!("agent-ca-{n}.key"))),
        }
    }

    /// A job's directory.
    pub fn job(&self, job: &str) -> PathBuf {
        self.jobs().join(job)
    }

    /// The file that overrides the jobs' resources.
    pub fn overrides(&self, selector: &str) -> PathBuf {
        let name =
            if selector.is_empty() { "bucket.jobs.conf".to_owned() } else { format!("bucket.jobs.{selector}.conf") };
        self.workspace().join(name)
    }

    /// The log of a worker.
    pub fn worker_log(&self, host: &shared::Host) -> PathBuf {
        self.logs().join(format!("{host}.log"))
    }

    /// `path` as the user sees it: relative to the bucket.
    pub fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.0).unwrap_or(path).display()
    }
}
