//! How deploys go, with the real programs: a controller, agents, and jobs whose targets do what files in
//! the test's directory say.

mod away;
mod batches;
mod budgets;
mod drains;
mod fleet;
mod options;
mod policies;
mod removals;
mod steering;
mod waves;

use std::path::PathBuf;
use std::time::Duration;

use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::poll;
use harness::process::Running;
use serde_json::{Value, json};

use crate::support::{agents, bucket, hosts};

/// A bucket with its workers, and what runs of it. Agents end before the controller does.
pub(crate) struct Fleet {
    pub(crate) agents: Vec<Agent>,
    pub(crate) serve: Option<Running>,
    pub(crate) hosts: Vec<String>,
    pub(crate) bucket: Bucket,
}

impl Fleet {
    /// Workers with the label `all`; nothing is built, nothing runs.
    pub(crate) fn new(count: u8) -> Self {
        let bucket = bucket();
        let hosts = hosts(&bucket, count);
        bucket.workers(&hosts, &["all"]);
        Self { agents: Vec::new(), serve: None, hosts, bucket }
    }

    /// Builds, serves, and joins an agent for every worker.
    pub(crate) fn up(&mut self) {
        self.bucket.maand(&["build"]).expect(0);
        self.serve = Some(self.bucket.serve());
        self.agents = agents(&self.bucket, &self.hosts);
        self.agents.iter().for_each(|agent| agent.wait_online(&self.bucket));
    }

    /// A job on all workers. Each target appends a line to `data/ran` and to [`Fleet::order`]; it waits while
    /// `hold.<job>` or `hold.<host>` is there and fails when `fail.<job>` or `fail.<host>` is; `sick.<host>` is for checks.
    pub(crate) fn job(&self, job: &str, mut manifest: Value) {
        manifest["selectors"] = json!(["all"]);
        self.bucket.write(&format!("workspace/jobs/{job}/manifest.json"), &manifest.to_string());
        self.bucket.write(&format!("workspace/jobs/{job}/me.j2"), "{{ worker_ip }}");
        let dir = self.bucket.dir().display();
        let target = |name: &str| {
            format!(
                "{name}:\n\t@mkdir -p data; h=$$(cat me); echo \"{name} $$CURRENT_VERSION $$NEW_VERSION\" >> data/ran; \
                 echo \"$$h {name}\" >> {dir}/{job}.order; i=0; \
                 while {{ [ -e {dir}/hold.{job} ] || [ -e {dir}/hold.$$h ]; }} && [ $$i -lt 1200 ]; do sleep 0.05; i=$$((i+1)); done; \
                 if [ -e {dir}/fail.{job} ] || [ -e {dir}/fail.$$h ]; then echo {job} cannot {name} >&2; exit 3; fi\n"
            )
        };
        let makefile: String = ["start", "stop", "restart", "reload"].map(target).concat();
        self.bucket.write(&format!("workspace/jobs/{job}/Makefile"), &makefile);
    }

    /// A manifest's health check that is good while `sick.<host>` is not there.
    pub(crate) fn check(&self, attempts: u32) -> Value {
        let command =
            format!("test ! -e {}/sick.$(cat me) || {{ echo feels sick; false; }}", self.bucket.dir().display());
        json!({"checks": [{"type": "exec", "command": command}], "wait": {"attempts": attempts, "interval_seconds": 1}})
    }

    fn flag(&self, name: &str) -> PathBuf {
        self.bucket.dir().join(name)
    }

    pub(crate) fn raise(&self, name: &str) {
        std::fs::write(self.flag(name), "").unwrap();
    }

    pub(crate) fn lower(&self, name: &str) {
        std::fs::remove_file(self.flag(name)).unwrap();
    }

    /// Gives every job of `jobs` other content, and builds.
    pub(crate) fn edit(&self, jobs: &[&str], content: &str) {
        jobs.iter().for_each(|job| self.bucket.write(&format!("workspace/jobs/{job}/conf/app"), content));
        self.bucket.maand(&["build"]).expect(0);
    }

    /// `host target` in the order in which they ran, hosts by their number; forgets them.
    pub(crate) fn order(&self, job: &str) -> Vec<String> {
        let path = self.flag(&format!("{job}.order"));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        drop(std::fs::remove_file(path));
        let number = |host: &str| self.hosts.iter().position(|known| known == host).unwrap();
        text.lines()
            .map(|line| {
                let (host, target) = line.split_once(' ').unwrap();
                format!("{} {target}", number(host))
            })
            .collect()
    }

    /// The rollout words of a job, in the order of its workers.
    pub(crate) fn words(&self, job: &str) -> Vec<String> {
        let rows = self.bucket.rollouts();
        let word = |host: &String| {
            rows.iter().find(|(name, worker, _)| name == job && worker == host).map(|(_, _, word)| word.clone())
        };
        self.hosts.iter().filter_map(word).collect()
    }

    pub(crate) fn update_seq(&self) -> u64 {
        let info = self.bucket.maand(&["info", "--json"]).expect(0).stdout;
        serde_json::from_str::<Value>(&info).unwrap()["update_seq"].as_u64().unwrap()
    }

    /// The newest rollout, as `maand rollout show --json` has it.
    fn show(&self) -> Value {
        let shown = self.bucket.maand(&["rollout", "show", "--json"]).expect(0).stdout;
        serde_json::from_str(&shown).unwrap()
    }

    /// Waits until the job's target of worker `n` has begun `times` times.
    pub(crate) fn wait_ran(&self, n: usize, job: &str, times: usize) {
        poll::until("a target to begin", poll::LONG, || {
            let ran = self.agents[n].read(job, "data/ran");
            if ran.lines().count() >= times { Ok(()) } else { Err(ran) }
        });
    }

    /// Worker `n`'s worker.json.
    pub(crate) fn worker_json(&self, n: usize) -> Value {
        let text = std::fs::read_to_string(self.agents[n].bucket_dir().join("worker.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }
}

/// Time that a whole deploy may take.
const DEPLOY: Duration = Duration::from_secs(90);
