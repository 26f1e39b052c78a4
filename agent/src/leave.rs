//! Edge: the end of an agent: what it runs is stopped, its files go, its certificate ends. Each step is done only
//! after the one before, and can be done again: what failed half way is gone on with by the same command.
#![expect(clippy::disallowed_methods, reason = "edge: removes what the agent made")]

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use shared::{Code, Diagnostic};

use crate::client::{Client, Failed};
use crate::config::{self, Config};
use crate::identity::Identity;
use crate::reconcile::{Place, Row};
use crate::report::{self, Transient};
use crate::state::layout::Layout;
use crate::state::ledger::Ledger;
use crate::work::clear;
use crate::{by_hand, machine, renew, unit};

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Jobs go on, with their files.
    pub keep_running: bool,
    /// The controller need not hear of it.
    pub offline: bool,
    /// Nobody is asked.
    pub yes: bool,
}

/// Leaves the bucket of `path`.
pub fn leave(path: &Path, wish: Wish, runtime: &tokio::runtime::Runtime) -> Result<(), Diagnostic> {
    let config = Config::load(path)?;
    let layout = Layout::new(&config.root, config.bucket_id);
    let jobs: Vec<Row> = if layout.ledger().is_file() { here(&Ledger::view(&layout)?)? } else { Vec::new() };
    confirm(&config, &jobs, wish)?;
    // Before anything is ended: what cannot be finished is better not begun.
    if !wish.offline
        && let Err(Failed::Transport(error)) = runtime.block_on(client(&config, None)?.desired(None, 0))
    {
        let message = format!("the controller at {} cannot be reached: nothing was done", config.controller);
        let problem = Diagnostic::new(Code::ControllerUnreachable, message).cause(&error);
        return Err(problem.remedy("try again when it is there; or add --offline, and there: maand agent revoke HOST"));
    }
    unit::end(path)?;
    let (ledger, session) = Ledger::open(&layout)?;
    let client = client(&config, Some(session))?;
    let rows = here(&ledger)?;
    if !wish.keep_running {
        stop(&config, &ledger, &rows)?;
        for row in rows {
            clean(&layout, &ledger, row)?;
        }
    }
    if !wish.offline {
        let told = runtime.block_on(async {
            // So that the controller's tables show what became of the jobs; what counts is the next line.
            if let Ok(number) = client.numbered().await
                && let Ok(report) = report::once(&ledger, &Transient::default(), number)
            {
                drop(client.report(&report).await);
            }
            client.leave().await
        });
        revoked(&config, told)?;
    }
    drop(ledger);
    forget(path, &config, &layout, wish.keep_running)?;
    say(format_args!("left bucket {}", config.bucket_id));
    Ok(())
}

fn say(text: std::fmt::Arguments<'_>) {
    drop(writeln!(io::stdout(), "{text}"));
}

/// What has files here.
fn here(ledger: &Ledger) -> Result<Vec<Row>, Diagnostic> {
    let rows = ledger.rows().map_err(|error| state("the ledger cannot be read").cause(&error))?;
    Ok(rows.into_iter().filter(|row| !row.purged && row.place != Place::Empty).collect())
}

fn state(what: &str) -> Diagnostic {
    Diagnostic::new(Code::AgentState, what)
}

fn confirm(config: &Config, jobs: &[Row], wish: Wish) -> Result<(), Diagnostic> {
    let names = jobs.iter().map(|row| row.job.as_str()).collect::<Vec<_>>().join(", ");
    let what = match (jobs.is_empty(), wish.keep_running) {
        (true, _) => "it has no jobs here".to_owned(),
        (false, true) => format!("jobs go on, and nobody looks after them: {names}"),
        (false, false) => format!("jobs are stopped and their files removed, but for data/ and logs/: {names}"),
    };
    let mut err = io::stderr();
    drop(writeln!(err, "this machine leaves bucket {} of {}; {what}", config.bucket_id, config.controller));
    if wish.yes {
        return Ok(());
    }
    let refused = |message: &str| Diagnostic::new(Code::Usage, message);
    if !io::stdin().is_terminal() {
        return Err(refused("nobody is here to be asked: nothing was done").remedy("add --yes"));
    }
    drop(write!(err, "go on? [y/N] "));
    drop(err.flush());
    let mut answer = String::new();
    drop(io::stdin().lock().read_line(&mut answer));
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(refused("nothing was done")),
    }
}

/// A client that takes the agent's place, or, before there is a ledger, one that only looks who answers.
fn client(config: &Config, ledger: Option<u64>) -> Result<Client, Diagnostic> {
    let unusable = |error: &dyn std::error::Error| state("the agent's identity cannot be used").cause(error);
    let identity = Identity::new(&config.state, config.bucket_id);
    let tls = renew::tls(&identity.load()?, config.bucket_id)?;
    let machine = machine::check(&identity, config.bucket_id)?;
    let client = match ledger {
        Some(counted) => Client::starting(tls, &config.controller, machine.start(config.bucket_id, counted)),
        None => Client::new(tls, &config.controller, 0),
    };
    client.map_err(|error| unusable(&error))
}

/// `make stop` of each, all of them even when one fails.
fn stop(config: &Config, ledger: &Ledger, rows: &[Row]) -> Result<(), Diagnostic> {
    use shared::api::v1::report::Process;
    let mut failed = Vec::new();
    for row in rows.iter().filter(|row| row.process != Process::Stopped) {
        match by_hand::between(config, row.job.as_str(), "stop") {
            Ok(()) => {
                say(format_args!("job {}: stopped", row.job));
                let stopped = Row { process: Process::Stopped, running: None, ..ledger_row(ledger, row)? };
                ledger.save(&stopped).map_err(|error| state("the ledger cannot be written").cause(&error))?;
            }
            Err(problem) => {
                drop(writeln!(io::stderr(), "{problem}"));
                failed.push(row.job.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let message = format!("not stopped: {}", failed.join(", "));
    let problem = Diagnostic::new(Code::ActionFailed, message);
    let problem = problem.note("the agent is ended; no file was removed, and the controller was told nothing");
    Err(problem.remedy("mend it and run this again, or add --keep-running"))
}

fn clean(layout: &Layout, ledger: &Ledger, row: Row) -> Result<(), Diagnostic> {
    let failed = |why: String| state(&format!("the files of job {} cannot be removed", row.job)).note(why);
    let job = layout.job(&row.job);
    clear(layout, ledger, ledger_row(ledger, &row)?).map_err(failed)?;
    // With nothing of its own left in it the directory goes as well.
    for own in ["data", "logs"] {
        drop(std::fs::remove_dir(job.join(own)));
    }
    if std::fs::remove_dir(&job).is_err() {
        say(format_args!("job {}: files removed; what is its own stays in {}", row.job, job.display()));
    } else {
        say(format_args!("job {}: files removed", row.job));
    }
    Ok(())
}

/// As it is by now: stopping it has changed it.
fn ledger_row(ledger: &Ledger, row: &Row) -> Result<Row, Diagnostic> {
    let now = ledger.row(row.alloc_id).map_err(|error| state("the ledger cannot be read").cause(&error))?;
    Ok(now.unwrap_or_else(|| row.clone()))
}

fn revoked(config: &Config, told: Result<(), Failed>) -> Result<(), Diagnostic> {
    match told {
        Ok(()) => {
            say(format_args!("{} ended this agent's certificate", config.controller));
            Ok(())
        }
        // It was ended there already, by an earlier try of this or by an operator.
        Err(Failed::Refused { status: 403, .. }) => Ok(()),
        Err(error) => {
            let problem = Diagnostic::new(Code::ControllerUnreachable, "the controller did not take it").cause(&error);
            Err(problem.remedy("run this again, or with --offline, and there: maand agent revoke HOST"))
        }
    }
}

/// Who this machine was, and what the agent kept for itself. What still runs keeps the ledger: an agent that joins
/// again knows by it what is here.
fn forget(path: &Path, config: &Config, layout: &Layout, keeps: bool) -> Result<(), Diagnostic> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let removed = (|| {
        if !keeps {
            gone(std::fs::remove_dir_all(layout.own()))?;
            gone(std::fs::remove_file(layout.worker_json()))?;
            gone(std::fs::remove_file(layout.jobs_json()))?;
            gone(std::fs::remove_dir_all(layout.bucket().join("bin")))?;
            // Only what is empty.
            drop(std::fs::remove_dir(layout.jobs()));
            drop(std::fs::remove_dir(layout.bucket()));
        }
        gone(std::fs::remove_dir_all(config.state.join(config.bucket_id.to_string())))?;
        let settings = config::written_by_join(path).map_err(|error| io::Error::other(error.to_string()))?;
        gone(std::fs::remove_file(settings))
    })();
    removed.map_err(|error| state("what the agent made cannot be removed").cause(&error).remedy("run this again"))
}
