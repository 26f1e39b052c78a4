//! The operators' guide, `docs/guides/debugging-deploy.md`, as tests: every command of it is run in a live bucket
//! with three workers, every symptom is provoked and its fix applied.

mod agents;
mod dry_run;
mod flow;
mod health;
mod hooks;
mod leaving;
mod partial;
mod reference;
mod shipped;
mod skipped;
mod state;
mod templates;
mod waves;
mod worker_side;

use std::path::PathBuf;
use std::time::Duration;

use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::poll;
use harness::process::Running;
use serde_json::{Value, json};

use crate::support;

/// What every hook of the shop begins with: `flag` says whether a file of the test is there.
const PRELUDE: &str = "import maand, os, sys\n\
event = maand.hook_event()\n\
def flag(name): return os.path.exists(os.environ['HOME'] + '/' + name)\n\
def fail_at(name):\n    \
    if flag('fail.' + name): print(name + ' says no', file=sys.stderr); sys.exit(3)\n";

/// A bucket as the guide has it: `vault` on the first worker, `postgres` on the second, `api` on all three; api
/// demands postgres, and postgres vault. Agents end before the controller does.
struct Shop {
    agents: Vec<Agent>,
    serve: Option<Running>,
    hosts: Vec<String>,
    bucket: Bucket,
}

impl Shop {
    /// The workspace; nothing is built, nothing runs.
    fn new() -> Self {
        let bucket = support::bucket();
        let hosts = support::hosts(&bucket, 3);
        let shop = Self { agents: Vec::new(), serve: None, hosts, bucket };
        shop.workers(3);
        shop.job("vault", json!({"resources": {"ports": {"vault_http": {}}}}));
        shop.hook("vault", "hook_ready", json!({"executed_on": ["cli"]}), "print('vault is open')\n");
        shop.job("postgres", json!({"restart_policy": "reload", "restart_globs": ["Makefile", "bin/*"]}));
        let on_vault = json!({"executed_on": ["cli"], "demands": {"job": "vault", "hook": "hook_ready"}});
        shop.hook("postgres", "hook_create", on_vault, "print('database shop')\n");
        let check = json!({"type": "exec", "command": format!("test ! -e {}/sick || {{ echo no database; false; }}", shop.dir())});
        shop.job(
            "api",
            json!({"resources": {"ports": {"api_http": {}}}, "max_concurrent_upgrades": 3,
                "health_check": {"checks": [check], "wait": {"attempts": 2, "interval_seconds": 1}}}),
        );
        let on_postgres =
            json!({"executed_on": ["pre_deploy", "cli"], "demands": {"job": "postgres", "hook": "hook_create"}});
        let migrate =
            "fail_at('migrate')\nmaand.put_job_variable('schema', '7').raise_for_status()\nprint('schema 7')\n";
        shop.hook("api", "hook_migrate", on_postgres, migrate);
        shop.hook("api", "hook_smoke", json!({"executed_on": ["post_deploy"]}), "fail_at('smoke')\n");
        shop.bucket.write("workspace/jobs/api/vars.toml", "mykey = \"shop\"\n");
        let conf = "db={{ get(\"vars/job/api\", \"mykey\") }} port={{ get(\"maand/bucket\", \"api_http\") }}\n";
        shop.bucket.write("workspace/jobs/api/app.conf.j2", conf);
        shop
    }

    /// The same, built, served, with an agent on every worker.
    fn up() -> Self {
        let mut shop = Self::new();
        shop.begin();
        shop
    }

    /// The same, deployed.
    fn deployed() -> Self {
        let shop = Self::up();
        shop.run(&["deploy"], 0);
        shop
    }

    fn begin(&mut self) {
        self.run(&["build"], 0);
        self.serve = Some(self.bucket.serve());
        self.agents = support::agents(&self.bucket, &self.hosts);
        self.agents.iter().for_each(|agent| agent.wait_online(&self.bucket));
    }

    /// The test's directory, as text.
    fn dir(&self) -> String {
        self.bucket.dir().display().to_string()
    }

    /// Writes workers.json with the first `count` workers.
    fn workers(&self, count: usize) {
        let labels = [["api", "vault"], ["api", "postgres"], ["api", "spare"]];
        let worker = |(host, labels): (&String, &[&str; 2])| json!({"host": host, "labels": labels});
        let all: Vec<Value> = self.hosts.iter().zip(&labels).take(count).map(worker).collect();
        self.bucket.write("workspace/workers.json", &Value::from(all).to_string());
    }

    /// A job whose targets say what they do, keep a log of their own, and fail while `fail.<job>` or, on one worker,
    /// `fail.<job>.<host>` is there.
    fn job(&self, job: &str, mut manifest: Value) {
        if manifest["version"] == Value::Null {
            manifest["version"] = json!("1.0.0");
        }
        self.bucket.write(&format!("workspace/jobs/{job}/manifest.json"), &manifest.to_string());
        let dir = self.dir();
        let target = |name: &str| {
            format!(
                "{name}:\n\t@mkdir -p data logs; echo \"{job} {name} $$CURRENT_VERSION $$NEW_VERSION\" | tee -a data/ran logs/{job}.log; \
                 i=0; while [ -e {dir}/hold.{job} ] && [ $$i -lt 1200 ]; do sleep 0.05; i=$$((i+1)); done; \
                 if [ -e {dir}/fail.{job} ] || [ -e {dir}/fail.{job}.$$WORKER_IP ]; then echo {job} cannot {name} >&2; exit 3; fi\n"
            )
        };
        let makefile: String = ["start", "stop", "restart", "reload", "status"].map(target).concat();
        self.bucket.write(&format!("workspace/jobs/{job}/Makefile"), &makefile);
    }

    /// Adds a hook to a job that has its manifest.
    fn hook(&self, job: &str, name: &str, declared: Value, script: &str) {
        self.manifest(job, |manifest| manifest["hooks"][name] = declared);
        self.bucket.write(&format!("workspace/jobs/{job}/_modules/{name}.py"), &format!("{PRELUDE}{script}"));
    }

    /// Changes a job's manifest.
    fn manifest(&self, job: &str, change: impl FnOnce(&mut Value)) {
        let path = format!("workspace/jobs/{job}/manifest.json");
        let mut manifest: Value = serde_json::from_str(&self.bucket.read(&path)).unwrap();
        change(&mut manifest);
        self.bucket.write(&path, &manifest.to_string());
    }

    /// Other content for a job.
    fn edit(&self, job: &str, content: &str) {
        self.bucket.write(&format!("workspace/jobs/{job}/conf/app"), content);
    }

    /// `maand …`; both streams, standard output first.
    fn run(&self, words: &[&str], code: i32) -> String {
        let output = self.bucket.maand(words).expect(code);
        output.stdout + &output.stderr
    }

    fn raise(&self, name: &str) {
        std::fs::write(self.flag(name), "").unwrap();
    }

    fn lower(&self, name: &str) {
        std::fs::remove_file(self.flag(name)).unwrap();
    }

    fn flag(&self, name: &str) -> PathBuf {
        self.bucket.dir().join(name)
    }

    /// A column of `maand cat deployments` for a job, in the order of its workers.
    fn column(&self, job: &str, column: &str) -> Vec<Value> {
        let rows = self.bucket.cat("deployments");
        let of = |host: &String| {
            rows.as_array().unwrap().iter().find(|row| row["job"] == job && row["worker_ip"] == host.as_str())
        };
        self.hosts.iter().filter_map(of).map(|row| row[column].clone()).collect()
    }

    /// The targets that ran for a job on worker `n`.
    fn ran(&self, n: usize, job: &str) -> Vec<String> {
        let text = self.agents[n].read(job, "data/ran");
        text.lines().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
    }

    /// Waits until worker `n`'s agent is seen in that state.
    fn wait_state(&self, n: usize, state: &str) {
        poll::until(state, poll::LONG, || {
            let agents = self.bucket.cat("agents");
            if agents[n]["state"] == state { Ok(()) } else { Err(agents) }
        });
    }

    fn info(&self) -> Value {
        serde_json::from_str(&self.bucket.maand(&["info", "--json"]).expect(0).stdout).unwrap()
    }
}

/// Asserts that `text` has each of `words`.
#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

/// The lines that a dry run has of a job, the first of them `job "…": …`.
#[track_caller]
fn of_job(dry: &str, job: &str) -> String {
    let section = dry.split(&format!("  job \"{job}\": ")).nth(1).unwrap_or_else(|| panic!("{job} is not in:\n{dry}"));
    section.split("\n  job ").next().unwrap().split("\n\ndeployment").next().unwrap().to_owned()
}

/// Time that a whole deploy may take.
const DEPLOY: Duration = Duration::from_secs(90);
