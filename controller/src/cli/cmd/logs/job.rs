//! `maand logs job`: what a job wrote into its own logs/ on its workers, through their agents.

use shared::{Code, Diagnostic};

use crate::cli::Context;
use crate::cli::filter::{self, Filter};
use crate::cli::operate::Session;
use crate::drive::operations::Request;
use crate::failure::{Exit, Failure};
use crate::model::Allocation;

/// Show what a job wrote into its own logs/ on its workers, through their agents
///
/// The end of each file that is directly in that directory, at most 1 MiB. It is not copied into the logs of
/// this bucket: there maand logs show has what make targets, scripts and hooks printed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  maand logs job api
  maand logs job api --worker 10.0.0.1 --tail 20 --follow

Links are not followed, and at most 32 files are shown, those that were written to
last. A worker may refuse it: allow in its agent.toml, \"logs\".
On the worker itself: maand-agent logs api.")]
pub struct Args {
    /// The job
    #[arg(value_parser = filter::name)]
    job: String,
    /// Only of these workers
    #[arg(short, long, value_delimiter = ',', value_name = "HOST,…", value_parser = filter::name)]
    worker: Vec<String>,
    /// Lines from the end of each file
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tail: u32,
    /// Then show new lines as they come, until Ctrl-C
    #[arg(short, long, conflicts_with = "json")]
    follow: bool,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let mut session = Session::open(context, "logs")?;
    let filter = Filter::new(&session.snapshot, std::slice::from_ref(&args.job), &args.worker)?;
    let chosen: Vec<Allocation> = session
        .snapshot
        .allocations
        .iter()
        .filter(|a| filter.job(&a.job) && filter.worker(&a.host) && !a.removed)
        .cloned()
        .collect();
    if chosen.is_empty() {
        let problem = Diagnostic::new(Code::NothingToShow, format!("job {} is on none of these workers", args.job));
        return Err(Failure::new(Exit::Usage, problem.remedy("maand cat allocations shows what is where")));
    }
    session.reach(&chosen.iter().map(|allocation| allocation.worker_id).collect(), false)?;
    let requests: Vec<Request> =
        chosen.iter().filter_map(|allocation| session.logs(allocation, args.tail, args.follow)).collect();
    let answers = session.ask(requests)?;
    if args.follow && session.is_interrupted() {
        session.leave();
        return Ok(());
    }
    let rows: Vec<_> = answers.iter().map(|answer| answer.json()).collect();
    let problems = session.problems(&answers);
    session.end(&rows, problems)
}
