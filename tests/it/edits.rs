//! Random edits of a small bucket, all of them valid: what an operator, a hook and a deploy do to it.

use std::collections::BTreeMap;

use controller::catalog::kv;
use controller::secrets::SealingKey;
use harness::bucket::Bucket;
use rusqlite::Connection;
use serde_json::{Value, json};

/// What templates of any job are made of. Each reads something else.
const TEMPLATES: [&str; 15] = [
    "{{ worker_ip }} {{ labels | join(',') }} {{ worker_id }}\n",
    "{{ get('maand/worker/' ~ worker_ip, 'jobs') }} {{ keys('maand/worker/' ~ worker_ip) | join }}\n",
    "{{ get('maand/job/' ~ job ~ '/worker/' ~ worker_ip, 'peer_workers') }}\n",
    "{{ get('maand/job/' ~ job ~ '/worker/' ~ worker_ip, job ~ '_allocation_index') }} {{ new_version }}\n",
    "{% for key in keys('vars/bucket') %}{{ key }}={{ get('vars/bucket', key) }}\n{% endfor %}",
    "{{ get_optional('vars/job/' ~ job, 'level') }}/{{ get_optional('vars/job/' ~ job, 'hooked') }}\n",
    "{{ get_optional('secrets/job/' ~ job, 'password') }}\n",
    "{{ current_version }} to {{ new_version }}\n",
    "{% set own = 'maand/job/' ~ job ~ '/worker/' ~ worker_ip %}{{ keys(own) | join(' ') }}\n\
     {{ get_optional(own, 'certs/tls.crt') }}{{ get_optional(own, 'certs/tls.key') }}\n",
    "{{ get('maand/bucket', 'activejobs') }} {{ get_optional('maand/bucket', 'web-http') }}\n",
    "{{ get('maand/worker', 'worker_workers') }} {{ get_optional('maand/worker', 'front_0') }}\n",
    "{{ get('maand/job/' ~ job, 'memory') }} {{ get('maand/job/' ~ job, 'workers') }} \
     {{ get_optional('vars/bucket/job/' ~ job, 'memory') }} {{ get('maand/job/' ~ job, 'rollout_order') }}\n",
    "{% set tags = 'maand/worker/' ~ worker_ip ~ '/tags' %}{{ keys(tags) | join }} {{ get_optional(tags, 'zone') }}\n",
    "{% if get_optional('vars/job/' ~ job, 'level') == 'a' %}{{ get_optional('vars/bucket', 'a') }}\
     {% else %}{{ get_optional('vars/bucket', 'b') }}{% endif %}\n",
    "{% if int(get('maand/worker/' ~ worker_ip, 'position')) > 1 %}{{ get_optional('vars/bucket', 'a') }}{% endif %}\n",
];
/// Of the job that demands something of db.
pub const UPSTREAM: &str = "{{ get('maand/job/db', 'version') }} {{ get_optional('vars/job/db', 'level') }}\n";

/// What an operator, a hook and a deploy do to a bucket.
pub struct Desk<'a> {
    bucket: &'a Bucket,
    state: u64,
    workers: Vec<Value>,
    /// Manifests, by job.
    pub jobs: BTreeMap<String, Value>,
    variables: BTreeMap<String, String>,
}

impl<'a> Desk<'a> {
    /// The bucket with four workers and four jobs, not yet built.
    pub fn new(bucket: &'a Bucket, seed: u64) -> Self {
        let workers =
            (0..4).map(|n| json!({"host": format!("w{n}"), "labels": ["front", "back"], "memory": "1 gb"})).collect();
        let mut desk = Self {
            bucket,
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            workers,
            jobs: BTreeMap::new(),
            variables: BTreeMap::new(),
        };
        desk.write_workers();
        for (job, manifest) in [
            (
                "web",
                json!({"version": "1.0.0", "selectors": ["front"], "certs": {"tls": {}},
                           "resources": {"ports": {"web-http": {}}}}),
            ),
            (
                "db",
                json!({"version": "1.0.0", "selectors": ["back"], "certs": {"tls": {"one": true}},
                          "hooks": {"hook_up": {"executed_on": ["cli"]}}}),
            ),
            (
                "app",
                json!({"version": "1.0.0", "selectors": ["front", "back"], "hooks": {"hook_look":
                           {"executed_on": ["cli"], "demands": {"job": "db", "hook": "hook_up"}}}}),
            ),
            ("plain", json!({"selectors": ["worker"]})),
        ] {
            desk.job(job, manifest);
        }
        desk
    }

    /// Below `end`.
    pub fn random(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as usize % end
    }

    /// Whether workers.json has it.
    pub fn has_host(&self, host: &str) -> bool {
        self.workers.iter().any(|worker| worker["host"] == host)
    }

    fn write_workers(&self) {
        self.bucket.write("workspace/workers.json", &json!(self.workers).to_string());
    }

    fn job(&mut self, job: &str, manifest: Value) {
        let dir = format!("workspace/jobs/{job}");
        self.bucket.write(&format!("{dir}/Makefile"), "start stop restart reload:\n\t@true\n");
        self.bucket.write(&format!("{dir}/a"), job);
        for hook in manifest["hooks"].as_object().into_iter().flatten() {
            self.bucket.write(&format!("{dir}/_modules/{}.py", hook.0), "");
        }
        if job == "app" {
            self.bucket.write(&format!("{dir}/upstream.j2"), UPSTREAM);
        }
        if job != "plain" {
            for n in 0..3 {
                let text = TEMPLATES[self.random(TEMPLATES.len())];
                self.bucket.write(&format!("{dir}/t{n}.j2"), text);
            }
        }
        self.manifest(job, manifest);
    }

    fn manifest(&mut self, job: &str, manifest: Value) {
        self.bucket.write(&format!("workspace/jobs/{job}/manifest.json"), &manifest.to_string());
        self.jobs.insert(job.to_owned(), manifest);
    }

    fn some_job(&mut self) -> String {
        let at = self.random(self.jobs.len());
        self.jobs.keys().nth(at).unwrap().clone()
    }

    fn remove(&self, path: &str) {
        drop(std::fs::remove_file(self.bucket.path(path)));
    }

    /// Does something; says what.
    pub fn edit(&mut self) -> String {
        let (job, n) = (self.some_job(), self.random(4));
        let dir = format!("workspace/jobs/{job}");
        match self.random(19) {
            0 => {
                // Often of the length that it had.
                self.bucket.write(&format!("{dir}/f{n}"), &format!("{}\n", self.state % 10));
                format!("{job}: file f{n} written")
            }
            1 => {
                self.remove(&format!("{dir}/f{n}"));
                format!("{job}: file f{n} removed")
            }
            2 => {
                use std::os::unix::fs::PermissionsExt;
                let mode = if self.random(2) == 0 { 0o755 } else { 0o644 };
                let path = self.bucket.path(&format!("{dir}/a"));
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
                format!("{job}: mode {mode:o} of a")
            }
            3 | 4 => {
                let which = self.random(TEMPLATES.len());
                self.bucket.write(&format!("{dir}/t{n}.j2"), TEMPLATES[which]);
                format!("{job}: template t{n} is now number {which}")
            }
            5 => {
                self.remove(&format!("{dir}/t{n}.j2"));
                format!("{job}: template t{n} removed")
            }
            6 => {
                let text = ["level = \"a\"\n", "level = \"b\"\n", "other = \"c\"\n", ""][n];
                self.bucket.write(&format!("{dir}/vars.toml"), text);
                format!("{job}: vars.toml {text:?}")
            }
            7 => {
                let key = ["a", "b", "c"][self.random(3)];
                match self.random(3) {
                    0 => drop(self.variables.remove(key)),
                    other => drop(self.variables.insert(key.to_owned(), other.to_string())),
                }
                let text: String = self.variables.iter().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
                self.bucket.write("workspace/bucket.conf", &text);
                format!("bucket.conf {text:?}")
            }
            8 => {
                let text = if n == 0 { String::new() } else { format!("[web]\nmemory = \"{n} mb\"\n") };
                self.bucket.write("workspace/bucket.jobs.conf", &text);
                format!("bucket.jobs.conf {text:?}")
            }
            9 => {
                let host = format!("w{}", self.random(7));
                if self.has_host(&host) && self.workers.len() > 1 {
                    self.workers.retain(|worker| worker["host"] != host);
                    self.disabled(3, 0);
                } else if !self.has_host(&host) {
                    let at = self.random(self.workers.len() + 1);
                    self.workers.insert(at, json!({"host": host, "labels": ["front", "back"], "memory": "1 gb"}));
                }
                self.write_workers();
                format!("worker {host} added or removed")
            }
            10 => {
                let at = self.random(self.workers.len());
                self.workers[at]["labels"] =
                    [json!(["front", "back"]), json!(["front"]), json!(["back"]), json!([])][n].clone();
                self.write_workers();
                format!("labels of worker {at}: number {n}")
            }
            11 => {
                let at = self.random(self.workers.len());
                self.workers[at]["tags"] =
                    [json!({}), json!({"zone": "a"}), json!({"zone": "b"}), json!({"rack": "1"})][n].clone();
                self.workers[at]["hostname"] = json!(format!("name{n}"));
                self.write_workers();
                format!("tags of worker {at}: number {n}")
            }
            12 => {
                let at = self.random(self.workers.len());
                self.disabled(n, at)
            }
            13 => {
                let mut manifest = self.jobs[&job].clone();
                let ports = [
                    json!({}),
                    json!({format!("{job}-http"): {}}),
                    json!({format!("{job}-http"): {}, format!("{job}-more"): {}}),
                    json!({format!("{job}-http"): 20_000 + job.len() * 100 + usize::from(job.as_bytes()[0])}),
                ];
                manifest["resources"] = json!({"ports": ports[n]});
                self.manifest(&job, manifest);
                format!("{job}: ports number {n}")
            }
            14 => {
                let mut manifest = self.jobs[&job].clone();
                manifest["certs"] = [
                    json!({}),
                    json!({"tls": {}}),
                    json!({"tls": {"one": true}, "more": {}}),
                    json!({"tls": {"pkcs8": true}}),
                ][n]
                    .clone();
                self.manifest(&job, manifest);
                format!("{job}: certificates number {n}")
            }
            15 => {
                let mut manifest = self.jobs[&job].clone();
                manifest["version"] = json!(format!("1.{n}.0"));
                self.manifest(&job, manifest);
                format!("{job}: version 1.{n}.0")
            }
            16 => self.deploy(),
            17 => self.hook(&job, n),
            _ => {
                if self.jobs.contains_key("extra") {
                    self.disabled(3, 0);
                    self.jobs.remove("extra");
                    std::fs::remove_dir_all(self.bucket.path("workspace/jobs/extra")).unwrap();
                    "job extra removed".to_owned()
                } else {
                    self.job("extra", json!({"selectors": ["worker"], "certs": {"tls": {}}}));
                    "job extra added".to_owned()
                }
            }
        }
    }

    fn disabled(&mut self, n: usize, at: usize) -> String {
        let host = self.workers[at]["host"].clone();
        let text = [
            json!({"workers": [host]}),
            json!({"jobs": {"web": {"allocations": [host]}}}),
            json!({"jobs": {"db": {}}}),
            json!({}),
        ][n]
            .to_string();
        self.bucket.write("workspace/disabled.json", &text);
        format!("disabled.json {text}")
    }

    fn catalog(&self) -> Connection {
        Connection::open(self.bucket.path("data/maand.db")).unwrap()
    }

    fn deploy(&self) -> String {
        let promote = "INSERT OR REPLACE INTO promoted (alloc_id, bundle, version, promoted_at, run_id) \
                       SELECT alloc_id, bundle, new_version, 0, 'test' FROM allocation WHERE bundle IS NOT NULL; \
                       UPDATE allocation SET start_pending = 0;";
        self.catalog().execute_batch(promote).unwrap();
        "everything promoted".to_owned()
    }

    fn hook(&mut self, job: &str, n: usize) -> String {
        let (catalog, value) = (self.catalog(), format!("v{}", self.random(100)));
        let (vars, secrets) = (format!("vars/job/{job}"), format!("secrets/job/{job}"));
        let now_ms = 1_000_000;
        match n {
            0 => kv::put(&catalog, &vars, "hooked", &value, now_ms).unwrap(),
            // A key that vars.toml may have, too.
            1 => kv::put(&catalog, &vars, "level", &value, now_ms).unwrap(),
            2 => {
                let key = SealingKey::load(&self.bucket.path("secrets/kv.key")).unwrap();
                let sealed = key.seal_value(&secrets, "password", &value).unwrap();
                kv::put(&catalog, &secrets, "password", &sealed, now_ms).unwrap();
            }
            _ => kv::put(&catalog, &format!("maand/job/{job}"), "rollout_order", &value, now_ms).unwrap(),
        }
        format!("{job}: a hook wrote number {n}, {value}")
    }
}
