//! `maand dev`: a bucket, a controller and an agent for each of its workers, on this machine.
#![expect(clippy::disallowed_methods, reason = "edge: finds the bucket's directory")]

mod agents;
mod sample;

use std::path::{Path, PathBuf};

use shared::{Code, Diagnostic};

use crate::catalog::read;
use crate::cli::Context;
use crate::cli::cmd::{agent, build, cat, deploy, init};
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::model::Snapshot;
use crate::paths::BucketDir;
use crate::serve::Server;
use agents::LocalAgent;

/// Run a bucket on this machine: a controller and an agent for each worker
///
/// Without DIR a sample bucket is made in a temporary directory, with three workers at 127.0.0.2,
/// 127.0.0.3 and 127.0.0.4, and goes with the command. With DIR every host in its workers.json
/// becomes an agent here; they live in DIR/dev/, and come back as they were.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand dev            a first look; Ctrl-C ends it\n  maand dev --once     deploy, \
    print, end everything: exit code 0 or 1\n  maand dev ./shop     try a bucket of your own before its workers do"
)]
pub struct Args {
    /// An existing bucket
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Deploy, print, end everything, and exit
    #[arg(long)]
    once: bool,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match &args.dir {
        Some(dir) => session(BucketDir::new(absolute(dir)?), false, args.once, context),
        None => {
            let dir = sample::Temporary::new()?;
            sample::write(dir.path())?;
            session(BucketDir::new(dir.path()), true, args.once, context)
        }
    }
}

fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    dir.canonicalize().map_err(|error| {
        let problem = Diagnostic::new(Code::NotABucket, format!("{} is not a directory here", dir.display()));
        Failure::new(Exit::NotABucket, problem.cause(&error).remedy("name a bucket's directory, or none for a sample"))
    })
}

/// One life of `maand dev`: everything that it starts ends before it returns.
fn session(bucket: BucketDir, sample: bool, once: bool, context: &Context) -> Result<(), Failure> {
    let ui = &context.ui;
    let context =
        Context { bucket: bucket.clone(), ui: crate::cli::ui::Ui::new(ui.wants_json(), crate::cli::ui::no_color()) };
    if sample {
        init::init_bucket(&bucket)?;
    }
    build::build_bucket(&bucket, ui)?;
    let snapshot = context.catalog()?.read(|tx| read::snapshot(tx))?;
    let program = agents::program()?;

    let runtime = context.runtime()?;
    let mut settings = Settings::load(&bucket)?;
    settings.listen = "127.0.0.1:0".parse().map_err(|_| bug("the local address"))?;
    let server = runtime.block_on(Server::start(&bucket, &settings))?;
    let url = format!("https://{}", server.local_addr());

    let mut local = Vec::new();
    for worker in &snapshot.workers {
        let token = || agent::new_token(&context, &worker.host, agent::DEFAULT_TTL_MINUTES);
        local.push(LocalAgent::start(&program, &bucket, &worker.host, &url, token)?);
    }
    ui.say(format_args!("{} agents and a controller at {url}", local.len()));

    // What an earlier session of this bucket promoted was stopped with it: start it again.
    let force = snapshot.allocations.iter().any(|a| a.promoted.is_some());
    let deployed = deploy::deploy_bucket(&context, force);
    let printed = cat::print_deployments(&context);
    describe(&context, &snapshot, sample, &local);
    if deployed.is_ok() && !once {
        ui.say("Ctrl-C stops the jobs, the agents and the controller");
        runtime.block_on(crate::serve::terminated());
        ui.say("stopping");
    }
    let stopped: Vec<Diagnostic> = local.into_iter().flat_map(|agent| agent.stop(&snapshot)).collect();
    runtime.block_on(server.shutdown());
    deployed?;
    printed?;
    if stopped.is_empty() { Ok(()) } else { Err(Failure { exit: Exit::Failed, problems: stopped }) }
}

/// Where things are.
fn describe(context: &Context, snapshot: &Snapshot, sample: bool, local: &[LocalAgent]) {
    let ui = &context.ui;
    if ui.wants_json() {
        return;
    }
    ui.out("");
    ui.out(format_args!("{:<10} {}", "bucket", context.bucket.root().display()));
    for agent in local {
        ui.out(format_args!("{:<10} {}", agent.host(), agent.root().join(snapshot.bucket_id.to_string()).display()));
    }
    for job in &snapshot.jobs {
        for (name, port) in &job.spec.ports {
            let hosts = snapshot.allocations_of(&job.name).filter(|a| a.is_active()).map(|a| &a.host);
            let scheme = if sample { "http://" } else { "" };
            let slash = if sample { "/" } else { "" };
            let urls: Vec<String> = hosts.map(|host| format!("{scheme}{host}:{port}{slash}")).collect();
            ui.out(format_args!("{:<10} {} ({name})", job.name, urls.join(" ")));
        }
    }
    ui.out(format_args!("\ntry        maand -C {} info", context.bucket.root().display()));
}

fn bug(what: &str) -> Failure {
    Failure::new(Exit::Bug, Diagnostic::new(Code::Bug, format!("{what} cannot be made")))
}
