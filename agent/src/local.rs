//! Edge: what people do on the worker itself, with the controller away or not: make targets, and the older
//! `runner.py` that hands them on.
#![expect(clippy::disallowed_methods, reason = "edge: runs make, reads jobs.json, writes runner.py")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use shared::api::v1::desired::{DesiredAllocation, DesiredState, RunState};
use shared::api::v1::operation::is_target;
use shared::text::closest;
use shared::{Code, Diagnostic, JobName};

use crate::config::Config;
use crate::reconcile::Place;
use crate::state::durable;
use crate::state::layout::Layout;
use crate::state::ledger::Ledger;
use crate::work::environment;
use crate::{alone, clock, job_logs};

/// How long what the agent itself runs is waited for.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest jobs.json that is read, bytes.
const LONGEST: u64 = 16 << 20;

fn unusable(what: &str) -> Diagnostic {
    Diagnostic::new(Code::AgentState, what)
}

/// Runs a make target of a job that is deployed here, as the agent would, and never beside it.
pub fn make(config: &Config, job: &str, target: &str) -> Result<(), Diagnostic> {
    if !is_target(target) {
        let problem = Diagnostic::new(Code::Usage, format!("{target:?} is not a name of a make target"));
        return Err(problem.remedy("a letter or digit, then letters, digits, _ . -"));
    }
    let layout = Layout::new(&config.root, config.bucket_id);
    let (_, before) = wanted(&layout, job)?;
    let name = before.job.as_str();
    let failed = |error: &dyn std::error::Error| unusable("the job's lock cannot be used").cause(error);
    let taken = match alone::try_take(&layout.own(), name).map_err(|error| failed(&error))? {
        Some(taken) => Some(taken),
        None => {
            drop(writeln!(
                std::io::stderr(),
                "waiting for what is at work on {name}, at most {} s",
                PATIENCE.as_secs()
            ));
            alone::take(&layout.own(), name, clock::instant() + PATIENCE, || false).map_err(|error| failed(&error))?
        }
    };
    let Some(_alone) = taken else {
        let message = format!("job {name}: something else was at work on it for {} s", PATIENCE.as_secs());
        return Err(unusable(&message).remedy("maand-agent status; then try again"));
    };
    // As it is by now.
    let (desired, wanted) = wanted(&layout, job)?;
    placed(&layout, &wanted)?;
    // What the job makes has the usual modes.
    let _before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let status = Command::new("make")
        .args(["-s", "-C"])
        .arg(layout.job(&wanted.job))
        .arg(target)
        .env_clear()
        .envs(environment(&desired, &wanted))
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("failed with exit code {code}"),
                (None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
            };
            Err(Diagnostic::new(Code::ActionFailed, format!("job {name}: make {target} {how}"))
                .remedy(format_args!("its output is above; maand-agent logs {name} shows what it wrote itself")))
        }
        Err(error) => Err(unusable("make cannot be run").cause(&error).remedy("install make on this worker")),
    }
}

/// A job as this worker was last told of it.
fn wanted(layout: &Layout, job: &str) -> Result<(DesiredState, DesiredAllocation), Diagnostic> {
    let failed = |error: &dyn std::error::Error| unusable("the ledger cannot be read").cause(error);
    let accepted = Ledger::view(layout)?.accepted().map_err(|error| failed(&error))?;
    let Some((_, payload)) = accepted else {
        return Err(unusable("this worker has not been told of any job yet").remedy("maand deploy on the controller"));
    };
    let desired: DesiredState = serde_json::from_slice(&payload).map_err(|error| failed(&error))?;
    let here = |a: &&DesiredAllocation| matches!(a.state, RunState::Running | RunState::Stopped);
    match desired.allocations.iter().filter(here).find(|a| a.job.as_str() == job).cloned() {
        Some(wanted) => Ok((desired, wanted)),
        None => {
            let known: Vec<&str> = desired.allocations.iter().filter(here).map(|a| a.job.as_str()).collect();
            let problem = unusable(&format!("job {job:?} is not on this worker"));
            Err(match closest(job, known.iter().copied()) {
                Some(close) => problem.remedy(format_args!("did you mean {close:?}?")),
                None => problem.remedy("maand-agent status lists the jobs that are here"),
            })
        }
    }
}

/// Whether its files are in place.
fn placed(layout: &Layout, wanted: &DesiredAllocation) -> Result<(), Diagnostic> {
    let failed = |error: &dyn std::error::Error| unusable("the ledger cannot be read").cause(error);
    let row = Ledger::view(layout)?.row(wanted.alloc_id).map_err(|error| failed(&error))?;
    if row.is_some_and(|row| matches!(row.place, Place::Whole(_))) {
        return Ok(());
    }
    let problem = unusable(&format!("the files of job {} are not in place", wanted.job));
    Err(problem.remedy("let the deploy that is under way end; maand-agent status shows what is here"))
}

/// Shows what a job wrote into its own logs/.
pub fn logs(config: &Config, job: &str, tail: usize, follow: bool) -> Result<(), Diagnostic> {
    let layout = Layout::new(&config.root, config.bucket_id);
    let name: JobName = job.parse().map_err(|error: shared::id::IdError| unusable(&error.to_string()))?;
    let dir = layout.job(&name);
    if !dir.is_dir() {
        // Says which are here; a job that was removed has its logs until gc.
        wanted(&layout, job)?;
    }
    let mut out = std::io::stdout().lock();
    match job_logs::show(&dir, tail, follow, u64::MAX, &mut out) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(unusable("the job's logs cannot be read").at(dir.join("logs").display()).cause(&error)),
        Ok(()) => Ok(()),
    }
}

/// A line of jobs.json.
#[derive(Debug, Deserialize)]
struct Listed {
    job: String,
    #[serde(default)]
    disabled: u8,
}

/// What `runner.py` hands on (`spec/behaviour.md` 5.2): the target in each of the jobs, one after the other;
/// the first that fails ends it.
pub fn runner(config: &Config, bucket: &str, target: &str, jobs: &[String]) -> Result<(), Diagnostic> {
    if bucket != config.bucket_id.to_string() {
        let problem = unusable(&format!("this agent is of bucket {}, not of {bucket}", config.bucket_id));
        return Err(problem.remedy("use the runner.py in that bucket's directory"));
    }
    let path = Layout::new(&config.root, config.bucket_id).jobs_json();
    let failed = |error: &dyn std::error::Error| unusable("jobs.json cannot be read").at(path.display()).cause(error);
    let length = std::fs::metadata(&path).map_err(|error| failed(&error))?.len();
    if length > LONGEST {
        return Err(unusable("jobs.json is longer than it can be").at(path.display()));
    }
    let text = std::fs::read(&path).map_err(|error| failed(&error))?;
    let listed: Vec<Listed> = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let starts = ["start", "restart"].contains(&target);
    let chosen: Vec<&str> = if jobs.is_empty() {
        listed.iter().filter(|job| !starts || job.disabled == 0).map(|job| job.job.as_str()).collect()
    } else {
        jobs.iter().map(String::as_str).filter(|name| listed.iter().any(|job| job.job == *name)).collect()
    };
    chosen.into_iter().try_for_each(|job| make(config, job, target))
}

/// Where this program is.
pub fn agent() -> std::io::Result<std::path::PathBuf> {
    std::env::current_exe()
}

/// `bin/runner.py` of the bucket's directory, for people's habits and scripts.
pub fn write_runner(layout: &Layout, agent: &Path, config: &Path) -> std::io::Result<()> {
    // A text of JSON is one of Python.
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    let text = format!(
        "#!/usr/bin/env python3\n\
         \"\"\"runner.py BUCKET_ID TARGET [--jobs a,b]: hands TARGET to the agent of this worker.\n\n\
         Written by maand-agent, which needs no python; maand-agent make JOB TARGET does the same.\n\"\"\"\n\
         import os\nimport sys\n\n\
         agent = {}\nos.execv(agent, [agent, \"--config\", {}, \"__runner\"] + sys.argv[1:])\n",
        quoted(agent),
        quoted(config)
    );
    let dir = layout.bucket().join("bin");
    std::fs::create_dir_all(&dir)?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))?;
    durable::write_soon(&dir.join("runner.py"), text.as_bytes(), 0o755)
}
