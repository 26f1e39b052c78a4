//! The command line: parsing, dispatch, and the one way out.

pub mod cmd;
pub mod filter;
mod help;
pub mod meanwhile;
pub mod operate;
pub mod table;
pub mod ui;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use shared::{Code, Diagnostic};

use crate::failure::{Exit, Failure};
use crate::paths::BucketDir;
use crate::{config, permissions, renderer};

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// The bucket that `-C`, `MAAND_BUCKET` or the current directory names.
    pub bucket: BucketDir,
    /// Where to print.
    pub ui: ui::Ui,
}

/// Heading of what every command takes.
const EVERYWHERE: &str = "With every command";

/// Deploys services to a fixed pool of Linux machines; the machines pull.
///
/// A bucket is a directory with the workers, the jobs and a catalog. `maand build` turns its
/// workspace into the catalog, `maand deploy` rolls the catalog out. Nothing ever connects to a
/// worker: maand-agent on it dials this controller.
#[derive(Debug, Parser)]
#[command(
    name = "maand",
    bin_name = "maand",
    version,
    after_long_help = "A first bucket, with a controller and three agents on this machine:\n  maand dev\n\n\
        A bucket of your own:\n  mkdir shop && cd shop && maand init\n  $EDITOR workspace/workers.json   # and \
        workspace/jobs/<job>/\n  maand build && maand serve\n  maand agent token 10.0.0.1       # prints the line to \
        run on that worker\n  maand deploy --dry-run && maand deploy\n\nExit codes:\n  0    done, also when there was nothing to do\n  \
        1    a deploy, hook, health check or operation failed, wholly or in part\n  2    the command line\n  \
        3    workspace or configuration\n  4    not a bucket, or its catalog is of another version\n  255  a bug\n\n\
        maand explain CODE says what an error is about."
)]
struct Cli {
    /// The bucket's directory, if it is not this one; else /var/lib/maand/bucket
    #[arg(
        short = 'C',
        long = "bucket",
        value_name = "DIR",
        env = "MAAND_BUCKET",
        global = true,
        hide_env_values = true,
        help_heading = EVERYWHERE
    )]
    bucket: Option<PathBuf>,

    /// Print results as JSON, and problems as JSON lines on standard error
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(cmd::init::Args),
    Build(cmd::build::Args),
    Deploy(cmd::deploy::Args),
    #[command(subcommand)]
    Rollout(cmd::rollout::Command),
    Drive(cmd::drive::Args),
    Gc(cmd::gc::Args),
    Backup(cmd::backup::Args),
    Recover(cmd::recover::Args),
    Stage(cmd::stage::Args),
    Why(cmd::why::Args),
    Info(cmd::info::Args),
    #[command(subcommand)]
    Cat(cmd::cat::Command),
    #[command(alias = "jobcommand", alias = "job_command")]
    Hooks(cmd::hooks::Args),
    #[command(subcommand)]
    Job(cmd::job::Command),
    #[command(name = "run_command", alias = "run-command")]
    RunScript(cmd::run_command::Args),
    #[command(name = "worker_facts", alias = "worker-facts")]
    WorkerFacts(cmd::worker_facts::Args),
    #[command(name = "health_check", alias = "health-check")]
    HealthCheck(cmd::health_check::Args),
    #[command(subcommand)]
    Agent(cmd::agent::Command),
    #[command(subcommand)]
    Logs(cmd::logs::Command),
    Explain(cmd::explain::Args),
    Serve(cmd::serve::Args),
    Dev(cmd::dev::Args),
}

/// The whole command line, for help pages, man pages and completions.
pub fn command() -> clap::Command {
    help::fitted(Cli::command())
}

/// Runs `maand`: parses, dispatches, prints what went wrong.
pub fn main() -> ExitCode {
    // A core dump would have keys and secrets in it; what is started does not inherit this.
    let _set = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // Not a command of people: see `renderer`.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == renderer::COMMAND) {
        return renderer::child::main(words);
    }
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        // Help and version are no errors; clap prints each where it belongs and exits 0 or 2 as we do.
        Err(error) => error.exit(),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let ui = ui::Ui::new(cli.json, ui::no_color());
    let makes = matches!(cli.command, Command::Init(_) | Command::Dev(_));
    let bucket = match cli.bucket {
        Some(dir) => BucketDir::new(dir),
        None if makes => BucketDir::new("."),
        None => {
            let found = config::meant_bucket();
            if found.root() != std::path::Path::new(".") {
                ui.say(format_args!("bucket {}", found.root().display()));
            }
            found
        }
    };
    permissions::adopt(bucket.root());
    let context = Context { bucket, ui };
    let result = match cli.command {
        Command::Init(args) => cmd::init::run(args, &context),
        Command::Build(args) => cmd::build::run(args, &context),
        Command::Deploy(args) => cmd::deploy::run(args, &context),
        Command::Rollout(command) => cmd::rollout::run(command, &context),
        Command::Drive(args) => cmd::drive::run(args, &context),
        Command::Gc(args) => cmd::gc::run(args, &context),
        Command::Backup(args) => cmd::backup::run(args, &context),
        Command::Recover(args) => cmd::recover::run(args, &context),
        Command::Stage(args) => cmd::stage::run(args, &context),
        Command::Why(args) => cmd::why::run(args, &context),
        Command::Info(args) => cmd::info::run(args, &context),
        Command::Cat(command) => cmd::cat::run(command, &context),
        Command::Hooks(args) => cmd::hooks::run(&args, &context),
        Command::Job(command) => cmd::job::run(command, &context),
        Command::RunScript(args) => cmd::run_command::run(&args, &context),
        Command::WorkerFacts(args) => cmd::worker_facts::run(&args, &context),
        Command::HealthCheck(args) => cmd::health_check::run(&args, &context),
        Command::Agent(command) => cmd::agent::run(command, &context),
        Command::Logs(command) => cmd::logs::run(command, &context),
        Command::Explain(args) => cmd::explain::run(&args, &context),
        Command::Serve(args) => cmd::serve::run(args, &context),
        Command::Dev(args) => cmd::dev::run(args, &context),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for problem in &failure.problems {
                context.ui.problem(problem);
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

impl Context {
    /// Opens the catalog of the bucket.
    pub fn catalog(&self) -> Result<crate::catalog::Catalog, Failure> {
        Ok(crate::catalog::Catalog::open(&self.bucket.database())?)
    }

    /// A runtime for commands that serve or wait.
    pub fn runtime(&self) -> Result<tokio::runtime::Runtime, Failure> {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|error| {
            let problem = Diagnostic::new(Code::Storage, "the threads to serve agents cannot be started");
            Failure::new(Exit::Failed, problem.cause(&error))
        })
    }
}
