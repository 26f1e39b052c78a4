//! Edge: agents of `maand dev`, as processes of this machine.
#![expect(clippy::disallowed_methods, reason = "edge: processes and their directories")]

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use shared::diagnostic::chain;
use shared::{Code, Diagnostic, Host};

use crate::clock;
use crate::failure::{Exit, Failure};
use crate::model::Snapshot;
use crate::paths::BucketDir;

/// How long an agent may take to end, and each job to stop.
const END: Duration = Duration::from_secs(15);

/// Finds `maand-agent` beside this program.
pub fn program() -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe().map(|path| path.with_file_name("maand-agent"));
    match beside {
        Ok(path) if path.is_file() => Ok(path),
        Ok(path) => Err(failure(
            Diagnostic::new(Code::AgentState, format!("maand-agent is not at {}", path.display()))
                .remedy("install both programs into one directory (in a checkout: cargo dev)"),
        )),
        Err(error) => {
            Err(failure(Diagnostic::new(Code::AgentState, "this program's own place is unknown").cause(&error)))
        }
    }
}

fn failure(problem: Diagnostic) -> Failure {
    Failure::new(Exit::Failed, problem)
}

/// An agent in `<bucket>/dev/<host>`; ended when dropped.
#[derive(Debug)]
pub struct LocalAgent {
    host: Host,
    dir: PathBuf,
    child: Child,
}

impl LocalAgent {
    /// Joins with a token from `token` unless it has joined before, and starts it.
    pub fn start(
        program: &Path,
        bucket: &BucketDir,
        host: &Host,
        url: &str,
        token: impl FnOnce() -> Result<String, Failure>,
    ) -> Result<Self, Failure> {
        let dir = bucket.root().join("dev").join(host.as_str());
        std::fs::create_dir_all(&dir).map_err(|error| cannot(host, "make its directory", &error))?;
        let config = dir.join("agent.toml");
        if !has_joined(&config) {
            let output = agent_command(program, &config)
                .args(["join", url, &token()?])
                .arg("--root")
                .arg(dir.join("root"))
                .arg("--state")
                .arg(dir.join("state"))
                .stdin(Stdio::null())
                .output()
                .map_err(|error| cannot(host, "run maand-agent join", &error))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(failure(
                    Diagnostic::new(Code::JoinRefused, format!("the agent for {host} could not join")).note(said),
                ));
            }
        }
        let log = File::options().create(true).append(true).open(dir.join("agent.log"));
        let log = log.map_err(|error| cannot(host, "open its log", &error))?;
        let again = log.try_clone().map_err(|error| cannot(host, "open its log", &error))?;
        let child = agent_command(program, &config)
            .args(["run", "--controller", url])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            // Ctrl-C is for maand dev, which then stops the jobs before it ends the agents.
            .process_group(0)
            .spawn()
            .map_err(|error| cannot(host, "run maand-agent", &error))?;
        Ok(Self { host: host.clone(), dir, child })
    }

    /// Which worker it is.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What would be /opt/worker.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Ends the agent, then stops its jobs; what could not be stopped comes back as problems.
    pub fn stop(mut self, snapshot: &Snapshot) -> Vec<Diagnostic> {
        self.end();
        let jobs = self.root().join(snapshot.bucket_id.to_string()).join("jobs");
        let mine = snapshot.allocations.iter().filter(|a| a.host == self.host && jobs.join(a.job.as_str()).is_dir());
        mine.filter_map(|a| {
            let problem =
                Diagnostic::new(Code::ActionFailed, format!("make stop of {} on {} failed", a.job, self.host));
            let child = Command::new("make")
                .args(["-s", "-C"])
                .arg(jobs.join(a.job.as_str()))
                .arg("stop")
                .env("CURRENT_VERSION", &a.new_version)
                .env("NEW_VERSION", &a.new_version)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn();
            match child {
                Err(error) => Some(problem.cause(&error)),
                Ok(mut child) => match wait(&mut child) {
                    Some(true) => None,
                    Some(false) => Some(problem.note("it exited with an error")),
                    None => {
                        drop(child.kill());
                        drop(child.wait());
                        Some(problem.note(format!("it did not end within {} s", END.as_secs())))
                    }
                },
            }
        })
        .collect()
    }

    fn end(&mut self) {
        let _ended = kill_process(Pid::from_child(&self.child), Signal::TERM);
        if wait(&mut self.child).is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

impl Drop for LocalAgent {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether the child ended well; `None` when it did not end in time.
fn wait(child: &mut Child) -> Option<bool> {
    let begin = clock::instant();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Err(_) => return Some(false),
            Ok(None) if begin.elapsed() > END => return None,
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn agent_command(program: &Path, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--config").arg(config);
    command
}

fn has_joined(config: &Path) -> bool {
    config.is_file()
}

fn cannot(host: &Host, operation: &str, error: &std::io::Error) -> Failure {
    failure(Diagnostic::new(Code::Storage, format!("the agent for {host}: cannot {operation}")).note(chain(error)))
}
