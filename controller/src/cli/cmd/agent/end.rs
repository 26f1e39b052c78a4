//! `maand agent revoke` and `maand agent forget`.

use serde_json::json;
use shared::{AllocId, Code, Diagnostic, Host, WorkerId};

use crate::catalog::{agents, gc as rows, observed, read};
use crate::cli::Context;
use crate::cli::filter::unknown;
use crate::cli::table::time;
use crate::clock;
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::gc::plan::Leftover;
use crate::serve::notify::wake;
use crate::telemetry::{BucketLog, Line};

/// End all certificates of a worker's agent, at once
///
/// From its next request on the agent is refused, also on connections that are open, and join tokens for it
/// that nobody has used are worth nothing. What runs on the worker goes on running: a controller that says no
/// stops changes, never jobs.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "For a key that may have been stolen, or a machine that was given away. To let the \
    worker back in:\n  maand agent token HOST          and on the worker the line that it prints, with --replace")]
pub struct Revoke {
    /// The worker's name
    host: String,
}

/// Forget a worker that is gone for good, and all that was left on it
///
/// Only for a worker that is not in workers.json any more and whose agent is away: then nobody will ever take
/// its jobs down, and maand gc waits for it. What is forgotten is listed; what still runs there goes on.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand agent forget 10.0.0.9 --dry-run    what that means\n  maand agent forget 10.0.0.9\n\nA \
    worker that can still be reached is cleaned up instead:\n  maand build && maand deploy && maand gc"
)]
pub struct Forget {
    /// The worker's name, as it was in workers.json
    host: String,
    /// Say what it means; change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Revokes.
pub fn revoke(args: &Revoke, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let (snapshot, gone) = catalog.read(|tx| Ok((read::snapshot(tx)?, rows::gone(tx)?)))?;
    let named = snapshot.workers.iter().map(|w| (w.worker_id, w.host.clone()));
    let all: Vec<(WorkerId, Host)> = named.chain(gone.into_iter().map(|(id, host, _)| (id, host))).collect();
    let meant: Vec<WorkerId> = all.iter().filter(|(_, host)| host.as_str() == args.host).map(|(id, _)| *id).collect();
    if meant.is_empty() {
        let known = all.iter().map(|(_, host)| host.as_str());
        return Err(Failure::new(Exit::Usage, unknown("worker", &args.host, known)));
    }
    let now_ms = clock::now_ms();
    let revoked = catalog.write(|tx| {
        let mut count = 0;
        for id in &meant {
            count += agents::revoke(tx, *id, "by an operator", now_ms)?;
        }
        Ok(count)
    })?;
    wake(&context.bucket);
    log(context, "agent_revoked", &args.host);
    if context.ui.wants_json() {
        context.ui.out_json(&json!({ "host": args.host, "revoked": revoked }));
        return Ok(());
    }
    let host = &args.host;
    match revoked {
        0 => context.ui.out(format_args!("{host}: no agent had a good certificate")),
        n => context.ui.out(format_args!("{host}: {n} certificates ended; its agent is refused from now on")),
    }
    context.ui.say(format_args!(
        "what runs there goes on; to let it back in: maand agent token {host}, and there the line with --replace"
    ));
    Ok(())
}

pub(super) fn log(context: &Context, event: &'static str, host: &str) {
    let line = Line { event: Some(event), maand: "agent", msg: Some(host), ..Line::default() };
    // What was done is on record, whatever maand.conf says.
    let logs = Settings::load(&context.bucket).map(|settings| settings.logs).unwrap_or_default();
    BucketLog::new(&context.bucket, logs).write(clock::now_ms(), &[line]);
}

/// Forgets.
pub fn forget(args: &Forget, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let now_ms = clock::now_ms();
    let (snapshot, gone, contacts, joined) =
        catalog.read(|tx| Ok((read::snapshot(tx)?, rows::gone(tx)?, observed::contacts(tx)?, agents::joined(tx)?)))?;
    let meant: Vec<(WorkerId, i64)> =
        gone.iter().filter(|(_, host, _)| host.as_str() == args.host).map(|(id, _, at)| (*id, *at)).collect();
    if meant.is_empty() {
        return Err(not_gone(&args.host, &snapshot, &gone));
    }
    let host = &args.host;
    let is_there = |id: &WorkerId| joined.contains_key(id) && contacts.get(id).is_some_and(|c| c.is_online(now_ms));
    if meant.iter().any(|(id, _)| is_there(id)) {
        let problem =
            Diagnostic::new(Code::InvalidValue, format!("the agent of {host} is there: it can clean up itself"));
        return Err(Failure::new(Exit::Failed, problem.remedy("run maand deploy, then maand gc")));
    }
    let known = catalog.read(|tx| rows::known(tx, &Default::default(), &Default::default()))?;
    let left: Vec<&Leftover> =
        known.leftovers.iter().filter(|l| meant.iter().any(|(id, _)| *id == l.worker_id)).collect();
    if let Some(busy) = left.iter().find(|l| l.in_rollout) {
        let problem =
            Diagnostic::new(Code::MayRun, format!("job {}: the rollout that is open has to do with {host}", busy.job));
        return Err(Failure::new(Exit::Failed, problem.remedy("let it end, or end it with maand rollout abort")));
    }
    if !context.ui.wants_json() {
        context.ui.say(format_args!("{host}: not in workers.json since {}", time(meant[0].1)));
        match meant.iter().filter_map(|(id, _)| contacts.get(id)).map(|c| c.last_seen_ms).max() {
            Some(seen) => context.ui.say(format_args!("its agent was last seen {}", time(seen))),
            None => context.ui.say("its agent was never seen"),
        }
        for l in &left {
            let runs = if l.may_run { "may still run there, and nobody will stop it" } else { "is stopped" };
            context.ui.say(format_args!("job {}: {runs}; its data/ and logs/ stay on that machine", l.job));
        }
        context.ui.say("its certificates end: should it come back, it is refused, and what runs there goes on");
    }
    let allocations: Vec<AllocId> = left.iter().map(|l| l.alloc_id).collect();
    let forgotten = match args.dry_run {
        true => allocations.len(),
        false => catalog.write(|tx| {
            let forgotten = rows::forget(tx, &allocations, true, now_ms)?;
            for (id, _) in &meant {
                rows::end_worker(tx, *id, now_ms)?;
            }
            Ok(forgotten.len())
        })?,
    };
    if !args.dry_run {
        log(context, "worker_forgotten", host);
    }
    if context.ui.wants_json() {
        let jobs: Vec<_> = left.iter().map(|l| json!({ "job": l.job, "may_run": l.may_run })).collect();
        context.ui.out_json(&json!({ "host": host, "dry_run": args.dry_run, "allocations": jobs }));
        return Ok(());
    }
    let verb = if args.dry_run { "would be forgotten" } else { "forgotten" };
    context.ui.out(format_args!("{host}: {verb}, with {forgotten} allocations"));
    Ok(())
}

fn not_gone(host: &str, snapshot: &crate::model::Snapshot, gone: &[(WorkerId, Host, i64)]) -> Failure {
    if snapshot.workers.iter().any(|worker| worker.host.as_str() == host) {
        let problem = Diagnostic::new(Code::InvalidValue, format!("{host} is in workers.json"))
            .note("only a worker that is not wanted any more can be forgotten");
        let remedy = "take it out of workspace/workers.json, run maand build and maand deploy; to shut its agent out: maand agent revoke";
        return Failure::new(Exit::Usage, problem.remedy(remedy));
    }
    let known = gone.iter().map(|(_, host, _)| host.as_str());
    Failure::new(Exit::Usage, unknown("worker that left workers.json", host, known))
}
