//! The command line: join, run, status, make, logs.

mod serve;
mod status;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use shared::{Code, Diagnostic};

use crate::config::Config;
use crate::identity::Identity;
use crate::join::{self, Place};
use crate::leave::{self, Wish};
use crate::{by_hand, facts, job_logs, local, machine, run, unit};

/// Pulls what this machine should run from its controller, puts it in place and runs it.
///
/// The agent dials the controller; nothing connects to it. It keeps running what runs when the
/// controller is away.
#[derive(Debug, Parser)]
#[command(
    name = "maand-agent",
    bin_name = "maand-agent",
    version,
    after_long_help = "On the controller:\n  maand agent token HOST\nHere, as root, the line that it printed, \
        then:\n  maand-agent run\n\nExit codes: 0 done, 1 failed, 2 usage, 3 configuration,\n\
        4 the ledger is of a newer maand-agent, 255 a bug."
)]
struct Cli {
    /// The agent's settings
    #[arg(long, value_name = "FILE", default_value = "/etc/maand/agent.toml", global = true)]
    config: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enrol with a token of `maand agent token HOST`, and write the settings
    ///
    /// Makes a key that never leaves this machine and gets a certificate for it. The token is good once, and
    /// names the controller: no other one is believed.
    #[command(
        after_long_help = "Examples:\n  maand-agent join https://10.0.0.254:7443 TOKEN   as the controller printed it\n  \
        maand-agent join https://10.0.0.254:7443 - < token\n  \
        maand-agent join URL TOKEN --replace             in place of the identity here"
    )]
    Join {
        /// The controller, https://host:port
        url: String,
        /// The token; `-` reads it from standard input
        token: String,
        /// Where jobs live, if the settings do not say it [default: /opt/worker]
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
        /// Where this agent's key and certificate live, if the settings do not say it [default:
        /// /var/lib/maand-agent]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// Join anew, in place of the identity that is there
        #[arg(long)]
        replace: bool,
        /// Then enable the unit of these settings and start it: maand-agent.service, or maand-agent@NAME.service
        /// for /etc/maand/agent-NAME.toml
        #[arg(long)]
        now: bool,
    },
    /// Serve this worker, in the foreground
    ///
    /// Asks the controller what should run here, puts it in place, runs it, checks it and reports. With the
    /// controller away, what runs goes on. Under systemd it says when it is ready.
    #[command(
        after_long_help = "Examples:\n  maand-agent run\n  maand-agent run --controller https://127.0.0.1:7443   a tunnel"
    )]
    Run {
        /// Dial this address instead of the one in the settings
        #[arg(long, value_name = "URL")]
        controller: Option<String>,
        /// Where the id of this boot is read from; for tests
        #[arg(long, value_name = "FILE", default_value = facts::BOOT_ID, hide = true)]
        boot_id_file: PathBuf,
    },
    /// Leave the bucket: stop what runs here, remove its files, end this agent's certificate
    ///
    /// Each job is stopped by its own make stop. Its files are removed; data/ and logs/ and whatever no bundle put
    /// there stay. Then the controller ends the certificate, and this machine forgets who it was. A job that does
    /// not stop ends it before any file is removed; run again, it goes on where it was. The controller goes on
    /// wanting the worker until it is taken out of workers.json.
    #[command(
        after_long_help = "Examples:\n  maand-agent leave\n  maand-agent leave --yes --keep-running    jobs go on, unattended"
    )]
    Leave {
        /// Stop nothing and remove no file of a job
        #[arg(long)]
        keep_running: bool,
        /// Do not tell the controller; there: maand agent revoke HOST
        #[arg(long)]
        offline: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Confirm that this machine is the one that joined, although its id was changed
    ///
    /// An agent does not run with an identity that was made on another machine: of two machines with one identity
    /// neither could be trusted. A copy of a worker joins anew instead.
    #[command(
        after_long_help = "Examples:\n  maand-agent adopt    when /etc/machine-id of this machine was changed\n\nOn a machine \
        that was made from an image of a worker, instead:\n  maand agent token HOST    on the controller; here its line, \
        and --replace"
    )]
    Adopt,
    /// Show what this agent accepted and what it has in place; needs no controller
    #[command(
        after_long_help = "Examples:\n  maand-agent status\n  maand-agent status --json | jq '.allocations[].job'"
    )]
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a make target of a job on this worker; needs no controller
    ///
    /// As the agent runs one, with the same variables, and never at the same time as the agent itself: what
    /// is at work on the job is waited for. Nothing is deployed, and the controller is not asked.
    ///
    /// A job that was stopped this way stays stopped, as with `maand job stop`, until it is started by hand or
    /// a deploy rolls it.
    #[command(after_long_help = "Examples:\n  maand-agent make api restart\n  maand-agent make api stop")]
    Make {
        /// The job
        job: String,
        /// The Makefile's target
        target: String,
    },
    /// Show what a job wrote into its logs/ on this worker; needs no controller
    #[command(after_long_help = "Examples:\n  maand-agent logs api\n  maand-agent logs api --tail 5 --follow")]
    Logs {
        /// The job
        job: String,
        /// Lines from the end of each file
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        tail: u32,
        /// Then show new lines as they come, until Ctrl-C
        #[arg(short, long)]
        follow: bool,
    },
    /// What runner.py hands on
    #[command(name = "__runner", hide = true)]
    Runner {
        bucket: String,
        target: String,
        #[arg(long, value_delimiter = ',')]
        jobs: Vec<String>,
    },
    /// The process between `make` and make
    #[command(name = "__make", hide = true)]
    Between { job: String, target: String },
    /// What a job wrote, for its controller
    #[command(name = "__logs", hide = true)]
    ShowLogs {
        dir: PathBuf,
        #[arg(long)]
        tail: u32,
        #[arg(long)]
        follow: bool,
    },
}

/// Most bytes of a job's logs that a controller is shown at once: what an agent sends of output as it comes.
const MOST_SHOWN: u64 = 1 << 20;

/// The whole command line, for help pages, man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs `maand-agent`.
pub fn main() -> ExitCode {
    // A core dump would have keys and secrets in it; what is started does not inherit this.
    let _set = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // Started for every make target and script: it needs nothing of a command line for people.
    let mut words = std::env::args_os().skip(1);
    if let (Some(word), Some(dir), None) = (words.next(), words.next(), words.next())
        && word == run::SHIM
    {
        return if run::shim(Path::new(&dir)).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Join { url, token, root, state, replace, now } => {
            enrol(&url, token, Place { config: cli.config, root, state, replace }, now)
        }
        Command::Run { controller, boot_id_file } => serve::serve(&cli.config, controller, &boot_id_file),
        Command::Leave { keep_running, offline, yes } => {
            runtime().and_then(|net| leave::leave(&cli.config, Wish { keep_running, offline, yes }, &net))
        }
        Command::Adopt => Config::load(&cli.config).and_then(|config| {
            let identity = Identity::new(&config.state, config.bucket_id);
            identity.load()?;
            machine::record(&identity, config.bucket_id).map(drop)
        }),
        Command::Status { json } => status::status(&cli.config, json),
        Command::Make { job, target } => match by_hand::make(&cli.config, &job, &target) {
            Ok(ended) => return ended,
            Err(problem) => Err(problem),
        },
        Command::Between { job, target } => {
            Config::load(&cli.config).and_then(|config| by_hand::between(&config, &job, &target))
        }
        Command::Logs { job, tail, follow } => {
            Config::load(&cli.config).and_then(|config| local::logs(&config, &job, tail as usize, follow))
        }
        Command::Runner { bucket, target, jobs } => match local::runner(&cli.config, &bucket, &target, &jobs) {
            Ok(ended) => return ended,
            Err(problem) => Err(problem),
        },
        Command::ShowLogs { dir, tail, follow } => {
            let shown = job_logs::show(&dir, tail as usize, follow, MOST_SHOWN, &mut std::io::stdout().lock());
            shown.map_err(|error| {
                let problem = Diagnostic::new(Code::AgentState, "the job's logs cannot be read");
                problem.at(dir.join("logs").display()).cause(&error)
            })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            drop(writeln!(std::io::stderr(), "{problem}"));
            ExitCode::from(match problem.code {
                Code::Settings | Code::CopiedIdentity => 3,
                Code::LedgerNewer => 4,
                Code::Usage => 2,
                _ => 1,
            })
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Diagnostic> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .map_err(|error| Diagnostic::new(Code::AgentState, "the agent's runtime cannot be started").cause(&error))
}

fn enrol(url: &str, token: String, place: Place, now: bool) -> Result<(), Diagnostic> {
    // Before the token is spent.
    let unit = now.then(|| unit::needed(&place.config)).transpose()?;
    let token = if token == "-" { read_token()? } else { token };
    let config = runtime()?.block_on(join::join(url, &token, &place))?;
    let mut out = std::io::stdout();
    drop(writeln!(out, "joined bucket {} as worker {}", config.bucket_id, config.worker_id));
    match unit {
        Some(unit) => {
            unit::start(&unit)?;
            drop(writeln!(out, "{unit} is enabled and runs; what it does: systemctl status {unit}"));
        }
        None => drop(writeln!(out, "next: maand-agent --config {} run", place.config.display())),
    }
    Ok(())
}

fn read_token() -> Result<String, Diagnostic> {
    let mut text = String::new();
    match std::io::stdin().take(1024).read_to_string(&mut text) {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(error) => {
            Err(Diagnostic::new(Code::JoinRefused, "the token cannot be read from standard input").cause(&error))
        }
    }
}
