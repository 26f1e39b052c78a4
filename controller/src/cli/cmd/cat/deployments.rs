//! `maand cat deployments`: what each allocation should run, what was promoted, and what the agent
//! really has when that differs.

use serde_json::Value;
use shared::BundleDigest;
use shared::api::v1::health::HealthState;
use shared::api::v1::report::{ObservedAllocation, Phase, Process};

use crate::catalog::{holds, observed, read};
use crate::cli::Context;
use crate::cli::filter::Filter;
use crate::cli::table::{Table, time};
use crate::clock;
use crate::drive::held_words;
use crate::failure::Failure;
use crate::model::{Allocation, Snapshot};

/// List each allocation's rollout state
#[derive(Debug, Default, clap::Args)]
#[command(after_long_help = "rollout:
  new               never promoted here: the next deploy starts it
  restart           content or version differs from what was promoted, or its last restart
                    failed: the next deploy restarts, reloads or syncs it (restart_policy)
  promoted          in sync: a deploy skips it, but for --force
  health_failed     it did not pass its last gate: the next deploy rolls it again
  disabled          drained and stopped; its files and key-values stay
  disabled_restart  drained, with content or version that the next deploy brings; nothing runs
  removed           no longer wanted here: the next deploy stops it, maand gc forgets it

current_hash is what the last build made, previous_hash what was promoted last.
post_deploy_status: pending, success or failed; empty without post_deploy hooks.
agent: empty while the worker has what was promoted and it is well; otherwise what its agent
reported (\"stopped by hand\": by maand job stop), or since when a deploy that went on without
it waits for the agent, or until when its worker is held (maand agent hold).
health: healthy, unhealthy, unknown (not checked: it does not run, or has only just been
started), - without health_check in the manifest.")]
pub struct Args {
    /// Only these jobs
    #[arg(long, value_delimiter = ',', value_name = "JOB,…")]
    jobs: Vec<String>,
    /// Only these workers
    #[arg(long, value_delimiter = ',', value_name = "HOST,…")]
    workers: Vec<String>,
    /// Neither disabled nor removed ones
    #[arg(long)]
    active: bool,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let now_ms = clock::now_ms();
    let (snapshot, reported, held) =
        catalog.read(|tx| Ok((read::snapshot(tx)?, observed::allocations(tx)?, holds::held(tx, now_ms)?)))?;
    let filter = Filter::new(&snapshot, &args.jobs, &args.workers)?;
    let mut table = Table::new(&[
        "job",
        "worker_ip",
        "alloc_id",
        "rollout",
        "current_hash",
        "previous_hash",
        "current_version",
        "new_version",
        "disabled",
        "removed",
        "post_deploy_status",
        "agent",
        "health",
    ]);
    let hash = |digest: Option<BundleDigest>| digest.map_or(Value::Null, |digest| digest.short().into());
    for allocation in snapshot.allocations.iter().filter(|a| filter.job(&a.job) && filter.worker(&a.host)) {
        if args.active && !allocation.is_active() {
            continue;
        }
        let promoted = allocation.promoted.as_ref();
        let reported = reported.get(&allocation.alloc_id);
        let by_hand = promoted.is_some()
            && !allocation.start_pending
            && allocation.is_active()
            && reported.is_some_and(|seen| seen.process == Process::Stopped && seen.phase == Phase::Idle);
        let rolled = allocation.rolled.as_ref();
        let post_deploy = rolled.and_then(|rolled| rolled.post_deploy).filter(|_| !allocation.removed);
        let deferred = rolled.and_then(|rolled| rolled.deferred.as_ref());
        let said = match deferred {
            Some(_) if held.contains_key(&allocation.worker_id) => Some(held_words(&held[&allocation.worker_id])),
            Some(deferral) => Some(format!("deferred since {}", time(deferral.since_ms))),
            None => observed::difference(promoted, reported).or_else(|| by_hand.then(|| "stopped by hand".to_owned())),
        };
        table.row(vec![
            allocation.job.as_str().into(),
            allocation.host.as_str().into(),
            allocation.alloc_id.to_string().into(),
            allocation.rollout_word().into(),
            hash(allocation.bundle),
            hash(promoted.map(|p| p.bundle)),
            promoted.map_or("0.0.0", |p| p.version.as_str()).into(),
            allocation.new_version.as_str().into(),
            allocation.disabled.into(),
            allocation.removed.into(),
            post_deploy.map_or(Value::Null, |status| status.word().into()),
            said.map_or(Value::Null, Value::from),
            health(&snapshot, allocation, reported).into(),
        ]);
    }
    super::print(
        &table,
        context,
        "there are no deployments",
        "compare the jobs' selectors with the workers' labels (maand cat jobs, maand cat workers), then run maand build",
    )
}

/// The word for how a job answers; only what should run and has checks has one.
fn health(snapshot: &Snapshot, allocation: &Allocation, reported: Option<&ObservedAllocation>) -> &'static str {
    let job = snapshot.jobs.iter().find(|job| job.name == allocation.job);
    if !allocation.is_active() || job.is_none_or(|job| job.spec.health_check.checks.is_empty()) {
        return "-";
    }
    let seen = reported.and_then(|reported| reported.health.as_ref());
    seen.map_or(HealthState::Unknown, |health| health.state).word()
}
