//! Edge: make targets that somebody runs on the worker itself. A process stands between the command and make,
//! as one does between the agent and make: it holds the job's lock, and remembers how it went. Whoever kills
//! the command leaves that process, so make never goes on without its lock.
#![expect(clippy::disallowed_methods, reason = "edge: runs make")]

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process};
use shared::api::v1::operation::is_target;
use shared::api::v1::report::Process;
use shared::diagnostic::chain;
use shared::{Code, Diagnostic};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::local::{agent, placed, unusable, wanted};
use crate::operations::process_after;
use crate::state::layout::Layout;
use crate::state::ledger::Ledger;
use crate::work::{Workshop, environment};
use crate::{alone, clock};

/// The hidden command of the process between.
pub const BETWEEN: &str = "__make";
/// How long what the agent itself runs is waited for.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the agent looks whether somebody else has written into its ledger.
const LOOK: Duration = Duration::from_secs(1);

/// Runs a make target of a job that is deployed here, as the agent would, and never beside it: through the
/// process between, which says itself what went wrong.
pub fn make(config: &Path, job: &str, target: &str) -> Result<ExitCode, Diagnostic> {
    check_target(target)?;
    let program = agent().map_err(|error| unusable("this program cannot be found").cause(&error))?;
    let mut command = Command::new(program);
    command.arg("--config").arg(config).args([BETWEEN, "--", job, target]);
    let status = attend(command).map_err(|error| unusable("make cannot be waited for").cause(&error))?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        (None, killed) => {
            let killed = killed.unwrap_or_default();
            let message = format!("job {job}: what waits for make {target} was ended by signal {killed}");
            Err(Diagnostic::new(Code::ActionFailed, message)
                .note("make may go on, and how it ends is not remembered")
                .remedy("look at the job, then run the target again"))
        }
    }
}

fn check_target(target: &str) -> Result<(), Diagnostic> {
    if is_target(target) {
        return Ok(());
    }
    let problem = Diagnostic::new(Code::Usage, format!("{target:?} is not a name of a make target"));
    Err(problem.remedy("a letter or digit, then letters, digits, _ . -"))
}

/// The process between: takes the job's lock, runs make to its end, and writes down what is known of the job's
/// process now, so that a job stopped by hand stays stopped and is shown as such.
pub fn between(config: &Config, job: &str, target: &str) -> Result<(), Diagnostic> {
    check_target(target)?;
    let parent = getppid();
    // Nobody wants any more what has not begun when its command is gone.
    let unwanted = || getppid() != parent;
    let layout = Layout::new(&config.root, config.bucket_id);
    let (_, before) = wanted(&layout, job)?;
    let name = before.job.as_str();
    let failed = |error: &dyn std::error::Error| unusable("the job's lock cannot be used").cause(error);
    let taken = match alone::try_take(&layout.own(), name).map_err(|error| failed(&error))? {
        Some(taken) => Some(taken),
        None => {
            let waits = format!("waiting for what is at work on {name}, at most {} s", PATIENCE.as_secs());
            drop(writeln!(io::stderr(), "{waits}"));
            alone::take(&layout.own(), name, clock::instant() + PATIENCE, unwanted).map_err(|error| failed(&error))?
        }
    };
    let Some(_alone) = taken.filter(|_| !unwanted()) else {
        let message = format!("job {name}: something else was at work on it for {} s", PATIENCE.as_secs());
        return Err(unusable(&message).remedy("maand-agent status; then try again"));
    };
    // As it is by now.
    let (desired, wanted) = wanted(&layout, job)?;
    placed(&layout, &wanted)?;
    let mut command = Command::new("make");
    command.args(["-s", "-C"]).arg(layout.job(&wanted.job)).arg(target);
    command.env_clear().envs(environment(&desired, &wanted));
    // What the job makes has the usual modes.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let status = attend(command);
    let _ours = rustix::process::umask(mask);
    let went_well = status.as_ref().is_ok_and(ExitStatus::success);
    if let (Some(good), Ok(_)) = (process_after(target), &status) {
        let process = if went_well { good } else { Process::Failed };
        Ledger::view(&layout)?.save_process(wanted.alloc_id, process).map_err(|error| {
            unusable(&format!("job {name}: make {target} was run, and that could not be written down")).cause(&error)
        })?;
    }
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("failed with exit code {code}"),
                (None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
            };
            Err(Diagnostic::new(Code::ActionFailed, format!("job {job}: make {target} {how}"))
                .remedy(format_args!("its output is above; maand-agent logs {name} shows what it wrote itself")))
        }
        Err(error) => Err(unusable("make cannot be run").cause(&error).remedy("install make on this worker")),
    }
}

/// Runs a program to its end, whatever this process is told meanwhile: that is handed on, so that the program
/// ends and this process is there to see how.
fn attend(command: Command) -> io::Result<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut hup = signal(SignalKind::hangup())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut child = tokio::process::Command::from(command).spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        loop {
            let told = tokio::select! {
                status = child.wait() => return status,
                _ = int.recv() => Signal::INT,
                _ = term.recv() => Signal::TERM,
                _ = hup.recv() => Signal::HUP,
                _ = quit.recv() => Signal::QUIT,
            };
            if let Some(pid) = pid {
                // Not waited for yet, so the number is still its own.
                let _gone = kill_process(pid, told);
            }
        }
    })
}

/// In the agent: notices what [`between`] wrote down, so that it is reported and checks of health know of it.
pub async fn notice(shop: Arc<Workshop>) {
    // What was there before is in the first report.
    drop(shop.ledger.changed_elsewhere());
    loop {
        tokio::time::sleep(LOOK).await;
        match shop.ledger.changed_elsewhere() {
            Ok(false) => {}
            Ok(true) => {
                shop.stirred.notify_one();
                shop.transient.report_now();
            }
            Err(error) => tracing::error!(error = chain(&error), "ledger_unreadable"),
        }
    }
}
