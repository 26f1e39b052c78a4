//! `maand recover`.
#![expect(clippy::disallowed_methods, reason = "edge: waits for agents")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use shared::api::v1::report::{ObservedAllocation, Process};
use shared::text::clean;
use shared::{AllocId, Code, Diagnostic, Host, RunId, WorkerId};

use crate::catalog::{Catalog, agents, observed, read, recover as rows, rollout};
use crate::cli::Context;
use crate::cli::meanwhile::Meanwhile;
use crate::cli::table::Table;
use crate::clock;
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::high_water;
use crate::model::{Promoted, Snapshot};
use crate::recover::{Belief, beginning, believe};
use crate::serve::ServeLock;
use crate::serve::notify::wake;
use crate::tally::Tally;
use crate::telemetry::{BucketLog, Line};

/// How often reports are looked for.
const LOOK: Duration = Duration::from_millis(20);

/// After a restored backup: take up again with agents that have been told more than the catalog knows
///
/// A catalog that is older than what agents were told issues nothing. This opens a new epoch, which agents
/// accept, and tells them to keep what they have: nothing is placed, run, restarted or removed. Then it writes
/// down what each agent says it runs, so that the next deploy compares with what is there and not with what
/// the backup believed.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "After putting a backup back (docs/guides/backup.md):\n  maand recover\n  maand build && maand deploy --dry-run    what the \
    next deploy would change\n\nAgents that are away are waited for as long as pickup_timeout in maand.conf says. Those that \
    come later: run it again, it goes on with them; maand deploy does too. Agents that joined, or got a new certificate, after the \
    backup was made are unknown to it: maand agent token HOST lets them in again, and nothing on them is lost."
)]
pub struct Args {
    /// Open a new epoch also when nothing says that the catalog is old
    #[arg(long)]
    force: bool,
}

/// Refuses to go on with a catalog that is older than what agents were told.
pub fn refuse_regressed(context: &Context, catalog: &mut Catalog) -> Result<(), Failure> {
    let evidence = high_water::evidence(&context.bucket, catalog)?;
    if evidence.is_empty() { Ok(()) } else { Err(evidence.into()) }
}

/// One allocation that was looked at.
struct Found {
    job: String,
    host: Host,
    believed: Option<Promoted>,
    has: Option<ObservedAllocation>,
    is_known: bool,
    belief: Belief,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let settings = Settings::load(&context.bucket)?;
    let mut catalog = context.catalog()?;
    let now_ms = clock::now_ms();
    if let Some(open) = catalog.read(|tx| rollout::open(tx))?.filter(|open| open.is_driven(now_ms)) {
        let problem = Diagnostic::new(Code::HoldsLease, "a deploy of this bucket is being driven");
        let problem = problem.note(open.owner.unwrap_or_default());
        return Err(Failure::new(Exit::Failed, problem.remedy("end it first: maand rollout abort")));
    }
    let runtime = context.runtime()?;
    let was_served = ServeLock::is_held(&context.bucket);
    let before = high_water::evidence(&context.bucket, &mut catalog)?;
    let waits = catalog.read(|tx| rows::recovering(tx))?;
    if before.is_empty() && waits.is_empty() && !args.force && was_served {
        return nothing(context);
    }
    let meanwhile = Meanwhile::serve(context, &settings, &runtime)?;
    let done = recover(&args, context, &mut catalog, &settings);
    meanwhile.end();
    let Some(done) = done? else { return nothing(context) };
    show(context, &done);
    Ok(())
}

fn nothing(context: &Context) -> Result<(), Failure> {
    if context.ui.wants_json() {
        context.ui.out_json(&json!({ "recovered": false }));
    } else {
        context.ui.out("nothing to recover: the catalog is as new as what agents were told");
    }
    Ok(())
}

/// What it came to.
struct Done {
    epoch: u64,
    update_seq: u64,
    found: Vec<Found>,
    /// Workers whose agents were not heard.
    silent: Vec<Host>,
}

fn recover(
    args: &Args,
    context: &Context,
    catalog: &mut Catalog,
    settings: &Settings,
) -> Result<Option<Done>, Failure> {
    let pickup = Duration::from_secs(settings.pickup_timeout_s);
    let (snapshot, joined) = catalog.read(|tx| Ok((read::snapshot(tx)?, agents::joined(tx)?)))?;
    let joined: Vec<WorkerId> = joined.into_keys().collect();
    // What they have accepted shows in what they ask for: the new epoch must be beyond that.
    let tally = Tally::default();
    context.ui.watched(&tally, || await_agents(context, catalog, &joined, pickup, &tally))?;
    let evidence = high_water::evidence(&context.bucket, catalog)?;
    let run = RunId::from_uuid(clock::run_uuid());
    if !evidence.is_empty() || args.force {
        evidence.lines().iter().for_each(|line| context.ui.say(line));
        let mark = high_water::mark(&context.bucket)?.filter(|mark| mark.bucket_id == snapshot.bucket_id);
        let (at, accepted) = catalog.read(|tx| Ok((rows::position(tx)?, observed::accepted(tx)?)))?;
        let accepted: Vec<_> = accepted.into_iter().map(|(_, fence)| fence).collect();
        let (epoch, update_seq) = beginning(at, mark.as_ref(), &accepted);
        // The mark first: what was handed out must never be handed out again. From here on it is what says that
        // this is not over yet, also after a crash.
        high_water::raise(&context.bucket, snapshot.bucket_id, epoch, update_seq)?;
        high_water::settle(&context.bucket)?;
        let now_ms = clock::now_ms();
        catalog.write(|tx| rows::open_epoch(tx, &snapshot, &joined, (epoch, update_seq), now_ms))?;
        high_water::confirm(&context.bucket, snapshot.bucket_id, epoch, update_seq)?;
        wake(&context.bucket);
        context.ui.say(format_args!("epoch {epoch} begins at update_seq {update_seq}; agents keep what they have"));
        let msg = format!("epoch {epoch}, update_seq {update_seq}");
        let line =
            Line { event: Some("epoch_opened"), run: Some(run), maand: "recover", msg: Some(&msg), ..Line::default() };
        BucketLog::new(&context.bucket, settings.logs).write(now_ms, &[line]);
    } else if catalog.read(|tx| rows::recovering(tx))?.is_empty() {
        return Ok(None);
    }
    let end = clock::instant() + pickup;
    let tally = Tally::default();
    context.ui.watched(&tally, || -> Result<(), Failure> {
        loop {
            let waits = catalog.read(|tx| rows::recovering(tx))?;
            let heard = waits.values().filter(|heard| **heard).count();
            tally.begin("hearing what agents have", waits.len());
            tally.at(heard);
            if heard == waits.len() || clock::instant() >= end {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    })?;
    let (epoch, update_seq) = catalog.read(|tx| rows::position(tx))?;
    let (mut found, silent) = take_heard(catalog, run)?;
    found.sort_by(|a, b| (&a.job, &a.host).cmp(&(&b.job, &b.host)));
    Ok(Some(Done { epoch, update_seq, found, silent }))
}

/// Believes what agents have said since the epoch was opened; who has said nothing yet.
pub fn hear(catalog: &mut Catalog) -> Result<Vec<Host>, Failure> {
    Ok(take_heard(catalog, RunId::from_uuid(clock::run_uuid()))?.1)
}

fn take_heard(catalog: &mut Catalog, run: RunId) -> Result<(Vec<Found>, Vec<Host>), Failure> {
    let waits = catalog.read(|tx| rows::recovering(tx))?;
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    if waits.is_empty() {
        return Ok((found, silent));
    }
    let snapshot = catalog.read(|tx| read::snapshot(tx))?;
    for (worker, heard) in waits {
        let host = host_of(&snapshot, worker);
        if heard {
            found.extend(take(catalog, &snapshot, worker, host, run)?);
        } else {
            silent.extend(host);
        }
    }
    Ok((found, silent))
}

fn host_of(snapshot: &Snapshot, worker: WorkerId) -> Option<Host> {
    let listed = snapshot.workers.iter().find(|w| w.worker_id == worker).map(|w| &w.host);
    listed.or_else(|| snapshot.allocations.iter().find(|a| a.worker_id == worker).map(|a| &a.host)).cloned()
}

/// Waits until every agent that has joined is there, at most `limit`.
fn await_agents(
    context: &Context,
    catalog: &mut Catalog,
    joined: &[WorkerId],
    limit: Duration,
    tally: &Tally,
) -> Result<(), Failure> {
    tally.begin("waiting for agents", joined.len());
    let end = clock::instant() + limit;
    let mut has_said = false;
    loop {
        let (contacts, now_ms) = (catalog.read(|tx| observed::contacts(tx))?, clock::now_ms());
        let away = joined.iter().filter(|id| !contacts.get(id).is_some_and(|c| c.is_online(now_ms))).count();
        tally.at(joined.len() - away);
        if away == 0 || clock::instant() >= end {
            return Ok(());
        }
        if !has_said {
            has_said = true;
            context.ui.say(format_args!("waiting up to {} s for {away} agents to be heard", limit.as_secs()));
        }
        std::thread::sleep(LOOK);
    }
}

/// Believes what one agent says.
fn take(
    catalog: &mut Catalog,
    snapshot: &Snapshot,
    worker: WorkerId,
    host: Option<Host>,
    run: RunId,
) -> Result<Vec<Found>, Failure> {
    let now_ms = clock::now_ms();
    Ok(catalog.write(|tx| {
        let mut said: BTreeMap<AllocId, ObservedAllocation> = rows::said(tx, worker)?;
        let mut found = Vec::new();
        for allocation in snapshot.allocations.iter().filter(|a| a.worker_id == worker) {
            let has = said.remove(&allocation.alloc_id);
            let belief = believe(Some(allocation), has.as_ref());
            rows::believe(tx, allocation.alloc_id, &belief, run, now_ms)?;
            found.push(Found {
                job: allocation.job.to_string(),
                host: allocation.host.clone(),
                believed: allocation.promoted.clone(),
                has,
                is_known: true,
                belief,
            });
        }
        for (alloc, has) in said {
            let belief = believe(None, Some(&has));
            rows::believe(tx, alloc, &belief, run, now_ms)?;
            if let Some(host) = host.clone() {
                found.push(Found {
                    job: has.job.to_string(),
                    host,
                    believed: None,
                    has: Some(has),
                    is_known: false,
                    belief,
                });
            }
        }
        rows::heard(tx, worker)?;
        Ok(found)
    })?)
}

fn process(has: Option<&ObservedAllocation>) -> &'static str {
    match has.map(|has| has.process) {
        None => "nothing there",
        Some(Process::Started) => "started",
        Some(Process::Stopped) => "stopped",
        Some(Process::Failed) => "its last target failed",
        Some(Process::Unknown) => "nothing is known",
    }
}

fn show(context: &Context, done: &Done) {
    let mut table = Table::new(&[
        "job",
        "worker_ip",
        "backup_hash",
        "backup_version",
        "has_hash",
        "has_version",
        "process",
        "note",
    ]);
    let short = |promoted: Option<&Promoted>| -> (Value, Value) {
        match promoted {
            Some(promoted) => (promoted.bundle.short().into(), promoted.version.as_str().into()),
            None => (Value::Null, Value::Null),
        }
    };
    for one in &done.found {
        let note = match (&one.believed, &one.belief.promoted) {
            _ if !one.is_known => "unknown to the backup: a build makes it known again",
            (Some(before), Some(now)) if before == now => "as in the backup",
            (None, None) => "as in the backup",
            _ => "newer than the backup",
        };
        let (was_hash, was_version) = short(one.believed.as_ref());
        let (hash, version) = match &one.has {
            Some(has) => (
                has.bundle.map_or(Value::Null, |bundle| bundle.short().into()),
                has.version.as_deref().map_or(Value::Null, |version| clean(version).into()),
            ),
            None => (Value::Null, Value::Null),
        };
        let (job, host) = (one.job.as_str(), one.host.as_str());
        let process = process(one.has.as_ref());
        table.row(vec![job.into(), host.into(), was_hash, was_version, hash, version, process.into(), note.into()]);
    }
    if context.ui.wants_json() {
        context.ui.out_json(&json!({ "recovered": true, "epoch": done.epoch, "update_seq": done.update_seq,
            "allocations": table, "not_heard": done.silent }));
        return;
    }
    if !table.is_empty() {
        table.print(&context.ui);
    }
    for host in &done.silent {
        context.ui.warn(format_args!(
            "the agent of {host} was not heard: what it runs is not known; when it is back, run maand recover again"
        ));
    }
    context.ui.say("next: maand build && maand deploy --dry-run shows what a deploy would change");
}
