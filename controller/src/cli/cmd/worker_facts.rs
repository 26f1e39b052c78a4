//! `maand worker_facts` (`spec/behaviour.md` 8.4): what agents measured, written into workers.json.
#![expect(clippy::disallowed_methods, reason = "edge: reads and writes workspace/workers.json")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};
use shared::api::v1::facts::WorkerFacts;
use shared::{Code, Diagnostic, Name};

use crate::catalog::{agents, observed, read};
use crate::cli::Context;
use crate::cli::cmd::build;
use crate::cli::filter::{self, unknown};
use crate::failure::{Exit, Failure};
use crate::workspace::facts::{Change, Unusable, compare, usable};
use crate::workspace::spans::{self, Edit};
use crate::workspace::workers::{self, FILE, WorkerEntry};

/// Longest workers.json that is read, bytes; the same as build's.
const LONGEST: u64 = 4 << 20;

/// Write memory and cpu of workers into workers.json, as their agents measured them
///
/// Memory is what the kernel has, cpu the processors times their clock. Only these two fields change, and only
/// where they differ: order, layout and every other field of the file stay as they are. Nothing is written
/// unless every worker that is meant has been measured.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand worker_facts --dry-run          what would change, as lines of the file\n  maand \
    worker_facts --build            write it, then maand build\n  maand worker_facts -w 10.0.0.1        this worker \
    alone\n  maand worker_facts -l web,db          workers that have one of these labels\n\nAgents measure by themselves; \
    none is asked anew. A worker has to be built and joined once:\n  maand build && maand agent token HOST\n\n\
    Exit code 1 when a worker has not been measured, and the file is as it was."
)]
pub struct Args {
    /// Only these workers
    #[arg(short, long, value_delimiter = ',', value_name = "HOST,…", conflicts_with = "labels", value_parser = filter::name)]
    workers: Vec<String>,
    /// Only workers that have one of these labels
    #[arg(short, long, value_delimiter = ',', value_name = "LABEL,…", value_parser = filter::name)]
    labels: Vec<String>,
    /// Show the lines that would change; write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Then run maand build
    #[arg(short, long, conflicts_with = "dry_run")]
    build: bool,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    // Two of them, or a build, do not read what the other is about to replace.
    let lock = if args.dry_run { None } else { Some(build::lock(&context.bucket)?) };
    let path = context.bucket.workers_json();
    let text = text(&path)?;
    let (workers, problems) = workers::read(&text);
    // A field that nobody knows is the build's to refuse, and no reason to measure nothing.
    let problems: Vec<Diagnostic> = problems.into_iter().filter(|p| p.code != Code::UnknownField).collect();
    if !problems.is_empty() {
        return Err(Failure { exit: Exit::Input, problems });
    }
    let meant = meant(args, &workers)?;
    let (snapshot, joined, measured) =
        catalog.read(|tx| Ok((read::snapshot(tx)?, agents::joined(tx)?, observed::facts(tx)?)))?;
    drop(catalog);

    let mut problems = Vec::new();
    let mut facts: Vec<Option<WorkerFacts>> = Vec::new();
    for worker in &workers {
        let host = &worker.host;
        let id = snapshot.workers.iter().find(|known| known.host == *host).map(|known| known.worker_id);
        let found = match id {
            _ if !meant.contains(&worker.host) => Ok(None),
            None => Err(Lacking::NotBuilt),
            Some(id) => match measured.get(&id) {
                Some(facts) => usable(facts).map(|()| Some(facts.clone())).map_err(Lacking::Unusable),
                None if joined.contains_key(&id) => Err(Lacking::NotReported),
                None => Err(Lacking::NotJoined),
            },
        };
        facts.push(found.unwrap_or_else(|lacking| {
            problems.push(lacking.problem(worker));
            None
        }));
    }
    if let Some(last) = problems.last_mut() {
        last.notes.push(format!("{FILE} is as it was: it is written for all of them, or not at all"));
        return Err(Failure { exit: Exit::Failed, problems });
    }
    let Some((changes, edits)) = compare(&text, &workers, &facts) else {
        let problem = Diagnostic::new(Code::Bug, "the places of workers in the file were not found").at(FILE);
        return Err(Failure::new(Exit::Bug, problem));
    };
    let writes = !args.dry_run && !edits.is_empty();
    if writes {
        replace(&path, &text, &spans::apply(&text, &edits))?;
    }
    drop(lock);
    say(context, &changes, &edits, &text, args.dry_run, meant.len());
    let built = if args.build { Some(build::build_bucket(&context.bucket, &context.ui)?) } else { None };
    if context.ui.wants_json() {
        context.ui.out_json(&json!({
            "file": FILE,
            "dry_run": args.dry_run,
            "written": writes,
            "workers": meant.len(),
            "changes": changes.iter().map(row).collect::<Vec<_>>(),
            "build": built,
        }));
    }
    Ok(())
}

/// Why a worker's facts are not there.
enum Lacking {
    NotBuilt,
    NotJoined,
    NotReported,
    Unusable(Unusable),
}

impl Lacking {
    fn problem(self, worker: &WorkerEntry) -> Diagnostic {
        let host = &worker.host;
        let problem = |why: &str| Diagnostic::new(Code::NotMeasured, format!("{host} has not been measured: {why}"));
        let others = "or leave it out: name the others with --workers";
        match self {
            Self::NotBuilt => problem("it has not been built, so no agent can have joined for it")
                .remedy(format_args!("maand build, then maand agent token {host}; {others}")),
            Self::NotJoined => problem("no agent has joined for it").remedy(format_args!(
                "run maand agent token {host}, and on that worker the line that it prints; {others}"
            )),
            Self::NotReported => problem("its agent has joined, and not reported yet").remedy(format_args!(
                "let maand serve run, and maand-agent on that worker (maand why {host}); {others}"
            )),
            Self::Unusable(Unusable::NoClock) => problem("its kernel does not say how fast its processors are")
                .remedy(format_args!("write cpu of {host} into {FILE} yourself, and name the others with --workers")),
            Self::Unusable(Unusable::Absurd) => problem("its agent reports what no machine has").remedy(format_args!(
                "look at that machine; write memory and cpu into {FILE} yourself, and name the others with --workers"
            )),
        }
    }
}

/// Hosts that the arguments choose.
fn meant<'a>(args: &Args, workers: &'a [WorkerEntry]) -> Result<BTreeSet<&'a shared::Host>, Failure> {
    let hosts: BTreeSet<&str> = workers.iter().map(|worker| worker.host.as_str()).collect();
    let labels: BTreeSet<&str> = workers.iter().flat_map(|worker| &worker.labels).map(Name::as_str).collect();
    let wrong = |what: &str, named: &[String], known: &BTreeSet<&str>| -> Vec<Diagnostic> {
        let wrong = named.iter().filter(|name| !known.contains(name.as_str()));
        let problem = |name: &String| unknown(what, name, known.iter().copied());
        wrong.map(|name| problem(name).remedy(format_args!("correct the name: {FILE} has them"))).collect()
    };
    let mut problems = wrong("worker", &args.workers, &hosts);
    problems.extend(wrong("label", &args.labels, &labels));
    if !problems.is_empty() {
        return Err(Failure { exit: Exit::Usage, problems });
    }
    let named = |worker: &&WorkerEntry| {
        (args.workers.is_empty() || args.workers.iter().any(|name| name == worker.host.as_str()))
            && (args.labels.is_empty()
                || worker.labels.iter().any(|l| args.labels.iter().any(|name| name == l.as_str())))
    };
    let meant: BTreeSet<&shared::Host> = workers.iter().filter(named).map(|worker| &worker.host).collect();
    if meant.is_empty() {
        let problem = Diagnostic::new(Code::NothingToShow, "there is no worker to measure").at(FILE);
        return Err(Failure::new(Exit::Failed, problem.remedy("list workers there: [ { \"host\": \"10.0.0.1\" } ]")));
    }
    Ok(meant)
}

fn row(change: &Change) -> Value {
    // As it is in the file: a text or a number.
    let before: Value = change.before.as_ref().and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
    json!({ "worker_ip": change.host, "field": change.field, "before": before, "after": change.after })
}

fn say(context: &Context, changes: &[Change], edits: &[Edit], text: &str, dry_run: bool, workers: usize) {
    let ui = &context.ui;
    if ui.wants_json() {
        return;
    }
    let of = format!("{workers} worker{}", if workers == 1 { "" } else { "s" });
    if changes.is_empty() {
        return ui.out(format_args!("{FILE} is already up to date: memory and cpu of {of} are as measured"));
    }
    for change in changes {
        let before = change.before.as_deref().map_or_else(|| "not declared".to_owned(), |raw| raw.replace('"', ""));
        ui.out(format_args!("{}: {} {} -> {}", change.host, change.field, shared::text::clean(&before), change.after));
    }
    if !dry_run {
        return ui.say(format_args!("{FILE} is written: {} of {of} changed", amounts(changes.len())));
    }
    ui.out(format_args!("--- {FILE}\n+++ {FILE}, as it would be"));
    for hunk in spans::hunks(text, edits) {
        ui.out(ui.paint_out("36", &format!("@@ line {} @@", hunk.line)));
        for (sign, colour, lines) in [("-", "31", &hunk.before), ("+", "32", &hunk.after)] {
            for line in lines {
                // A tab is a blank of the file's layout.
                let line = line.split('\t').map(shared::text::clean).collect::<Vec<_>>().join("\t");
                ui.out(ui.paint_out(colour, &format!("{sign}{line}")));
            }
        }
    }
    ui.say(format_args!("nothing was written (--dry-run): {} of {of} would change", amounts(changes.len())));
}

fn amounts(count: usize) -> String {
    format!("{count} amount{}", if count == 1 { "" } else { "s" })
}

fn text(path: &Path) -> Result<String, Failure> {
    let read = || -> io::Result<String> {
        let length = std::fs::metadata(path)?.len();
        if length > LONGEST {
            return Err(io::Error::other(format!("it has {length} bytes, of at most {LONGEST}")));
        }
        String::from_utf8(std::fs::read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    };
    read().map_err(|error| {
        let problem = Diagnostic::new(Code::Syntax, "it cannot be read").at(FILE).cause(&error);
        Failure::new(Exit::Input, problem.remedy("maand init makes an empty one: []"))
    })
}

/// Puts new text in the file's place, whole and durable, with the mode and owner that it has. What somebody
/// saved since it was read is not written over.
fn replace(path: &Path, before: &str, after: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let problem = Diagnostic::new(Code::Storage, "it cannot be written; it is as it was").at(FILE).cause(&error);
        Failure::new(Exit::Failed, problem.remedy("make room, or mend the directory's permissions, then try again"))
    };
    // A link stays one, to the file that changes.
    let path = std::fs::canonicalize(path).map_err(failed)?;
    let new = path.with_extension("json.new");
    let write = || -> io::Result<()> {
        let meta = std::fs::metadata(&path)?;
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::create_new(&new)?;
        file.set_permissions(meta.permissions())?;
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (meta.uid(), meta.gid()) {
            std::os::unix::fs::fchown(&file, Some(meta.uid()), Some(meta.gid()))?;
        }
        file.write_all(after.as_bytes())?;
        file.sync_all()
    };
    let cleared = |failure| {
        drop(std::fs::remove_file(&new));
        failure
    };
    write().map_err(failed).map_err(cleared)?;
    if std::fs::read(&path).map_err(failed).map_err(cleared)? != before.as_bytes() {
        let problem = Diagnostic::new(Code::Busy, "somebody else saved it meanwhile; it is as they left it").at(FILE);
        return Err(cleared(Failure::new(Exit::Failed, problem.remedy("the same command again"))));
    }
    std::fs::rename(&new, &path).map_err(failed).map_err(cleared)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}
