//! Hooks of deploys, with a controller, agents and a python3: when they run, what they are told, what their
//! failures stop, what they write and who reads it.

mod api;
mod by_hand;
mod control;
mod events;
mod failures;
mod health;
mod leaving;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::process::Running;
use serde_json::{Value, json};

use crate::support::{agents, bucket, hosts};

/// What every script begins with: `note` appends a line to the test's file, `flag` says whether a file of
/// the test is there, `n` is a host's number.
const PRELUDE: &str = "import maand, os, sys, time\n\
HOME, event, host = os.environ['HOME'], maand.hook_event(), maand.allocation_ip()\n\
def n(host): return 'h' + str(int(host.rsplit('.', 1)[1]) - 2)\n\
def many(name): return ','.join(n(h) for h in os.environ[name].split(',') if h) if name in os.environ else '-'\n\
def flag(name): return os.path.exists(HOME + '/' + name)\n\
def note(*words):\n    \
    with open(HOME + '/notes', 'a') as out: out.write(' '.join(map(str, words)) + '\\n')\n";

/// Time that a whole deploy may take.
pub const DEPLOY: Duration = Duration::from_secs(90);

/// A bucket with its workers, and what runs of it. Agents end before the controller does.
struct Fleet {
    agents: Vec<Agent>,
    serve: Option<Running>,
    hosts: Vec<String>,
    bucket: Bucket,
}

impl Fleet {
    /// Workers with the label `all`; nothing is built, nothing runs.
    fn new(count: u8) -> Self {
        let bucket = bucket();
        let hosts = hosts(&bucket, count);
        bucket.workers(&hosts, &["all"]);
        Self { agents: Vec::new(), serve: None, hosts, bucket }
    }

    /// A job on all workers that records its targets, with one hook at `events`.
    fn job(&self, job: &str, manifest: Value, events: &[&str], script: &str) {
        self.job_with(job, manifest, &[("hook_x", json!({ "executed_on": events }), script)]);
    }

    /// The same with several hooks.
    fn job_with(&self, job: &str, mut manifest: Value, hooks: &[(&str, Value, &str)]) {
        if manifest["selectors"] == Value::Null {
            manifest["selectors"] = json!(["all"]);
        }
        manifest["hooks"] = hooks.iter().map(|(name, declared, _)| ((*name).to_owned(), declared.clone())).collect();
        self.bucket.recording_job(job, &manifest);
        for (name, _, script) in hooks {
            self.bucket.write(&format!("workspace/jobs/{job}/_modules/{name}.py"), &format!("{PRELUDE}{script}"));
        }
    }

    /// Builds, serves, and joins an agent for every worker.
    fn up(&mut self) {
        self.bucket.maand(&["build"]).expect(0);
        self.serve = Some(self.bucket.serve());
        self.agents = agents(&self.bucket, &self.hosts);
        self.agents.iter().for_each(|agent| agent.wait_online(&self.bucket));
    }

    /// Other content for a job, built.
    fn edit(&self, job: &str, content: &str) {
        self.bucket.write(&format!("workspace/jobs/{job}/conf/app"), content);
        self.bucket.maand(&["build"]).expect(0);
    }

    fn flag(&self, name: &str) -> PathBuf {
        self.bucket.dir().join(name)
    }

    fn raise(&self, name: &str) {
        std::fs::write(self.flag(name), "").unwrap();
    }

    fn lower(&self, name: &str) {
        std::fs::remove_file(self.flag(name)).unwrap();
    }

    /// What hooks noted so far; forgets it.
    fn notes(&self) -> Vec<String> {
        let path = self.flag("notes");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        drop(std::fs::remove_file(path));
        text.lines().map(str::to_owned).collect()
    }

    /// The targets that ran for a job, by worker; nothing but their names.
    fn ran(&self, job: &str) -> Vec<String> {
        let targets =
            |text: String| text.lines().filter_map(|line| line.split(' ').next()).collect::<Vec<_>>().join(" ");
        self.agents.iter().map(|agent| targets(agent.read(job, "data/ran"))).collect()
    }

    /// The rollout words of a job.
    fn words(&self, job: &str) -> Vec<String> {
        self.bucket.rollouts().into_iter().filter(|(name, _, _)| name == job).map(|(_, _, word)| word).collect()
    }

    /// A column of `maand cat deployments` for a job.
    fn column(&self, job: &str, column: &str) -> Vec<Value> {
        let rows = self.bucket.cat("deployments");
        rows.as_array().unwrap().iter().filter(|row| row["job"] == job).map(|row| row[column].clone()).collect()
    }
}
