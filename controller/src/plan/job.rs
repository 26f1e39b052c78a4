//! One job's part of a plan.

use std::collections::{BTreeMap, BTreeSet};

use shared::{ActionKind, BundleDigest, Host, JobName, WorkerId};

use super::action::{self, Asked, Decision};
use super::{JobPlan, Known, Move, Options, Rest, Settle, batches, needs};
use crate::model::{Allocation, HookEvent, JobSpec, PostDeploy, health};

fn millis(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)
}

/// What one job is planned from.
pub(super) struct One<'a> {
    pub(super) options: &'a Options,
    pub(super) known: &'a Known<'a>,
    pub(super) there: &'a BTreeSet<WorkerId>,
    pub(super) spec: &'a JobSpec,
    pub(super) allocations: &'a [&'a Allocation],
    /// A job that it demands has hooks that may write values while a deploy runs.
    pub(super) upstream_writes: bool,
}

impl One<'_> {
    /// None when nothing of it is left to plan; `notes` gets what stops nothing.
    pub(super) fn plan(
        &self,
        job: &JobName,
        seq: u32,
        demands: BTreeSet<JobName>,
        notes: &mut Vec<String>,
    ) -> Option<JobPlan> {
        let (options, spec) = (self.options, self.spec);
        let asked = Asked { force: options.force, sync_only: options.sync_only };
        let (mut moves, mut settle, mut promotes, mut skipped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for allocation in self.allocations {
            let target = options.target(allocation);
            if let Some(wanted) = &options.catch_up {
                let Some((bundle, version)) = target.filter(|_| wanted.contains(&allocation.alloc_id)) else {
                    continue;
                };
                let new_version = version.to_owned();
                let aimed = Allocation { bundle: Some(bundle), new_version, ..(*allocation).clone() };
                if aimed.is_active() {
                    self.decide(&aimed, asked, &mut moves, &mut settle, &mut promotes, &mut skipped);
                }
                continue;
            }
            self.decide(allocation, asked, &mut moves, &mut settle, &mut promotes, &mut skipped);
        }
        let active: Vec<Host> = self.allocations.iter().filter(|a| a.is_active()).map(|a| a.host.clone()).collect();
        let standing = self.allocations.iter().filter(|a| !a.removed);
        if settle.is_empty() && standing.clone().next().is_none() {
            return None;
        }
        let mut order = active.clone();
        let mut ordered_by_hook = false;
        if let Some(wanted) = self.known.orders.get(job) {
            match batches::order(&active, wanted) {
                Ok(hosts) => (order, ordered_by_hook) = (hosts, true),
                Err(why) => notes.push(format!("job {job}: its rollout_order is not used: {why}")),
            }
        }
        if ordered_by_hook {
            let place: BTreeMap<&Host, usize> = order.iter().enumerate().map(|(at, host)| (host, at)).collect();
            moves.sort_by_key(|step: &Move| place.get(&step.host).copied());
        }
        let starts = moves.iter().filter(|step| step.kind == ActionKind::Start);
        let new: Vec<&str> = starts.map(|step| step.host.as_str()).collect();
        let refused = (options.sync_only && !new.is_empty())
            .then(|| format!("--sync-only cannot start what was never deployed: {}", new.join(", ")))
            // One that catches up is asked by itself: its agent says what is missing.
            .or_else(|| needs::refused(&moves, self.known.lacking).filter(|_| options.catch_up.is_none()));
        let mut hooks: BTreeSet<HookEvent> =
            spec.hooks.values().flat_map(|hook| hook.executed_on.iter().copied()).collect();
        hooks.retain(|event| match event {
            HookEvent::PostBuild | HookEvent::Cli => false,
            // Files only: nothing that has to do with processes.
            HookEvent::AfterAllocationStarted | HookEvent::HealthCheck | HookEvent::JobControl => !options.sync_only,
            // A straggler is brought to what the job has: nothing of the job as a whole is decided anew.
            HookEvent::PreDeploy | HookEvent::PostDeploy => options.catch_up.is_none(),
            HookEvent::AfterAllocationStopped => true,
        });
        let complete = moves.is_empty() && settle.is_empty() && promotes.is_empty();
        let not_known = |a: &&&Allocation| options.catch_up.is_none() && a.is_active() && a.bundle.is_none();
        let undecided: Vec<Host> = self.allocations.iter().filter(not_known).map(|a| a.host.clone()).collect();
        let volatile = self.known.volatile.contains(job);
        let pre_deploy = hooks.contains(&HookEvent::PreDeploy);
        let post_deploy_only = complete
            && undecided.is_empty()
            && options.catch_up.is_none()
            && !active.is_empty()
            && hooks.contains(&HookEvent::PostDeploy)
            && standing.clone().any(|a| a.rolled.as_ref().is_none_or(|r| r.post_deploy != Some(PostDeploy::Success)));
        // A deploy that lacks its post_deploy hooks alone runs those and no pre_deploy hooks again.
        let decides = options.catch_up.is_none()
            && !active.is_empty()
            && (!undecided.is_empty()
                || (volatile && ((pre_deploy && !post_deploy_only) || self.upstream_writes))
                || (pre_deploy && !complete));
        let batches = if refused.is_some() {
            Vec::new()
        } else if hooks.contains(&HookEvent::JobControl) {
            // The hooks are told of all of it and decide how it goes.
            if moves.is_empty() { Vec::new() } else { vec![moves] }
        } else {
            batches::batches(moves, spec.max_concurrent_starts, spec.max_concurrent_upgrades)
        };
        Some(JobPlan {
            job: job.clone(),
            seq,
            demands,
            timeout_s: spec.action_timeout_s,
            dir_mode: spec.dir_mode,
            active: active.len(),
            max_failed: spec.max_failed.of(active.len()),
            max_unreachable: spec.max_unreachable.of(active.len()),
            refused,
            order,
            ordered_by_hook,
            settle,
            batches,
            promotes,
            post_deploy_only,
            hooks,
            decides,
            undecided,
            probes: !spec.health_check.checks.is_empty() && !options.sync_only,
            health: health::spec(spec),
            gate_attempts: spec.health_check.attempts,
            gate_interval_ms: millis(spec.health_check.interval_s),
            gate_limit_ms: millis(
                (spec.health_check.interval_s + spec.health_check.timeout_s)
                    .saturating_mul(u64::from(spec.health_check.attempts)),
            ),
            skipped,
        })
    }

    fn decide(
        &self,
        allocation: &Allocation,
        asked: Asked,
        moves: &mut Vec<Move>,
        settle: &mut Vec<Settle>,
        promotes: &mut Vec<Settle>,
        skipped: &mut Vec<(Host, Option<BundleDigest>)>,
    ) {
        let changed = self.known.changed.get(&allocation.alloc_id).map(Vec::as_slice);
        let mut skip = || skipped.push((allocation.host.clone(), allocation.bundle));
        match (action::decide(self.spec, allocation, changed, asked), allocation.bundle) {
            (Decision::Move { kind, matched }, Some(to)) => moves.push(Move {
                alloc_id: allocation.alloc_id,
                worker_id: allocation.worker_id,
                host: allocation.host.clone(),
                kind,
                from: allocation.promoted.as_ref().map(|p| p.bundle),
                to,
                current_version: allocation.current_version().to_owned(),
                new_version: allocation.new_version.clone(),
                matched,
            }),
            (Decision::Stop, _) => settle.push(self.rest(allocation, Rest::Stop)),
            (Decision::Remove { stop }, _) => settle.push(self.rest(allocation, Rest::Remove { stop })),
            (Decision::Promote, Some(_)) => promotes.push(self.rest(allocation, Rest::Promote)),
            (Decision::StopPromote, _) => {
                settle.push(self.rest(allocation, Rest::Stop));
                promotes.extend(allocation.bundle.map(|_| self.rest(allocation, Rest::Promote)));
            }
            (Decision::Skip, _) if allocation.removed => {}
            (Decision::Skip | Decision::Promote | Decision::Move { .. }, _) => skip(),
        }
    }

    fn rest(&self, allocation: &Allocation, rest: Rest) -> Settle {
        Settle {
            alloc_id: allocation.alloc_id,
            worker_id: allocation.worker_id,
            host: allocation.host.clone(),
            rest,
            from: allocation.promoted.as_ref().map(|p| p.bundle),
            to: allocation.bundle.filter(|_| rest == Rest::Promote),
            current_version: allocation.current_version().to_owned(),
            new_version: allocation.new_version.clone(),
            online: self.known.online.contains(&allocation.worker_id),
            gone: !self.there.contains(&allocation.worker_id),
        }
    }
}
