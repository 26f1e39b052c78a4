//! Decides when the checks of an allocation run and what their answers mean. No clock, no network:
//! time and jitter are arguments, answers are given.

use std::collections::BTreeMap;

use shared::api::v1::desired::{DesiredAction, DesiredAllocation, RunState};
use shared::api::v1::health::{HealthSpec, HealthState, ObservedHealth};
use shared::api::v1::report::{Outcome, Process};
use shared::{ActionId, ActionKind, AllocId};

use crate::reconcile::Row;

/// A moment, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since some moment, never backwards: what waits are measured with.
    pub mono_ms: u64,
    /// Milliseconds since 1970 UTC: what is reported.
    pub wall_ms: i64,
}

/// An allocation that has checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Which.
    pub alloc_id: AllocId,
    /// What is asked.
    pub spec: HealthSpec,
    /// The last action that ended, once the job runs and no make target is at work on it.
    pub runs: Option<Ended>,
}

/// The last action of a job that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its id.
    pub action: ActionId,
    /// Files only: the job's processes are the ones that were judged before.
    pub sync: bool,
}

impl Subject {
    /// Of an allocation as it is wanted and as the ledger has it; `None` without checks.
    pub fn of(desired: &DesiredAllocation, row: &Row) -> Option<Self> {
        let spec = desired.health.clone().filter(|spec| !spec.checks.is_empty())?;
        // What hooks start is not known here; what was stopped here is.
        let started = match spec.by_hooks {
            true => row.process != Process::Stopped,
            false => row.process == Process::Started,
        };
        let wanted = desired.state == RunState::Running && started && row.running.is_none();
        let ended = row.action.as_ref().filter(|action| action.outcome == Some(Outcome::Ok));
        let sync = |asked: &DesiredAction, id| asked.id == id && asked.kind == ActionKind::Sync && !spec.by_hooks;
        let runs = ended
            .filter(|_| wanted)
            .map(|a| Ended { action: a.id, sync: desired.action.as_ref().is_some_and(|asked| sync(asked, a.id)) });
        Some(Self { alloc_id: desired.alloc_id, spec, runs })
    }
}

/// Checks to run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Of which allocation.
    pub alloc_id: AllocId,
    /// Its number: an answer to an older one is not listened to.
    pub number: u64,
    /// What is asked.
    pub spec: HealthSpec,
}

/// How much an answer is worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing that is not known.
    None,
    /// A try has failed and others are left.
    Soon,
    /// The judgement, or what it counts for, has changed.
    Now,
}

/// Every allocation that has checks.
#[derive(Debug, Default)]
pub struct Board {
    watches: BTreeMap<AllocId, Watch>,
    rounds: u64,
}

#[derive(Debug)]
struct Watch {
    spec: HealthSpec,
    /// The last action that ended: what the next round counts for. `None`: the job does not run.
    after: Option<ActionId>,
    /// Tries are left: the job has only just been started.
    waiting: bool,
    /// When to check next, unless a round is under way.
    due_ms: u64,
    /// The round under way, and what it counts for.
    round: Option<(u64, ActionId)>,
    observed: ObservedHealth,
}

/// Nothing is known as of `now`.
fn unknown(now: Now) -> ObservedHealth {
    ObservedHealth {
        state: HealthState::Unknown,
        action: None,
        attempt: 0,
        is_final: false,
        since_ms: now.wall_ms,
        checked_ms: 0,
        problem: None,
    }
}

impl Watch {
    fn new(spec: HealthSpec, now: Now) -> Self {
        Self { spec, after: None, waiting: false, due_ms: 0, round: None, observed: unknown(now) }
    }

    /// What was known is of other processes, or of other questions.
    fn anew(&mut self, spec: HealthSpec, after: Option<ActionId>, now: Now) {
        let since_ms = if self.observed.state == HealthState::Unknown { self.observed.since_ms } else { now.wall_ms };
        *self = Self { after, waiting: true, due_ms: now.mono_ms, ..Self::new(spec, now) };
        self.observed.since_ms = since_ms;
    }
}

impl Board {
    /// Takes in what is wanted and what the ledger has.
    pub fn settle(&mut self, subjects: &[Subject], now: Now) {
        self.watches.retain(|id, _| subjects.iter().any(|subject| subject.alloc_id == *id));
        for subject in subjects {
            let spec = bounded(&subject.spec);
            let watch = self.watches.entry(subject.alloc_id).or_insert_with(|| Watch::new(spec.clone(), now));
            let ended = subject.runs.map(|ended| ended.action);
            let same_processes = watch.after.is_some() && subject.runs.is_some_and(|ended| ended.sync);
            if watch.spec != spec || (watch.after != ended && !same_processes) {
                watch.anew(spec, ended, now);
            } else {
                watch.after = ended;
            }
        }
    }

    /// The rounds that are due; each is under way from here on.
    pub fn due(&mut self, now: Now) -> Vec<Round> {
        let mut due = Vec::new();
        for (&alloc_id, watch) in &mut self.watches {
            let Some(after) = watch.after else { continue };
            if watch.round.is_none() && watch.due_ms <= now.mono_ms {
                self.rounds += 1;
                watch.round = Some((self.rounds, after));
                due.push(Round { alloc_id, number: self.rounds, spec: watch.spec.clone() });
            }
        }
        due
    }

    /// When the next round is due that is not under way, [`Now::mono_ms`].
    pub fn next_due_ms(&self) -> Option<u64> {
        let idle = self.watches.values().filter(|watch| watch.after.is_some() && watch.round.is_none());
        idle.map(|watch| watch.due_ms).min()
    }

    /// A round has ended, with what is wrong if something is. `jitter` is in [0, 1).
    pub fn ended(&mut self, alloc: AllocId, number: u64, problem: Option<String>, now: Now, jitter: f64) -> News {
        let Some(watch) = self.watches.get_mut(&alloc) else { return News::None };
        let Some((_, action)) = watch.round.filter(|(under_way, _)| *under_way == number) else { return News::None };
        watch.round = None;
        let before = (watch.observed.state, watch.observed.action, watch.observed.is_final);
        let seen = &mut watch.observed;
        let state = if problem.is_none() { HealthState::Healthy } else { HealthState::Unhealthy };
        if seen.state != state {
            (seen.state, seen.since_ms) = (state, now.wall_ms);
        }
        seen.attempt = if problem.is_none() { 0 } else { seen.attempt.saturating_add(1) };
        watch.waiting &= problem.is_some() && seen.attempt < watch.spec.attempts;
        (seen.action, seen.is_final) = (Some(action), !watch.waiting);
        (seen.checked_ms, seen.problem) = (now.wall_ms, problem);
        let pause_ms = if watch.waiting {
            watch.spec.interval_s * 1000
        } else {
            // Spread, so that jobs that were started together are not asked together for ever.
            (watch.spec.every_s as f64 * 1000.0 * (0.9 + 0.2 * jitter)) as u64
        };
        watch.due_ms = now.mono_ms + pause_ms;
        match (before == (seen.state, seen.action, seen.is_final), watch.waiting) {
            (true, _) => News::None,
            (false, true) => News::Soon,
            (false, false) => News::Now,
        }
    }

    /// What is known of each.
    pub fn observed(&self) -> BTreeMap<AllocId, ObservedHealth> {
        self.watches.iter().map(|(id, watch)| (*id, watch.observed.clone())).collect()
    }
}

/// Whatever a controller asks for, an agent is never kept busy by it: at least a second between rounds,
/// at most an hour for a check, at most a day between rounds.
fn bounded(spec: &HealthSpec) -> HealthSpec {
    let (hour, day) = (3600, 86_400);
    HealthSpec {
        checks: spec.checks.clone(),
        timeout_s: spec.timeout_s.clamp(1, hour),
        attempts: spec.attempts.max(1),
        interval_s: spec.interval_s.clamp(1, day),
        every_s: spec.every_s.clamp(1, day),
        by_hooks: spec.by_hooks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::api::v1::health::Check;
    use shared::api::v1::report::ObservedAction;
    use uuid::Uuid;

    const ALLOC: AllocId = AllocId::from_uuid(Uuid::from_u128(1));

    fn action(n: u128) -> ActionId {
        ActionId::from_uuid(Uuid::from_u128(n))
    }

    fn spec() -> HealthSpec {
        let checks = vec![Check::Tcp { port: 80 }];
        HealthSpec { checks, timeout_s: 5, attempts: 3, interval_s: 2, every_s: 10, by_hooks: false }
    }

    fn at(ms: u64) -> Now {
        Now { mono_ms: ms, wall_ms: 1_000_000 + ms as i64 }
    }

    fn subject(after: Option<(u128, bool)>) -> Subject {
        let runs = after.map(|(n, sync)| Ended { action: action(n), sync });
        Subject { alloc_id: ALLOC, spec: spec(), runs }
    }

    /// Runs the round that must be due at `ms` and says how it went.
    fn answer(board: &mut Board, ms: u64, problem: Option<&str>) -> (News, ObservedHealth) {
        let due = board.due(at(ms));
        assert_eq!(due.len(), 1, "one round is due at {ms}");
        let news = board.ended(ALLOC, due[0].number, problem.map(str::to_owned), at(ms), 0.5);
        (news, board.observed()[&ALLOC].clone())
    }

    #[test]
    fn a_start_is_tried_until_it_answers_and_then_looked_at_now_and_then() {
        let mut board = Board::default();
        board.settle(&[subject(Some((7, false)))], at(0));
        assert_eq!(board.observed()[&ALLOC].state, HealthState::Unknown);
        let (news, seen) = answer(&mut board, 0, Some("refused"));
        assert_eq!((news, seen.state, seen.attempt, seen.is_final), (News::Soon, HealthState::Unhealthy, 1, false));
        assert_eq!(board.next_due_ms(), Some(2000));
        assert_eq!(board.due(at(1999)), []);
        let (news, seen) = answer(&mut board, 2000, Some("refused"));
        assert_eq!((news, seen.attempt), (News::None, 2), "the second of the same is no news");
        let (news, seen) = answer(&mut board, 4000, None);
        assert_eq!((news, seen.state, seen.attempt, seen.is_final), (News::Now, HealthState::Healthy, 0, true));
        assert_eq!((seen.action, seen.problem), (Some(action(7)), None));
        assert_eq!((seen.since_ms, seen.checked_ms), (at(4000).wall_ms, at(4000).wall_ms));
        assert_eq!(board.next_due_ms(), Some(14_000));
        let (news, seen) = answer(&mut board, 14_000, None);
        assert_eq!((news, seen.since_ms), (News::None, at(4000).wall_ms));
        // Later one failure is enough, and there is nothing left to wait for.
        let (news, seen) = answer(&mut board, 24_000, Some("refused"));
        assert_eq!((news, seen.state, seen.is_final), (News::Now, HealthState::Unhealthy, true));
        assert_eq!(answer(&mut board, 34_000, None).0, News::Now);
    }

    #[test]
    fn attempts_are_used_up_and_then_it_is_final_but_may_recover() {
        let mut board = Board::default();
        board.settle(&[subject(Some((7, false)))], at(0));
        assert_eq!(answer(&mut board, 0, Some("x")).0, News::Soon);
        assert_eq!(answer(&mut board, 2000, Some("x")).0, News::None);
        let (news, seen) = answer(&mut board, 4000, Some("refused"));
        assert_eq!((news, seen.attempt, seen.is_final), (News::Now, 3, true));
        assert_eq!(seen.problem.as_deref(), Some("refused"));
        assert_eq!(board.next_due_ms(), Some(14_000), "from here on like any other job");
        assert_eq!(answer(&mut board, 14_000, None).1.state, HealthState::Healthy);
    }

    #[test]
    fn only_what_began_after_an_action_counts_for_it() {
        let mut board = Board::default();
        board.settle(&[subject(Some((7, false)))], at(0));
        let old = board.due(at(0)).remove(0);
        // A restart: make runs, then it has ended.
        board.settle(&[subject(None)], at(10));
        assert_eq!((board.due(at(20)), board.next_due_ms()), (vec![], None));
        board.settle(&[subject(Some((8, false)))], at(30));
        assert_eq!(board.ended(ALLOC, old.number, None, at(40), 0.5), News::None, "of the old processes");
        assert_eq!(board.observed()[&ALLOC].state, HealthState::Unknown);
        let (news, seen) = answer(&mut board, 40, None);
        assert_eq!((news, seen.action), (News::Now, Some(action(8))));
    }

    #[test]
    fn after_files_alone_the_usual_next_round_counts_for_them() {
        let mut board = Board::default();
        board.settle(&[subject(Some((7, false)))], at(0));
        answer(&mut board, 0, None);
        board.settle(&[subject(Some((8, true)))], at(100));
        assert_eq!(board.due(at(200)), [], "nothing is asked out of turn");
        let seen = board.observed()[&ALLOC].clone();
        assert_eq!((seen.state, seen.action), (HealthState::Healthy, Some(action(7))));
        let (news, seen) = answer(&mut board, 10_000, None);
        assert_eq!((news, seen.action), (News::Now, Some(action(8))));
        // A round that was under way does not count for what ended meanwhile.
        let round = board.due(at(20_000)).remove(0);
        board.settle(&[subject(Some((9, true)))], at(20_001));
        board.ended(ALLOC, round.number, None, at(20_002), 0.5);
        assert_eq!(board.observed()[&ALLOC].action, Some(action(8)));
    }

    #[test]
    fn what_is_stopped_gone_or_asked_otherwise_is_not_judged_by_the_past() {
        let mut board = Board::default();
        board.settle(&[subject(Some((7, false)))], at(0));
        answer(&mut board, 0, None);
        let other = Subject { spec: HealthSpec { timeout_s: 9, ..spec() }, ..subject(Some((7, false))) };
        board.settle(std::slice::from_ref(&other), at(5));
        assert_eq!(board.observed()[&ALLOC].state, HealthState::Unknown);
        assert_eq!(board.due(at(5))[0].spec.timeout_s, 9);
        board.settle(&[subject(None)], at(6));
        assert_eq!(board.observed()[&ALLOC].state, HealthState::Unknown);
        board.settle(&[], at(7));
        assert!(board.observed().is_empty());
    }

    #[test]
    fn numbers_out_of_bounds_keep_no_agent_busy() {
        let zero = HealthSpec { timeout_s: 0, attempts: 0, interval_s: 0, every_s: 0, ..spec() };
        let mut board = Board::default();
        board.settle(&[Subject { spec: zero, ..subject(Some((7, false))) }], at(0));
        let (_, seen) = answer(&mut board, 0, Some("x"));
        assert!(seen.is_final);
        assert_eq!(board.next_due_ms(), Some(1000));
    }

    #[test]
    fn who_is_asked_follows_from_the_ledger() {
        let mut row = Row::new(ALLOC, "api".parse().unwrap());
        let desired = |state, kind| DesiredAllocation {
            alloc_id: ALLOC,
            job: "api".parse().unwrap(),
            state,
            disabled: false,
            bundle: None,
            current_version: "1.0.0".into(),
            new_version: "1.0.0".into(),
            action: Some(DesiredAction {
                id: action(7),
                kind,
                timeout_s: 1,
                run_id: shared::RunId::from_uuid(Uuid::from_u128(3)),
            }),
            dir_mode: None,
            deployment_seq: 0,
            self_heal: false,
            health: Some(spec()),
        };
        let of = |state, kind, row: &Row| Subject::of(&desired(state, kind), row).unwrap().runs;
        let start = ActionKind::Start;
        assert_eq!(of(RunState::Running, start, &row), None, "never started");
        row.process = Process::Started;
        let outcome = Some(Outcome::Ok);
        row.action = Some(ObservedAction { id: action(7), outcome, started_ms: 0, duration_ms: 0, tail: None });
        assert_eq!(of(RunState::Running, start, &row), Some(Ended { action: action(7), sync: false }));
        assert_eq!(of(RunState::Running, ActionKind::Sync, &row), Some(Ended { action: action(7), sync: true }));
        for drained in [RunState::Stopped, RunState::Absent, RunState::Purged] {
            assert_eq!(of(drained, start, &row), None);
        }
        row.process = Process::Failed;
        assert_eq!(of(RunState::Running, start, &row), None);
        // Where hooks start it, files in place are all that is known, and each action is judged anew.
        for (process, runs) in [(Process::Unknown, true), (Process::Failed, true), (Process::Stopped, false)] {
            row.process = process;
            let mut by_hooks = desired(RunState::Running, ActionKind::Sync);
            by_hooks.health = Some(HealthSpec { by_hooks: true, ..spec() });
            let wanted = runs.then_some(Ended { action: action(7), sync: false });
            assert_eq!(Subject::of(&by_hooks, &row).unwrap().runs, wanted, "{process:?}");
            by_hooks.state = RunState::Stopped;
            assert_eq!(Subject::of(&by_hooks, &row).unwrap().runs, None);
        }
        row.process = Process::Failed;
        let mut none = desired(RunState::Running, start);
        none.health = None;
        assert_eq!(Subject::of(&none, &row), None);
    }
}
