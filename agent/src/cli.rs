//! The command line: join, run, status, make, logs.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use shared::api::v1::desired::DesiredState;
use shared::{Code, Diagnostic};

use crate::client::Client;
use crate::config::Config;
use crate::identity::Identity;
use crate::join::{self, Place};
use crate::leave::{self, Wish};
use crate::operations::Operations;
use crate::renew::{self, Refused, Renewing};
use crate::report::{self, Transient};
use crate::service::Service;
use crate::state::layout::Layout;
use crate::state::ledger::Ledger;
use crate::work::Workshop;
use crate::{by_hand, clock, facts, health, job_logs, local, machine, poll, reconcile, run, unit};

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
    /// The process between the agent and make
    #[command(name = "__run", hide = true)]
    Shim {
        /// The run's directory
        dir: PathBuf,
    },
}

/// Seconds between two looks for edited files, where agent.toml does not say.
const DRIFT_CHECK_S: u32 = 3600;

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
        return if run::shim(std::path::Path::new(&dir)).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Shim { dir } => return if run::shim(&dir).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        Command::Join { url, token, root, state, replace, now } => {
            enrol(&url, token, Place { config: cli.config, root, state, replace }, now)
        }
        Command::Run { controller, boot_id_file } => serve(&cli.config, controller, &boot_id_file),
        Command::Leave { keep_running, offline, yes } => {
            runtime().and_then(|net| leave::leave(&cli.config, Wish { keep_running, offline, yes }, &net))
        }
        Command::Adopt => Config::load(&cli.config).and_then(|config| {
            let identity = Identity::new(&config.state, config.bucket_id);
            identity.load()?;
            machine::record(&identity, config.bucket_id).map(drop)
        }),
        Command::Status { json } => status(&cli.config, json),
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

fn serve(path: &std::path::Path, controller: Option<String>, boot_id_file: &std::path::Path) -> Result<(), Diagnostic> {
    let boot_id = facts::boot_id(boot_id_file);
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false).init();
    // What the agent writes for itself is nobody else's; make gets the usual mask.
    let _before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let mut config = Config::load(path)?;
    if let Some(url) = controller {
        url.trim_end_matches('/').clone_into(&mut config.controller);
    }
    let layout = Layout::new(&config.root, config.bucket_id);
    let (ledger, session) = Ledger::open(&layout)?;
    let ledger = Arc::new(ledger);
    // For checks of jobs that speak TLS; the agent's own client names its provider.
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let identity = Identity::new(&config.state, config.bucket_id);
    let held = identity.load()?;
    let machine = machine::check(&identity, config.bucket_id)?;
    let unusable = |error: &dyn std::error::Error| {
        Diagnostic::new(Code::AgentState, "the agent's identity cannot be used").cause(error)
    };
    let tls = renew::tls(&held, config.bucket_id)?;
    let runtime = runtime()?;
    let client = Client::starting(tls, &config.controller, machine.start(config.bucket_id, session))
        .map_err(|error| unusable(&error))?;
    let transient = Arc::new(Transient::default());
    let accepted: Option<DesiredState> = match ledger.accepted() {
        Ok(accepted) => accepted.and_then(|(_, payload)| serde_json::from_slice(&payload).ok()),
        Err(error) => return Err(unusable(&error)),
    };
    let net = runtime.handle().clone();
    runtime.block_on(async {
        let mut term = signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut int = signal(tokio::signal::unix::SignalKind::interrupt())?;
        let nothing = nothing_accepted(&config);
        let state = accepted.clone().unwrap_or(nothing);
        let allow = config.allow.as_ref().map(|kinds| kinds.iter().map(|kind| kind.word().to_owned()).collect());
        let operations = Operations::new(allow);
        let shop =
            Workshop::new(ledger.clone(), layout.clone(), client.clone(), net, transient.clone(), operations, state);
        tracing::info!(controller = config.controller, bucket = %config.bucket_id, session, "agent_started");
        let runner = local::agent().and_then(|agent| local::write_runner(&layout, &agent, &std::path::absolute(path)?));
        if let Err(error) = runner {
            tracing::warn!(%error, "runner_not_written");
        }
        if let Some(state) = &accepted {
            poll::describe(&layout, state, true);
        }
        if let Some(boot_id) = boot_id {
            shop.boot(boot_id);
        }
        let every = config.drift_check_seconds.unwrap_or(DRIFT_CHECK_S);
        if every > 0 {
            shop.watch_drift(std::time::Duration::from_secs(every.into()));
        }
        // Finishes what a crash cut off, before anything is heard from the controller.
        shop.begin();
        let service = Service::default();
        service.ready();
        let root = config.root.clone();
        let reporting = report::send_all(ledger.clone(), client.clone(), transient.clone(), root, &service);
        let renewing = Renewing::new(identity, config.bucket_id, &config.controller, client.clone(), held);
        tokio::select! {
            () = poll::poll(&config, &client, &ledger, &layout, &shop, &service) => {}
            () = service.tell(&ledger, &transient) => {}
            () = reporting => {}
            () = renewing.keep() => {}
            () = health::watch(shop.clone()) => {}
            () = by_hand::notice(shop.clone()) => {}
            () = shop.clone().send_late_after_reports() => {}
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        service.stopping();
        tracing::info!("agent_stopped");
        Ok(())
    })?;
    // Threads of make targets that still run are left: their processes and results outlive this one.
    runtime.shutdown_background();
    Ok(())
}

fn signal(kind: tokio::signal::unix::SignalKind) -> Result<tokio::signal::unix::Signal, Diagnostic> {
    tokio::signal::unix::signal(kind)
        .map_err(|error| Diagnostic::new(Code::AgentState, "signals cannot be handled").cause(&error))
}

/// Before the first desired state: nothing is wanted, nothing is removed.
fn nothing_accepted(config: &Config) -> DesiredState {
    DesiredState {
        bucket_id: config.bucket_id,
        worker_id: config.worker_id,
        host: shared::Host::unknown(),
        labels: Vec::new(),
        fence: shared::api::v1::desired::Fence::default(),
        issued_at_ms: 0,
        allocations: Vec::new(),
        prefetch: Vec::new(),
        operations: Vec::new(),
        hold: None,
    }
}

/// A span for people.
fn span(ms: i64) -> String {
    let s = ms.unsigned_abs() / 1000;
    match s {
        0..120 => format!("{s} s"),
        120..7200 => format!("{} min", s / 60),
        7200..172_800 => format!("{} h", s / 3600),
        _ => format!("{} days", s / 86_400),
    }
}

fn ends(left_ms: i64) -> String {
    if left_ms > 0 {
        return format!("ends in {}; the agent renews it by itself", span(left_ms));
    }
    format!("ended {} ago; a running agent gets a new one for its key", span(left_ms))
}

fn ago(since_ms: i64) -> String {
    format!("since {} ago", span(clock::now_ms() - since_ms))
}

fn status(path: &std::path::Path, json: bool) -> Result<(), Diagnostic> {
    let config = Config::load(path)?;
    let layout = Layout::new(&config.root, config.bucket_id);
    let ledger = Ledger::view(&layout)?;
    let failed = |error: crate::state::ledger::Error| {
        Diagnostic::new(Code::AgentState, "the ledger cannot be read").cause(&error)
    };
    let fence = ledger.accepted().map_err(failed)?.map(|(accepted, _)| accepted.fence);
    let rows = ledger.rows().map_err(failed)?;
    let place = |row: &reconcile::Row| match row.place {
        reconcile::Place::Empty => "no files".to_owned(),
        reconcile::Place::Whole(bundle) => bundle.short(),
        reconcile::Place::Applying { to } => format!("applying {}", to.short()),
    };
    let mut out = std::io::stdout();
    let identity = Identity::new(&config.state, config.bucket_id);
    let left_ms = identity.load().ok().and_then(|held| Some(held.newest()?.life.not_after_ms - clock::now_ms()));
    let refused = Refused::load(&identity);
    if json {
        let allocations: Vec<_> = rows
            .iter()
            .map(|row| {
                serde_json::json!({ "job": row.job, "files": place(row), "process": row.process, "action": row.action,
                    "drift": row.drift, "unmanaged": row.unmanaged })
            })
            .collect();
        let status = serde_json::json!({ "controller": config.controller, "bucket_id": config.bucket_id,
            "worker_id": config.worker_id, "accepted": fence, "certificate_ends_in_s": left_ms.map(|ms| ms / 1000),
            "refused": refused.as_ref().map(|r| serde_json::json!({ "error": r.error, "message": r.message,
                "since_ms": r.since_ms, "do": r.remedy() })), "allocations": allocations });
        drop(writeln!(out, "{status:#}"));
        return Ok(());
    }
    drop(writeln!(out, "controller  {}", config.controller));
    drop(writeln!(out, "bucket      {}", config.bucket_id));
    drop(writeln!(out, "worker      {}", config.worker_id));
    drop(writeln!(out, "accepted    {}", fence.map_or_else(|| "nothing yet".to_owned(), |fence| fence.to_string())));
    drop(writeln!(out, "certificate {}", left_ms.map_or_else(|| "cannot be read".to_owned(), ends)));
    if let Some(refused) = &refused {
        drop(writeln!(out, "refused     {} ({}), {}", refused.message, refused.error, ago(refused.since_ms)));
        drop(writeln!(out, "do          {}", refused.remedy()));
    }
    for row in &rows {
        let process = serde_json::to_value(row.process).ok().and_then(|v| v.as_str().map(str::to_owned));
        drop(writeln!(out, "{:<11} {:<14} {}", row.job, place(row), process.unwrap_or_default()));
    }
    Ok(())
}
