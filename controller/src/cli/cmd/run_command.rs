//! `maand run_command` (`spec/behaviour.md` 8.3).
#![expect(clippy::disallowed_methods, reason = "edge: reads workspace/command.sh")]

use std::collections::BTreeSet;

use shared::api::v1::operation::{MAX_SCRIPT, Work};
use shared::{Code, Diagnostic, Name};

use super::health_check::gate;
use crate::cli::Context;
use crate::cli::filter::{self, Filter, unknown};
use crate::cli::operate::Session;
use crate::drive::operations::Request;
use crate::failure::{Exit, Failure};
use crate::model::{Snapshot, Worker};

/// Run a script on workers, through their agents
///
/// bash runs it (sh where there is no bash) in the bucket's directory on the worker, as the agent's user,
/// with BUCKET_ID and WORKER_IP set. What it prints comes as it is printed, and goes to the logs.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand run_command 'cat worker.json' --workers 10.0.0.1\n  maand run_command 'df -h .' \
    --labels web -c 10\n  maand run_command                       workspace/command.sh, on every worker\n\nGoes through the \
    workers in batches of --concurrency; a failure lets its batch end and stops there.\nCtrl-C ends what runs, twice \
    leaves at once. A worker may refuse scripts: allow in its agent.toml.\nExit code 1 when it failed on any worker."
)]
pub struct Args {
    /// The script itself; without it workspace/command.sh
    script: Option<String>,
    /// Only these workers
    #[arg(short, long, value_delimiter = ',', value_name = "HOST,…", conflicts_with = "labels", value_parser = filter::name)]
    workers: Vec<String>,
    /// Only workers that have one of these labels
    #[arg(short, long, value_delimiter = ',', value_name = "LABEL,…", value_parser = filter::name)]
    labels: Vec<String>,
    /// Workers at the same time
    #[arg(short, long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,
    /// Seconds that it may take on a worker
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// After each batch every job that has checks must become healthy
    #[arg(long = "health_check", alias = "health-check")]
    health_check: bool,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let body = script(args, context)?;
    let mut session = Session::open(context, "run_command")?;
    let targets = targets(args, &session.snapshot)?;
    session.reach(&targets.iter().map(|worker| worker.worker_id).collect(), false)?;
    let (mut rows, mut problems, mut done) = (Vec::new(), Vec::new(), 0);
    for batch in targets.chunks(args.concurrency as usize) {
        let request = |worker: &Worker| Request {
            worker: worker.clone(),
            work: Work::Script { body: body.clone() },
            timeout_s: args.timeout,
            precondition: None,
        };
        let answers = session.ask(batch.iter().map(request).collect())?;
        done += batch.len();
        rows.extend(answers.iter().map(|answer| answer.json()));
        problems.extend(session.problems(&answers));
        if problems.is_empty() && args.health_check && !session.is_interrupted() {
            problems.extend(gate(&mut session, |_| true)?);
        }
        if !problems.is_empty() || session.is_interrupted() {
            break;
        }
    }
    if let Some(last) = problems.last_mut().filter(|_| done < targets.len()) {
        last.notes.push(format!(
            "it stopped there: {} of {} workers were not asked",
            targets.len() - done,
            targets.len()
        ));
    }
    session.end(&rows, problems)
}

fn script(args: &Args, context: &Context) -> Result<String, Failure> {
    let (body, from) = match &args.script {
        Some(body) => (body.clone(), "the argument".to_owned()),
        None => {
            let path = context.bucket.workspace().join("command.sh");
            let shown = context.bucket.shown(&path).to_string();
            let body = std::fs::read_to_string(&path).map_err(|error| {
                let problem = Diagnostic::new(Code::Usage, format!("no script was given, and {shown} cannot be read"));
                let problem = problem.cause(&error).remedy("write it there, or: maand run_command 'SCRIPT'");
                Failure::new(Exit::Usage, problem)
            })?;
            (body, shown)
        }
    };
    let wrong = |what: String| Err(Failure::new(Exit::Usage, Diagnostic::new(Code::Usage, what)));
    if body.trim().is_empty() {
        return wrong(format!("the script is empty ({from})"));
    }
    if body.len() > MAX_SCRIPT {
        return wrong(format!("the script has {} bytes, of at most {MAX_SCRIPT} ({from})", body.len()));
    }
    Ok(body)
}

fn targets(args: &Args, snapshot: &Snapshot) -> Result<Vec<Worker>, Failure> {
    let filter = Filter::new(snapshot, &[], &args.workers)?;
    let known: BTreeSet<&str> = snapshot.workers.iter().flat_map(|worker| &worker.labels).map(Name::as_str).collect();
    let labels: Vec<&str> = args.labels.iter().map(String::as_str).collect();
    let problems: Vec<Diagnostic> = labels
        .iter()
        .filter(|label| !known.contains(*label))
        .map(|label| unknown("label", label, known.iter().copied()))
        .collect();
    if !problems.is_empty() {
        return Err(Failure { exit: Exit::Usage, problems });
    }
    let labelled = |worker: &Worker| labels.is_empty() || worker.labels.iter().any(|l| labels.contains(&l.as_str()));
    let chosen = snapshot.workers.iter().filter(|worker| filter.worker(&worker.host) && labelled(worker));
    let chosen: Vec<Worker> = chosen.cloned().collect();
    if chosen.is_empty() {
        let problem = Diagnostic::new(Code::NothingToShow, "there is no worker to run it on");
        let problem = problem.remedy("list workers in workspace/workers.json and run maand build");
        return Err(Failure::new(Exit::Usage, problem));
    }
    Ok(chosen)
}
