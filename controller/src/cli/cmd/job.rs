//! `maand job`: `create` here, what works on running jobs in `job/control.rs`.
#![expect(clippy::disallowed_methods, reason = "edge: makes a job's files")]

mod control;

use shared::{Code, Diagnostic, JobName, Name};

use crate::cli::Context;
use crate::failure::{Exit, Failure};

/// Work with the bucket's jobs
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Create(Create),
    /// Run make start of deployed jobs, through their agents
    ///
    /// Goes through a job's workers in batches of its max_concurrent_upgrades, jobs with a lower
    /// deployment_seq first. Disabled and removed allocations are not touched. Nothing is deployed, and
    /// what was promoted stays so.
    Start(control::Gated),
    Stop(control::Stop),
    /// Run make restart of deployed jobs, through their agents
    ///
    /// Goes through a job's workers in batches of its max_concurrent_upgrades, jobs with a lower
    /// deployment_seq first. Disabled and removed allocations are not touched. Nothing is deployed, and
    /// what was promoted stays so.
    Restart(control::Gated),
    /// Run make status of deployed jobs, through their agents
    ///
    /// Goes through a job's workers in batches of its max_concurrent_upgrades, jobs with a lower
    /// deployment_seq first. Disabled and removed allocations are not touched. Nothing is deployed, and
    /// what was promoted stays so.
    Status(control::Gated),
    /// Run any make target of deployed jobs, through their agents
    ///
    /// Goes through a job's workers in batches of its max_concurrent_upgrades, jobs with a lower
    /// deployment_seq first. Disabled and removed allocations are not touched.
    Run(control::Run),
}

/// Make a job that builds and deploys as it is
///
/// Writes workspace/jobs/JOB/ with a manifest and a Makefile whose comments say what each target is for.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Example:\n  maand job create api --selectors web && maand build && maand deploy --dry-run"
)]
pub struct Create {
    /// The job's name, and that of its directory
    job: String,
    /// Labels that a worker must all have to get the job; without any, the job's own name
    #[arg(short, long, value_delimiter = ',', value_name = "LABEL,…")]
    selectors: Vec<String>,
}

const MAKEFILE: &str = r#"# What maand-agent runs on a worker, in this job's directory. CURRENT_VERSION and NEW_VERSION are set;
# output goes to maand's logs. A target that exits with another code than 0 fails the deploy.
#
# data/, logs/ and bin/ are this job's own on the worker: maand never touches them.

# Runs at the first deploy on a worker, and again after the job was drained. It must return: start what
# lasts in the background, or leave it to systemd or a container engine.
start:
	@mkdir -p data
	@date > data/started
	@echo "started $(NEW_VERSION)"

# Runs when the job is drained or removed. Twice must not be wrong.
stop:
	@rm -f data/started

# Runs when the files or the version changed.
restart: stop start

# Runs instead of restart when the manifest's restart_policy is "reload".
reload:
	@true

# For people: is it running?
status:
	@test -f data/started && echo running
"#;

/// Runs it.
pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create(args, context),
        Command::Start(args) => control::run("start", args, context),
        Command::Stop(args) => control::run("stop", args.into(), context),
        Command::Restart(args) => control::run("restart", args, context),
        Command::Status(args) => control::run("status", args, context),
        Command::Run(args) => control::run(&args.target, args.which, context),
    }
}

fn create(args: Create, context: &Context) -> Result<(), Failure> {
    let usage = |problem: Diagnostic| Failure::new(Exit::Usage, problem);
    let job: JobName = args.job.parse().map_err(|error: shared::id::IdError| {
        usage(Diagnostic::new(Code::InvalidName, error.to_string()).remedy("choose another name"))
    })?;
    let mut selectors = Vec::new();
    for text in args.selectors.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        let selector: Name = text.parse().map_err(|error: shared::id::IdError| {
            usage(Diagnostic::new(Code::InvalidName, error.to_string()).remedy("labels are in lower case"))
        })?;
        selectors.push(selector);
    }
    // Only in a bucket.
    drop(context.catalog()?);
    let dir = context.bucket.job(job.as_str());
    let cannot = |error: std::io::Error| {
        let problem = if error.kind() == std::io::ErrorKind::AlreadyExists {
            Diagnostic::new(Code::PathConflict, format!("job {job} is there already"))
                .at(context.bucket.shown(&dir).to_string())
                .remedy("choose another name, or edit what is there")
        } else {
            Diagnostic::new(Code::Storage, format!("cannot make {}", context.bucket.shown(&dir))).cause(&error)
        };
        usage(problem)
    };
    std::fs::create_dir(&dir).map_err(cannot)?;
    let manifest = serde_json::json!({ "version": "1.0", "selectors": selectors });
    let manifest = serde_json::to_string_pretty(&manifest).unwrap_or_default();
    for (name, text) in [("manifest.json", format!("{manifest}\n")), ("Makefile", MAKEFILE.to_owned())] {
        std::fs::write(dir.join(name), text).map_err(cannot)?;
    }
    if context.ui.wants_json() {
        context.ui.out_json(&serde_json::json!({ "job": job, "directory": context.bucket.shown(&dir).to_string() }));
        return Ok(());
    }
    context.ui.out(format_args!("made {}", context.bucket.shown(&dir)));
    let labels = if selectors.is_empty() { job.to_string() } else { args.selectors.join(", ") };
    context
        .ui
        .say(format_args!("next: give a worker the label {labels}, then run maand build && maand deploy --dry-run"));
    Ok(())
}
