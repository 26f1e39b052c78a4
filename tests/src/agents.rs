//! Agents as real processes, each with a root and a state directory of its own.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::bucket::Bucket;
use crate::poll;
use crate::process::{Output, Running, finish};

/// An agent's place on this machine, and its process while it runs.
#[derive(Debug)]
pub struct Agent {
    program: PathBuf,
    dir: PathBuf,
    /// The worker that it is.
    pub host: String,
    running: Option<Running>,
    /// Words before the program: how to get into a namespace.
    enter: Vec<String>,
}

impl Agent {
    /// Enrols an agent for `host` and starts it.
    pub fn join(bucket: &Bucket, host: &str) -> Self {
        let mut agent = Self::prepare(bucket, host, &[]);
        agent.enrol(bucket).expect(0);
        agent.start();
        agent
    }

    /// An agent that has not joined; `enter` are words to run its commands with.
    pub fn prepare(bucket: &Bucket, host: &str, enter: &[&str]) -> Self {
        let dir = bucket.dir().join("agents").join(host);
        std::fs::create_dir_all(&dir).unwrap();
        let enter = enter.iter().map(|&word| word.to_owned()).collect();
        Self { program: bucket.programs().agent.clone(), dir, host: host.to_owned(), running: None, enter }
    }

    /// Asks the bucket for a token and joins with it.
    pub fn enrol(&self, bucket: &Bucket) -> Output {
        let line = bucket.maand(&["agent", "token", &self.host]).expect(0).stdout;
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((words.len(), words[0], words[1]), (4, "maand-agent", "join"), "{line:?}");
        assert_eq!(line.lines().count(), 1, "{line:?}");
        self.join_with(words[2], words[3])
    }

    /// Joins anew, in place of the identity that is there.
    pub fn enrol_again(&self, bucket: &Bucket) -> Output {
        let line = bucket.maand(&["agent", "token", &self.host]).expect(0).stdout;
        let words: Vec<&str> = line.split_whitespace().collect();
        self.join_anyhow(words[2], words[3], &["--replace"])
    }

    /// `maand-agent join URL TOKEN`.
    pub fn join_with(&self, url: &str, token: &str) -> Output {
        self.join_anyhow(url, token, &[])
    }

    fn join_anyhow(&self, url: &str, token: &str, flags: &[&str]) -> Output {
        let mut command = self.command();
        command
            .args(["join", url, token])
            .args(flags)
            .arg("--root")
            .arg(self.root())
            .arg("--state")
            .arg(self.dir.join("state"));
        finish(command, Duration::from_secs(60))
    }

    /// `maand-agent --config FILE`, with nothing behind it yet.
    pub fn command(&self) -> Command {
        let mut words = self.enter.iter().map(String::as_str).chain([self.program.to_str().unwrap()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", &self.dir)
            .env("LANG", "C.UTF-8");
        command.arg("--config").arg(self.dir.join("agent.toml"));
        command
    }

    /// Starts `maand-agent run`.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it with variables in its environment.
    pub fn start_with(&mut self, variables: &[(&str, &str)]) {
        let mut command = self.command();
        command.arg("run").envs(variables.iter().copied());
        self.running = Some(Running::start(&format!("agent {}", self.host), command, &self.dir.join("agent.log")));
    }

    /// Starts `maand-agent run` with more arguments.
    pub fn start_as(&mut self, arguments: &[&str]) {
        let mut command = self.command();
        command.arg("run").args(arguments);
        self.running = Some(Running::start(&format!("agent {}", self.host), command, &self.dir.join("agent.log")));
    }

    /// Its agent.toml.
    pub fn settings(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    /// The process, which must have been started.
    pub fn process(&mut self) -> &mut Running {
        self.running.as_mut().expect("the agent was started")
    }

    /// Its process id; it must have been started.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("the agent was started").pid()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process().kill();
    }

    /// `--root`: what would be /opt/worker.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// A file of a job on this worker.
    pub fn job_path(&self, job: &str, relative: &str) -> PathBuf {
        self.bucket_dir().join("jobs").join(job).join(relative)
    }

    /// The one bucket's directory on this worker.
    pub fn bucket_dir(&self) -> PathBuf {
        let mut buckets = std::fs::read_dir(self.root()).unwrap();
        buckets.next().unwrap().unwrap().path()
    }

    /// A file of a job on this worker, read; empty when it is not there.
    pub fn read(&self, job: &str, relative: &str) -> String {
        std::fs::read_to_string(self.job_path(job, relative)).unwrap_or_default()
    }

    /// Waits until the controller has heard of it.
    pub fn wait_online(&self, bucket: &Bucket) {
        poll::until("the agent to be online", poll::LONG, || {
            let agents = bucket.cat("agents");
            let mine = agents.as_array().unwrap().iter().find(|row| row["host"] == self.host.as_str()).cloned();
            match mine {
                Some(row) if row["state"] == "online" => Ok(()),
                other => Err(other),
            }
        });
    }
}
