//! Decides what `maand gc` takes away, and what it leaves alone and why (`spec/behaviour.md` 8.5, 10.6). It
//! never decides to take away what may still run.

use std::collections::{BTreeMap, BTreeSet};

use shared::{AllocId, Host, JobName, WorkerId};

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;
/// Packs are made anew when they are asked for: those that nobody asked for so many days go.
pub const PACK_DAYS: i64 = 1;
/// Logs of runs stay so many days at least; those of rollouts that `maand rollout list` shows stay with them.
pub const RUN_DAYS: i64 = 7;

/// An allocation that is no longer wanted, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Which.
    pub alloc_id: AllocId,
    /// Its job.
    pub job: JobName,
    /// Its worker's name.
    pub host: Host,
    /// Its worker.
    pub worker_id: WorkerId,
    /// Since when it is no longer wanted, milliseconds since 1970 UTC: when the build ran that found so.
    pub removed_ms: i64,
    /// It was released with a start, and no stop has succeeded since.
    pub may_run: bool,
    /// The rollout that is open has to do with it.
    pub in_rollout: bool,
    /// Its worker was told of it at some time.
    pub is_told: bool,
    /// Its agent said something of it at some time.
    pub is_seen: bool,
    /// Its agent says that its whole tree is gone.
    pub is_purged: bool,
}

/// A worker that something is left of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// An agent has joined for it, and its certificate is good.
    pub is_joined: bool,
    /// Its agent is there, as far as is known.
    pub is_online: bool,
    /// It is in workers.json no more; since when.
    pub gone_ms: Option<i64>,
}

/// What a plan is made of.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Every allocation that is no longer wanted.
    pub leftovers: Vec<Leftover>,
    /// Every worker that one of them is on, and every one that left workers.json.
    pub workers: BTreeMap<WorkerId, (Host, Standing)>,
    /// Jobs that have an allocation that is wanted.
    pub standing_jobs: BTreeSet<JobName>,
    /// Jobs that have key-values, are not in the catalog and have no allocation at all; when the last of
    /// these was written.
    pub orphans: BTreeMap<JobName, i64>,
}

/// What becomes of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is within its days of grace; until then.
    Kept(i64),
    /// Something of it may run: a deploy has to stop it first.
    MayRun,
    /// The rollout that is open has to do with it.
    InRollout,
    /// Its agent takes the tree away, then its rows go.
    Purge,
    /// The same, once its agent is back.
    Waits,
    /// No agent is joined for its worker, which had one.
    NotJoined,
    /// Its worker is in workers.json no more, and its agent is away.
    Lost,
    /// Nothing of it is on its worker: its rows go.
    Forget,
}

/// What `maand gc` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By job, then host.
    pub allocations: Vec<(Leftover, Fate)>,
    /// Jobs whose variables, secrets and other key-values go, if their allocations do.
    pub jobs: BTreeSet<JobName>,
    /// Workers that are in workers.json no more and that nothing stays on: their certificates end.
    pub workers: BTreeMap<WorkerId, Host>,
    /// What was removed before this moment is taken away.
    pub before_ms: i64,
}

/// Decides.
pub fn plan(known: &Known, retain_days: u32, now_ms: i64) -> Plan {
    let grace_ms = i64::from(retain_days) * DAY_MS;
    let before_ms = now_ms - grace_ms;
    let mut allocations: Vec<(Leftover, Fate)> = known
        .leftovers
        .iter()
        .map(|leftover| {
            let standing = known.workers.get(&leftover.worker_id).map(|(_, standing)| *standing);
            (leftover.clone(), fate(leftover, standing, grace_ms, before_ms))
        })
        .collect();
    allocations.sort_by(|(a, _), (b, _)| (&a.job, &a.host).cmp(&(&b.job, &b.host)));
    let goes = |fate: &Fate| matches!(fate, Fate::Purge | Fate::Forget);
    let stay = |of: &dyn Fn(&Leftover) -> bool| allocations.iter().any(|(l, fate)| of(l) && !goes(fate));
    let mut jobs: BTreeSet<JobName> =
        allocations.iter().filter(|(_, fate)| goes(fate)).map(|(leftover, _)| leftover.job.clone()).collect();
    jobs.retain(|job| !known.standing_jobs.contains(job) && !stay(&|l| l.job == *job));
    // When a job left that never had an allocation is not known: what was written into it last counts.
    jobs.extend(known.orphans.iter().filter(|(_, written)| **written <= before_ms).map(|(job, _)| job.clone()));
    let workers = known
        .workers
        .iter()
        .filter(|(id, (_, standing))| {
            standing.gone_ms.is_some_and(|gone| gone <= before_ms) && !stay(&|l| l.worker_id == **id)
        })
        .map(|(id, (host, _))| (*id, host.clone()))
        .collect();
    Plan { allocations, jobs, workers, before_ms }
}

fn fate(leftover: &Leftover, standing: Option<Standing>, grace_ms: i64, before_ms: i64) -> Fate {
    let standing = standing.unwrap_or(Standing { is_joined: false, is_online: false, gone_ms: None });
    if leftover.in_rollout {
        return Fate::InRollout;
    }
    if leftover.removed_ms > before_ms {
        return Fate::Kept(leftover.removed_ms + grace_ms);
    }
    if leftover.is_purged {
        return Fate::Forget;
    }
    // What was never told of cannot have been started.
    if !leftover.is_told {
        return Fate::Forget;
    }
    if leftover.may_run {
        let lost = standing.gone_ms.is_some() && !standing.is_online;
        return if lost { Fate::Lost } else { Fate::MayRun };
    }
    match (standing.is_joined, standing.is_online, standing.gone_ms) {
        (true, true, _) => Fate::Purge,
        (false, _, _) if !leftover.is_seen => Fate::Forget,
        (_, _, Some(_)) => Fate::Lost,
        (true, false, None) => Fate::Waits,
        (false, _, None) => Fate::NotJoined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const NOW: i64 = 100 * DAY_MS;

    fn leftover(n: u128, job: &str) -> Leftover {
        Leftover {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(n)),
            job: job.parse().unwrap(),
            host: format!("w{n}").parse().unwrap(),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(n)),
            removed_ms: NOW - 2 * DAY_MS,
            may_run: false,
            in_rollout: false,
            is_told: true,
            is_seen: true,
            is_purged: false,
        }
    }

    fn known(leftovers: &[Leftover], standing: Standing) -> Known {
        let worker = |l: &Leftover| (l.worker_id, (l.host.clone(), standing));
        Known { leftovers: leftovers.to_vec(), workers: leftovers.iter().map(worker).collect(), ..Known::default() }
    }

    const HERE: Standing = Standing { is_joined: true, is_online: true, gone_ms: None };
    const AWAY: Standing = Standing { is_joined: true, is_online: false, gone_ms: None };
    const NOBODY: Standing = Standing { is_joined: false, is_online: false, gone_ms: None };
    const LEFT: Standing = Standing { is_joined: true, is_online: true, gone_ms: Some(NOW - 2 * DAY_MS) };
    const LOST: Standing = Standing { is_joined: true, is_online: false, gone_ms: Some(NOW - 2 * DAY_MS) };

    #[test]
    fn each_allocation_by_what_is_known_of_it() {
        let plain = || leftover(1, "api");
        let with = |change: &dyn Fn(&mut Leftover)| {
            let mut changed = plain();
            change(&mut changed);
            changed
        };
        let runs = with(&|l| l.may_run = true);
        let rolls = with(&|l| (l.in_rollout, l.is_purged) = (true, true));
        let untold = with(&|l| (l.is_told, l.is_seen) = (false, false));
        let unseen = with(&|l| l.is_seen = false);
        let purged = with(&|l| l.is_purged = true);
        for (n, (leftover, standing, days, expected)) in [
            (&plain(), HERE, 0, Fate::Purge),
            (&plain(), HERE, 3, Fate::Kept(NOW + DAY_MS)),
            (&plain(), HERE, 2, Fate::Purge),
            (&plain(), AWAY, 0, Fate::Waits),
            (&plain(), NOBODY, 0, Fate::NotJoined),
            (&plain(), LEFT, 0, Fate::Purge),
            (&plain(), LOST, 0, Fate::Lost),
            (&runs, HERE, 0, Fate::MayRun),
            (&runs, AWAY, 0, Fate::MayRun),
            (&runs, LEFT, 0, Fate::MayRun),
            (&runs, LOST, 0, Fate::Lost),
            (&rolls, HERE, 0, Fate::InRollout),
            (&untold, AWAY, 0, Fate::Forget),
            (&unseen, NOBODY, 0, Fate::Forget),
            (&unseen, AWAY, 0, Fate::Waits),
            (&purged, AWAY, 0, Fate::Forget),
            (&purged, LOST, 3, Fate::Kept(NOW + DAY_MS)),
        ]
        .into_iter()
        .enumerate()
        {
            let plan = plan(&known(std::slice::from_ref(leftover), standing), days, NOW);
            assert_eq!(plan.allocations[0].1, expected, "row {n}");
        }
    }

    #[test]
    fn key_values_and_workers_go_with_the_last_that_is_left_of_them() {
        let two = [leftover(1, "api"), leftover(2, "api")];
        let names = |plan: &Plan| -> Vec<String> { plan.jobs.iter().map(ToString::to_string).collect() };
        let whole = plan(&known(&two, LEFT), 0, NOW);
        assert_eq!((names(&whole), whole.workers.len()), (vec!["api".to_owned()], 2));
        let mut one_runs = known(&two, LEFT);
        one_runs.leftovers[0].may_run = true;
        let part = plan(&one_runs, 0, NOW);
        assert_eq!((names(&part), part.workers.len()), (vec![], 1), "its other allocation stays");
        let mut wanted = known(&two, HERE);
        wanted.standing_jobs.insert("api".parse().unwrap());
        let kept = plan(&wanted, 0, NOW);
        assert_eq!((names(&kept), kept.workers.len()), (vec![], 0), "the job goes on elsewhere, the workers too");
        let orphans = [("old", NOW - 5 * DAY_MS), ("new", NOW - DAY_MS)].map(|(n, at)| (n.parse().unwrap(), at));
        let orphaned = Known { orphans: orphans.into(), ..Known::default() };
        assert_eq!(names(&plan(&orphaned, 3, NOW)), ["old"]);
    }
}
