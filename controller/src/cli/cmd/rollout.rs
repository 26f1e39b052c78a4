//! `maand rollout`: looking at rollouts, and steering the one that is open.
#![expect(clippy::disallowed_methods, reason = "edge: looks again and again")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use shared::{Code, Diagnostic, RunId};

use crate::catalog::rollout::{self as rows, Header, Request};
use crate::catalog::{Catalog, observed};
use crate::cli::Context;
use crate::cli::cmd::deploy::attend::Attendant;
use crate::cli::table::{Table, time};
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::rollout::flight::Fate;
use crate::rollout::job::{End, JobRollout, Phase};

/// How often `watch` looks.
const LOOK: Duration = Duration::from_millis(200);
/// Longest time that a driver may take to hear of a request.
const HEAR: Duration = Duration::from_secs(5);

/// Look at rollouts, and pause, go on with or end the one that is open
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    List(List),
    Show(Show),
    Watch(Watch),
    Pause(Pause),
    Resume(Resume),
    Abort(Abort),
}

/// List rollouts, newest first
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "state:\n  running  somebody drives it: see driver\n  waiting  begun with --detach; maand \
    drive takes it up\n  paused   maand deploy or maand rollout resume goes on with it\n  done, failed, aborted"
)]
pub struct List {}

/// Show how far each job of a rollout is, and who is waited for
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Its id, or the beginning of it; without one the newest
    #[arg(value_name = "RUN")]
    run: Option<String>,
}

/// Say what moves in a rollout until it has ended or is paused
///
/// Exit code 0 when it is done, 1 when it is not.
#[derive(Debug, clap::Args)]
pub struct Watch {
    /// Its id, or the beginning of it; without one the newest
    #[arg(value_name = "RUN")]
    run: Option<String>,
}

/// Pause the rollout that is open, after what is in flight
///
/// The batch that is with its agents ends and passes its gate; nothing more is begun.
#[derive(Debug, clap::Args)]
pub struct Pause {
    /// Its id, or the beginning of it; without one that which is open
    #[arg(value_name = "RUN")]
    run: Option<String>,
}

/// End the rollout that is open, without waiting for what is in flight
///
/// What agents did not pick up is taken back; what runs ends unobserved and is not promoted. What was promoted
/// stays so, and the next maand deploy rolls the rest.
#[derive(Debug, clap::Args)]
pub struct Abort {
    /// Its id, or the beginning of it; without one that which is open
    #[arg(value_name = "RUN")]
    run: Option<String>,
}

/// Go on with a paused rollout, here or by maand drive
#[derive(Debug, clap::Args)]
pub struct Resume {
    /// Its id, or the beginning of it; without one that which is open
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Leave it to maand drive
    #[arg(long)]
    detach: bool,
}

/// Runs it.
pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    match command {
        Command::List(_) => list(context, &mut catalog),
        Command::Show(args) => {
            let header = find(&mut catalog, args.run.as_deref())?;
            show(context, &mut catalog, &header)
        }
        Command::Watch(args) => watch(context, &mut catalog, args.run.as_deref()),
        Command::Pause(args) => pause(context, &mut catalog, args.run.as_deref()),
        Command::Resume(args) => resume(context, &mut catalog, &args),
        Command::Abort(args) => abort(context, &mut catalog, args.run.as_deref()),
    }
}

fn list(context: &Context, catalog: &mut Catalog) -> Result<(), Failure> {
    let now_ms = clock::now_ms();
    let mut table = Table::new(&["run_id", "state", "update_seq", "kind", "jobs", "began", "ended", "driver"]);
    for header in catalog.read(|tx| rows::all(tx))? {
        let kind = if header.options.catch_up.is_some() { "catch_up" } else { "deploy" };
        let jobs: Vec<&str> = header.options.jobs.iter().map(shared::JobName::as_str).collect();
        let driver = header.owner.as_deref().filter(|_| header.is_driven(now_ms));
        table.row(vec![
            header.run.to_string().into(),
            header.word(now_ms).into(),
            header.update_seq.into(),
            kind.into(),
            if jobs.is_empty() { "all".into() } else { jobs.join(",").into() },
            time(header.created_ms).into(),
            header.ended_ms.map_or(Value::Null, |ended| time(ended).into()),
            driver.map_or(Value::Null, Value::from),
        ]);
    }
    super::cat::print(&table, context, "there was no rollout yet", "run maand deploy")
}

/// The rollout that the operator means.
fn find(catalog: &mut Catalog, wanted: Option<&str>) -> Result<Header, Failure> {
    let all = catalog.read(|tx| rows::all(tx))?;
    let Some(wanted) = wanted else {
        return all.into_iter().next().ok_or_else(|| {
            let problem = Diagnostic::new(Code::NothingToShow, "there was no rollout yet");
            Failure::new(Exit::Failed, problem.remedy("run maand deploy"))
        });
    };
    let mut fitting: Vec<Header> = all.into_iter().filter(|h| h.run.to_string().starts_with(wanted)).collect();
    match fitting.len() {
        1 => Ok(fitting.remove(0)),
        found => {
            let many = if found == 0 { "there is no rollout" } else { "there are several rollouts" };
            let problem = Diagnostic::new(Code::UnknownName, format!("{many} {wanted:?}"));
            Err(Failure::new(Exit::Usage, problem.remedy("list them with maand rollout list")))
        }
    }
}

/// The rollout that is open, which must be the one that is meant.
fn find_open(catalog: &mut Catalog, wanted: Option<&str>) -> Result<Header, Failure> {
    let open = catalog.read(|tx| rows::open(tx))?;
    let meant = |open: &Header| wanted.is_none_or(|wanted| open.run.to_string().starts_with(wanted));
    match open {
        Some(open) if meant(&open) => Ok(open),
        Some(open) => {
            find(catalog, wanted)?;
            let problem =
                Diagnostic::new(Code::UnknownName, "that rollout has ended").note(format!("{} is open", open.run));
            Err(Failure::new(Exit::Failed, problem.remedy("leave the id out to mean the one that is open")))
        }
        None => {
            let problem = Diagnostic::new(Code::NothingToShow, "no rollout is open");
            Err(Failure::new(Exit::Failed, problem.remedy("maand rollout list shows those that ended")))
        }
    }
}

/// How far a job is, in words.
pub fn phase(job: &JobRollout) -> String {
    let all = job.plan.batches.len();
    match &job.phase {
        Phase::Held => "waiting for its turn".to_owned(),
        Phase::Hooks { stage } => format!("{} hooks", stage.event().word()),
        Phase::Deciding => "planning".to_owned(),
        Phase::Settling => "stopping what is drained or removed".to_owned(),
        Phase::Removing => "removing".to_owned(),
        Phase::Waiting { batch } => format!("batch {} of {all} is next", (batch + 1).min(all)),
        Phase::Rolling { batch } => format!("batch {} of {all}", batch + 1),
        Phase::Judging { batch } | Phase::Gate { batch } | Phase::Pause { batch, .. } => {
            format!("gate of batch {} of {all}", batch + 1)
        }
        Phase::Promoting => "files of drained allocations".to_owned(),
        Phase::Ended { end } => match end {
            End::Done if !job.plan.is_required() => "skipped".to_owned(),
            End::Done => match job.failures().len() {
                0 => "done".to_owned(),
                n => format!("done, but for {n} that failed"),
            },
            End::Failed { why: Some(why) } => format!("failed: {}", shared::text::clean(why)),
            End::Failed { why: None } => "failed".to_owned(),
            End::Blocked { by } => format!("blocked: {by} failed"),
            End::Aborted => "aborted".to_owned(),
        },
    }
}

/// Who is waited for, with since when and what is known of its agent.
fn waits(job: &JobRollout, online: impl Fn(&shared::Host) -> Option<bool>, now_ms: i64) -> Vec<Value> {
    let mut found = Vec::new();
    for (alloc, host) in job.members() {
        let Some(flight) = job.flights.get(&alloc) else { continue };
        let state = match (&flight.fate, flight.picked_up_ms) {
            (None, None) => "not picked up",
            (None, Some(_)) => "running",
            (Some(Fate::Ran), _) => "in its gate",
            (Some(Fate::Deferred), _) => "out of reach",
            _ => continue,
        };
        let agent = match online(host) {
            Some(true) => "online",
            Some(false) => "offline",
            None => "not joined",
        };
        found.push(json!({ "worker_ip": host, "state": state, "since": time(flight.released_ms),
            "seconds": (now_ms - flight.released_ms).max(0) / 1000, "agent": agent, "problem": flight.problem }));
    }
    found
}

fn json_of(catalog: &mut Catalog, header: &Header) -> Result<Value, Failure> {
    let now_ms = clock::now_ms();
    let (jobs, snapshot, contacts) = catalog.read(|tx| {
        Ok((rows::load_jobs(tx, header.run)?, crate::catalog::read::snapshot(tx)?, observed::contacts(tx)?))
    })?;
    let online = |host: &shared::Host| {
        let worker = snapshot.worker(host)?.worker_id;
        contacts.get(&worker).map(|contact| contact.is_online(now_ms))
    };
    let mut ordered: Vec<&JobRollout> = jobs.iter().collect();
    ordered.sort_by(|a, b| (a.plan.seq, &a.plan.job).cmp(&(b.plan.seq, &b.plan.job)));
    let jobs: Vec<Value> = ordered
        .into_iter()
        .map(|job| {
            let all: std::collections::BTreeSet<_> = job.members().map(|(alloc, _)| alloc).collect();
            let of = |wanted: &dyn Fn(&Fate) -> bool| {
                job.flights.values().filter(|flight| flight.fate.as_ref().is_some_and(wanted)).count()
            };
            json!({ "job": job.plan.job, "deployment_seq": job.plan.seq, "phase": phase(job), "allocations": all.len(),
                "done": of(&|fate| *fate == Fate::Settled), "failed": of(&|fate| matches!(fate, Fate::Failed { .. })),
                "deferred": of(&|fate| *fate == Fate::Deferred), "in_flight": job.in_flight(),
                "waits_for": waits(job, online, now_ms) })
        })
        .collect();
    Ok(json!({ "run_id": header.run, "state": header.word(now_ms), "update_seq": header.update_seq,
        "began": time(header.created_ms), "ended": header.ended_ms.map(time), "jobs": jobs,
        "driver": header.owner.as_deref().filter(|_| header.is_driven(now_ms)) }))
}

fn show(context: &Context, catalog: &mut Catalog, header: &Header) -> Result<(), Failure> {
    let document = json_of(catalog, header)?;
    if context.ui.wants_json() {
        context.ui.out_json(&document);
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let driver = document["driver"].as_str().map_or_else(String::new, |driver| format!(", driven by {driver}"));
    context.ui.out(format_args!(
        "rollout {}: {}, update_seq {}, began {}{driver}",
        header.run,
        text(&document["state"]),
        header.update_seq,
        text(&document["began"])
    ));
    for job in document["jobs"].as_array().into_iter().flatten() {
        let count = |key: &str| job[key].as_u64().unwrap_or_default();
        let counts = ["done", "failed", "deferred", "in_flight"].map(|key| (count(key), key.replace('_', " ")));
        let counts: Vec<String> =
            counts.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let all = match count("allocations") {
            0 => String::new(),
            all => format!(" ({})", [vec![format!("{all} to roll")], counts].concat().join(", ")),
        };
        context.ui.out(format_args!(
            "  {} [deployment_seq {}]: {}{all}",
            text(&job["job"]),
            job["deployment_seq"],
            text(&job["phase"])
        ));
        for wait in job["waits_for"].as_array().into_iter().flatten() {
            let problem =
                wait["problem"].as_str().map_or_else(String::new, |why| format!(": {}", shared::text::clean(why)));
            context.ui.out(format_args!(
                "    {}: {} since {} (agent {}){problem}",
                text(&wait["worker_ip"]),
                text(&wait["state"]),
                text(&wait["since"]),
                text(&wait["agent"])
            ));
        }
    }
    Ok(())
}

/// Says what moves until the rollout has ended or nobody drives it.
fn watch(context: &Context, catalog: &mut Catalog, wanted: Option<&str>) -> Result<(), Failure> {
    let run = find(catalog, wanted)?.run;
    let mut said: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let now_ms = clock::now_ms();
        let Some(header) = catalog.read(|tx| rows::get(tx, run))? else { return Ok(()) };
        for job in catalog.read(|tx| rows::load_jobs(tx, run))? {
            let mut lines = vec![(job.plan.job.to_string(), phase(&job))];
            lines.extend(job.members().filter_map(|(alloc, host)| {
                let word = match &job.flights.get(&alloc)?.fate {
                    None => "released",
                    Some(Fate::Ran) => "in its gate",
                    Some(Fate::Settled) => "done",
                    Some(Fate::Failed { .. }) => "failed",
                    Some(Fate::Deferred) => "out of reach: deferred",
                    Some(Fate::Left) => "its agent is away: done when it is back",
                };
                Some((format!("{}@{host}", job.plan.job), word.to_owned()))
            }));
            for (place, word) in lines {
                if said.get(&place) != Some(&word) {
                    context.ui.say(format_args!("{place} | {word}"));
                    said.insert(place, word);
                }
            }
        }
        let word = header.word(now_ms);
        if !matches!(word, "running" | "waiting") {
            if context.ui.wants_json() {
                let document = json_of(catalog, &header)?;
                context.ui.out_json(&document);
            } else {
                context.ui.out(format_args!("rollout {run}: {word}"));
            }
            let problem = Diagnostic::new(Code::DeployFailed, format!("the rollout is {word}"));
            return match word {
                "done" => Ok(()),
                _ => Err(Failure::new(Exit::Failed, problem.remedy(format_args!("maand rollout show {run}")))),
            };
        }
        std::thread::sleep(LOOK);
    }
}

fn pause(context: &Context, catalog: &mut Catalog, wanted: Option<&str>) -> Result<(), Failure> {
    let open = find_open(catalog, wanted)?;
    let run = open.run;
    if !open.is_driven(clock::now_ms()) {
        let attendant = Attendant::new(context, false)?;
        let driver = attendant.take_over(catalog, &open)?;
        driver.pause(catalog)?;
        return said(context, run, "paused");
    }
    catalog.write(|tx| rows::ask(tx, run, Request::Pause))?;
    said(context, run, "pausing after what is in flight")
}

fn abort(context: &Context, catalog: &mut Catalog, wanted: Option<&str>) -> Result<(), Failure> {
    let open = find_open(catalog, wanted)?;
    let run = open.run;
    if open.is_driven(clock::now_ms()) {
        catalog.write(|tx| rows::ask(tx, run, Request::Abort))?;
        let end = clock::instant() + HEAR;
        while clock::instant() < end {
            if catalog.read(|tx| rows::get(tx, run))?.is_none_or(|header| !header.is_open()) {
                return said(context, run, "aborted");
            }
            std::thread::sleep(LOOK);
        }
        let problem = Diagnostic::new(Code::HoldsLease, "the rollout's driver has not ended it yet");
        let by = open.owner.unwrap_or_default();
        return Err(Failure::new(Exit::Failed, problem.note(by).remedy("look again with maand rollout show")));
    }
    let mut attendant = Attendant::new(context, false)?;
    let driver = attendant.take_over(catalog, &open)?;
    attendant.abort(catalog, driver)?;
    said(context, run, "aborted")
}

fn resume(context: &Context, catalog: &mut Catalog, args: &Resume) -> Result<(), Failure> {
    let open = find_open(catalog, args.run.as_deref())?;
    let mut attendant = Attendant::new(context, false)?;
    if args.detach {
        drop(attendant.take_over(catalog, &open)?);
        catalog.write(|tx| rows::detach(tx, open.run))?;
        return said(context, open.run, "left to maand drive");
    }
    let driver = attendant.take_over(catalog, &open)?;
    let outcome = attendant.attend(catalog, driver)?;
    if context.ui.wants_json() {
        context.ui.out_json(&outcome);
    } else {
        outcome.say(&context.ui);
    }
    Ok(())
}

fn said(context: &Context, run: RunId, word: &str) -> Result<(), Failure> {
    if context.ui.wants_json() {
        context.ui.out_json(&json!({ "run_id": run, "result": word }));
    } else {
        context.ui.out(format_args!("rollout {run}: {word}"));
    }
    Ok(())
}
