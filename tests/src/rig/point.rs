//! One point: the ground as it was saved, an agent that is hit, what is there then; the agent again, until it
//! has its way, and what is there then.

use std::path::Path;
use std::time::{Duration, Instant};

use shared::Bundle;
use shared::api::v1::desired::{DesiredState, Fence, RunState};
use shared::api::v1::report::{Outcome, Phase, Report};

use super::Rig;
use super::ground::Cut;
use super::oracle::{self, Wrong};
use super::scenario::{self, Scenario, Wish};
use super::trace::{Act, Tracing};
use super::tree;
use crate::process::Running;

/// Longest time until an agent has its way.
pub(super) const CONVERGE: Duration = Duration::from_secs(40);
/// Longest time until a trouble that lasts is reported.
const TELL: Duration = Duration::from_secs(10);

/// What hits the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hit {
    /// Nothing: for counting.
    Nothing,
    /// SIGKILL at the n-th mutating call.
    Kill(usize),
    /// The n-th mutating call fails once.
    Fail(usize, i32),
    /// The power goes at the n-th mutating call.
    Cut(usize, Cut),
    /// The disk is full from the n-th mutating call on.
    FullAt(usize),
    /// The disk fails and is read-only from the n-th mutating call on.
    Readonly(usize),
    /// SIGKILL at a named point, when it is reached for the n-th time.
    Failpoint(&'static str, usize),
    /// So many bytes are free when the agent hears of its work.
    Filled(u64),
}

/// What came of a point.
#[derive(Debug, Default)]
pub struct Seen {
    /// Whether it was reached.
    pub reached: bool,
    /// Mutating calls, when they were counted.
    pub calls: usize,
    /// The call that was hit.
    pub at: Option<String>,
    /// What the agent said that holds it up.
    pub problem: Option<String>,
    /// Invariants that do not hold.
    pub wrong: Wrong,
}

/// An agent, traced or not.
pub(super) enum Agent {
    Plain(Running),
    Traced(Tracing),
}

impl Agent {
    fn over(&mut self) -> bool {
        match self {
            Self::Plain(running) => running.ended().is_some(),
            Self::Traced(tracing) => tracing.over(),
        }
    }
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The state is reached; what became of its action.
    Done(Option<Outcome>),
    /// The agent ended.
    Ended,
    /// Something holds it up.
    Held(String),
    /// None of these in time.
    Late,
}

impl Rig {
    /// Goes through one point.
    pub fn point(&mut self, scenario: &Scenario, hit: &Hit) -> Result<Seen, String> {
        self.ground.restore(if scenario.placed { "placed" } else { "nothing" })?;
        std::fs::write(self.ran(), "").unwrap();
        drop(std::fs::remove_file(self.ground.file("agent.log")));
        self.controller.forget_reports();
        let pinned = scenario.pinned.map(|path| self.ground.bind(&self.job_dir().join(path), "pinned")).transpose()?;
        let seen = self.go_through(scenario, hit);
        if pinned.is_some() {
            self.ground.unbind("pinned");
        }
        let mut seen = seen?;
        let log = self.log();
        if log.contains("panicked") {
            seen.wrong.push("the agent panicked".to_owned());
        }
        if !seen.wrong.is_empty() && std::env::var_os("MAAND_RIG_SHOW").is_some() {
            eprintln!("{log}");
        }
        Ok(seen)
    }

    fn go_through(&mut self, scenario: &Scenario, hit: &Hit) -> Result<Seen, String> {
        let (before, outside) = (tree::list(&self.job_dir()), self.outside());
        let wish = scenario.wish.clone();
        let bundle = self.bundle(wish.version);
        let target = scenario::expected(
            &scenario::files(wish.version, &self.ran()),
            &Scenario { then: None, ..scenario.clone() },
        );
        let mut state = self.document(&wish, &bundle);
        let mut seen = Seen::default();
        let mut actions = usize::from(wish.action.is_some());
        let action = state.allocations[0].action.as_ref().map(|action| action.id);

        let mut agent = self.hit(hit, &state)?;
        let lasting = matches!(hit, Hit::FullAt(_) | Hit::Readonly(_) | Hit::Filled(_));
        let limit = if lasting { TELL } else { CONVERGE };
        let mut way = self.wait(&wish, &bundle, &state, &mut agent, limit, lasting);
        if let Way::Held(problem) = &way {
            seen.problem = Some(problem.clone());
        }
        if lasting && way == Way::Late {
            seen.wrong.push("I10: nothing got on, and no report says why".to_owned());
        }
        if matches!(hit, Hit::FullAt(_) | Hit::Filled(_)) {
            self.ground.empty();
            if way != Way::Ended {
                way = self.wait(&wish, &bundle, &state, &mut agent, CONVERGE, false);
            }
        }
        if way == Way::Late && !matches!(hit, Hit::Readonly(_)) {
            seen.wrong.push("I10: it did not get on by itself".to_owned());
        }
        let deadly = matches!(hit, Hit::Kill(_) | Hit::Cut(..) | Hit::Failpoint(..) | Hit::Readonly(_));
        match agent {
            Agent::Plain(mut running) => {
                seen.reached = running.ended().is_some() || !deadly;
                running.kill();
            }
            Agent::Traced(tracing) => {
                seen.reached = tracing.hit();
                let traced = tracing.end();
                (seen.calls, seen.at) = (traced.calls, traced.at);
            }
        }
        if let (Hit::Fail(..), Way::Ended) = (hit, &way)
            && !self.log().contains("MD")
        {
            seen.wrong.push("I10: it ended, and its log does not say why".to_owned());
        }
        if matches!(hit, Hit::Cut(..) | Hit::Readonly(_)) {
            self.ground.unbind("pinned");
            if matches!(hit, Hit::Cut(..)) {
                self.ground.again()?
            } else {
                self.ground.repaired()?
            }
            if let Some(path) = scenario.pinned.filter(|path| self.job_dir().join(path).is_file()) {
                self.ground.bind(&self.job_dir().join(path), "pinned")?;
            }
        }

        let (fence, rows) = self.ledger()?;
        let row = rows.iter().find(|row| row.alloc_id == self.alloc);
        let mine = (wish.state == RunState::Running).then(|| bundle.digest());
        let crashed = tree::list(&self.job_dir());
        let least = if scenario.placed { self.saved } else { Fence::default() };
        seen.wrong.extend(oracle::reported(&self.controller.reports(), fence, &rows, least, action, mine));
        seen.wrong.extend(oracle::crashed(scenario, &before, &crashed, row, &target, &bundle));
        seen.wrong.extend(oracle::kept(&before, &crashed, wish.state, false));

        // It starts again, and what it is told may be something else by now.
        let wish = scenario.then.clone().unwrap_or(wish);
        let bundle = self.bundle(wish.version);
        if scenario.then.is_some() {
            state = self.document(&wish, &bundle);
            actions += usize::from(wish.action.is_some());
        }
        self.controller.want(Some(&state));
        self.controller.forget_reports();
        let mut agent = Agent::Plain(self.start());
        let done = loop {
            match self.wait(&wish, &bundle, &state, &mut agent, CONVERGE, false) {
                Way::Done(None | Some(Outcome::Ok)) => break true,
                // As a driver does: the id was used up, so there is a new one.
                Way::Done(Some(Outcome::Interrupted | Outcome::Refused { .. })) if actions < 5 => {
                    actions += 1;
                    state = self.document(&wish, &bundle);
                    self.controller.want(Some(&state));
                }
                other => {
                    seen.wrong.push(format!("after the start: {other:?}"));
                    break false;
                }
            }
        };
        if !done {
            return Ok(seen);
        }
        let after = tree::list(&self.job_dir());
        let ran = self.ran_lines();
        state.fence.generation += 1;
        self.controller.want(Some(&state));
        match self.wait(&wish, &bundle, &state, &mut agent, CONVERGE, false) {
            Way::Done(_) => {}
            other => seen.wrong.push(format!("I9: the same state again: {other:?}")),
        }
        drop(agent);
        let now = tree::list(&self.job_dir());
        seen.wrong.extend(oracle::again(&after, &now, &ran, &self.ran_lines()));
        let mut allowed = std::collections::BTreeSet::from([oracle::seen_of(&before)]);
        allowed.extend(target.iter().map(oracle::seen_by_make));
        let files = scenario::files(wish.version, &self.ran());
        let expected = match wish.state {
            RunState::Running | RunState::Stopped => scenario::expected(&files, scenario),
            RunState::Absent => scenario::expected(&[], scenario),
            RunState::Purged => Vec::new(),
        };
        allowed.extend(expected.iter().map(oracle::seen_by_make));
        seen.wrong.extend(oracle::runs(&ran, &allowed, actions));
        if wish.state == RunState::Purged {
            seen.wrong.extend(now.keys().map(|path| format!("I2: {path:?} is left over")));
        } else {
            let private = files.iter().any(|file| file.3) && wish.state == RunState::Running;
            seen.wrong.extend(oracle::whole(&now, &expected, "I2"));
            if wish.state == RunState::Running {
                seen.wrong.extend(oracle::directories(&before, &now, &expected, private));
            }
        }
        let began = if scenario.then.is_some() { scenario.wish.state } else { wish.state };
        seen.wrong.extend(oracle::kept(&before, &now, began, began != wish.state));
        seen.wrong.extend(oracle::outside(&outside, &self.outside(), &names(self.layout().bucket())));
        if wish.state == RunState::Running {
            let left = names(&self.layout().own()).into_iter().filter(|name| name.starts_with("pack-"));
            seen.wrong.extend(left.map(|name| format!("I2: .maand/{name} is left over")));
        }
        Ok(seen)
    }

    /// Starts an agent that is hit.
    fn hit(&mut self, hit: &Hit, state: &DesiredState) -> Result<Agent, String> {
        let act = match hit {
            Hit::Nothing => (usize::MAX, Act::Kill),
            Hit::Kill(n) => (*n, Act::Kill),
            Hit::Fail(n, errno) => (*n, Act::Fail(*errno)),
            Hit::Cut(n, cut) => (*n, Act::ThenKill(Box::new(self.ground.cutter(*cut)))),
            Hit::FullAt(n) => (*n, Act::Then(Box::new(self.ground.filler(0)))),
            Hit::Readonly(n) => (*n, Act::Then(Box::new(self.ground.breaker()))),
            Hit::Failpoint(name, n) => {
                self.controller.want(Some(state));
                let mut command = self.command();
                command.env("MAAND_FAILPOINT", format!("{name}:{n}"));
                return Ok(Agent::Plain(Running::start("agent", command, &self.ground.file("agent.log"))));
            }
            Hit::Filled(left) => {
                // It runs and has nothing to do when the disk fills up.
                self.controller.want(None);
                let agent = self.start();
                let heard = self.controller.wait(Instant::now() + CONVERGE, |all| all.first().map(|_| ()), || false);
                heard.ok_or("the agent does not report")?;
                self.ground.filler(*left)();
                self.controller.want(Some(state));
                return Ok(Agent::Plain(agent));
            }
        };
        self.controller.want(Some(state));
        let log = std::fs::File::options().create(true).append(true).open(self.ground.file("agent.log")).unwrap();
        Tracing::start(&self.command(), &self.ground.place(), act.0, act.1, &log).map(Agent::Traced)
    }

    pub(super) fn wait(
        &self,
        wish: &Wish,
        bundle: &Bundle,
        state: &DesiredState,
        agent: &mut Agent,
        limit: Duration,
        troubles: bool,
    ) -> Way {
        let id = state.allocations[0].action.as_ref().map(|action| action.id);
        let found = |reports: &[Report]| -> Option<Way> {
            let last = reports.last()?;
            let mine = last.allocations.iter().find(|seen| seen.alloc_id == self.alloc);
            let problem = mine.and_then(|seen| seen.problem.clone()).or_else(|| last.refused.clone());
            if let Some(problem) = problem.filter(|_| troubles) {
                return Some(Way::Held(problem));
            }
            let mine = mine.filter(|_| last.accepted == Some(state.fence)).filter(|seen| seen.phase == Phase::Idle)?;
            let action = mine.action.as_ref().filter(|action| Some(action.id) == id);
            let outcome = action.and_then(|action| action.outcome.clone());
            if outcome.as_ref().is_some_and(|outcome| *outcome != Outcome::Ok) {
                return Some(Way::Done(outcome));
            }
            let placed = match wish.state {
                RunState::Running | RunState::Stopped => mine.bundle == Some(bundle.digest()),
                RunState::Absent => mine.bundle.is_none(),
                RunState::Purged => mine.purged,
            };
            (placed && (id.is_none() || outcome.is_some())).then_some(Way::Done(outcome))
        };
        let mut over = false;
        let way = self.controller.wait(Instant::now() + limit, found, || {
            over = agent.over();
            over
        });
        way.unwrap_or(if over { Way::Ended } else { Way::Late })
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
