//! Edge: what people do on the worker itself, with the controller away or not: looking at logs of jobs, and the
//! older `runner.py` that hands make targets on (`by_hand.rs`).
#![expect(clippy::disallowed_methods, reason = "edge: reads jobs.json, writes runner.py")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use serde::Deserialize;
use shared::api::v1::desired::{DesiredAllocation, DesiredState, RunState};
use shared::text::closest;
use shared::{Code, Diagnostic, JobName};

use crate::config::Config;
use crate::reconcile::Place;
use crate::state::durable;
use crate::state::layout::Layout;
use crate::state::ledger::Ledger;
use crate::{by_hand, job_logs};

/// Longest jobs.json that is read, bytes.
const LONGEST: u64 = 16 << 20;

/// The agent's own state is not as it should be.
pub fn unusable(what: &str) -> Diagnostic {
    Diagnostic::new(Code::AgentState, what)
}

/// A job as this worker was last told of it.
pub fn wanted(layout: &Layout, job: &str) -> Result<(DesiredState, DesiredAllocation), Diagnostic> {
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
pub fn placed(layout: &Layout, wanted: &DesiredAllocation) -> Result<(), Diagnostic> {
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
pub fn runner(path: &Path, bucket: &str, target: &str, jobs: &[String]) -> Result<ExitCode, Diagnostic> {
    let config = Config::load(path)?;
    if bucket != config.bucket_id.to_string() {
        let problem = unusable(&format!("this agent is of bucket {}, not of {bucket}", config.bucket_id));
        return Err(problem.remedy("use the runner.py in that bucket's directory"));
    }
    let list = Layout::new(&config.root, config.bucket_id).jobs_json();
    let failed = |error: &dyn std::error::Error| unusable("jobs.json cannot be read").at(list.display()).cause(error);
    let length = std::fs::metadata(&list).map_err(|error| failed(&error))?.len();
    if length > LONGEST {
        return Err(unusable("jobs.json is longer than it can be").at(list.display()));
    }
    let text = std::fs::read(&list).map_err(|error| failed(&error))?;
    let listed: Vec<Listed> = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let starts = ["start", "restart"].contains(&target);
    let chosen: Vec<&str> = if jobs.is_empty() {
        listed.iter().filter(|job| !starts || job.disabled == 0).map(|job| job.job.as_str()).collect()
    } else {
        jobs.iter().map(String::as_str).filter(|name| listed.iter().any(|job| job.job == *name)).collect()
    };
    for job in chosen {
        let ended = by_hand::make(path, job, target)?;
        if ended != ExitCode::SUCCESS {
            return Ok(ended);
        }
    }
    Ok(ExitCode::SUCCESS)
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
