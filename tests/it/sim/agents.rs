//! Agents as a rollout sees them: they read what they are told when they can, do one thing after another,
//! are cut off, fail, go away and come back, and say what they know when they are heard.

use std::collections::{BTreeMap, BTreeSet};

use controller::rollout::event::Release;
use controller::rollout::{Observed, Probed};
use shared::api::LEASE_MS;
use shared::api::v1::desired::{Fence, RunState};
use shared::api::v1::report::Outcome;
use shared::{ActionId, ActionKind, AllocId, BundleDigest};

use super::random::Random;

/// What one allocation's row tells its agent.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Nothing before the first release, and after one was taken back.
    pub release: Option<Release>,
    pub fence: Fence,
}

/// One agent, of one allocation.
#[derive(Debug, Clone, Default)]
pub struct Agent {
    pub online: bool,
    /// What it read last.
    pub read: Told,
    /// When it last asked whether that still holds, and it did; `None` after its start.
    pub confirmed_ms: Option<i64>,
    /// It asks and is answered, and what it says is lost.
    pub mute: bool,
    /// Until when it fetches what it read last.
    pub fetches_ms: i64,
    /// It begins things whenever it likes.
    pub heedless: bool,
    /// Everything that it ran to an end: outcome, and what was in place then.
    pub ran: BTreeMap<ActionId, (Outcome, Option<BundleDigest>)>,
    /// After which its probes were good.
    pub was_healthy: BTreeSet<ActionId>,
    pub placed: Option<BundleDigest>,
    pub last: Option<(ActionId, Option<Outcome>)>,
    /// A process of the job runs.
    pub runs: bool,
    /// What runs is not healthy.
    pub sick: bool,
    /// Failed tries of its probes since the last action.
    pub tries: u32,
}

impl Agent {
    /// Reads what it is told.
    pub fn read(&mut self, told: &Told, now_ms: i64, random: &mut Random, calm: bool) {
        if self.online && told.fence >= self.read.fence {
            if told.fence > self.read.fence && !calm && random.chance(10) {
                // Some take as long as a driver waits.
                self.fetches_ms = now_ms + 50_000 + i64::try_from(random.below(20_000)).unwrap_or(0);
            }
            self.read = told.clone();
            self.confirmed_ms = Some(now_ms);
        }
    }

    /// Does one thing; the action that it began, if it began one.
    pub fn act(&mut self, random: &mut Random, calm: bool, now_ms: i64) -> Option<ActionId> {
        self.probe(random, calm);
        let release = self.read.release.clone()?;
        let (id, kind) = release.action;
        if self.ran.contains_key(&id) {
            return None;
        }
        if self.last.as_ref().is_none_or(|(last, _)| *last != id) {
            if !calm && now_ms < self.fetches_ms {
                return None;
            }
            let lease = i64::try_from(LEASE_MS).unwrap();
            if !self.heedless && self.confirmed_ms.is_none_or(|confirmed| now_ms - confirmed >= lease) {
                return None;
            }
            if let (RunState::Running, Some(bundle)) = (release.state, release.bundle) {
                self.placed = Some(bundle);
            }
            self.last = Some((id, None));
            return Some(id);
        }
        let outcome = match random.below(100) {
            _ if calm => Outcome::Ok,
            0..=2 => Outcome::Failed { exit: 1 },
            3..=8 => Outcome::Interrupted,
            _ => Outcome::Ok,
        };
        if outcome == Outcome::Ok {
            // A broken agent says that all is well with other files than it was told to put there.
            let broken = !calm && random.chance(2);
            let other = Some(BundleDigest::from_bytes([255; 32]));
            match (release.state, kind) {
                (RunState::Absent, _) => {
                    (self.placed, self.runs) = (None, self.runs && kind != ActionKind::Stop);
                }
                (_, ActionKind::Stop) => self.runs = false,
                (_, ActionKind::Sync) => self.placed = if broken { other } else { release.bundle.or(self.placed) },
                _ => {
                    self.runs = true;
                    self.placed = if broken { other } else { release.bundle.or(self.placed) };
                }
            }
            self.sick = !calm && random.chance(10);
        }
        self.tries = 0;
        self.ran.insert(id, (outcome.clone(), self.placed));
        self.last = Some((id, Some(outcome)));
        None
    }

    fn probe(&mut self, random: &mut Random, calm: bool) {
        if calm || random.chance(5) {
            self.sick = false;
        }
        let Some((id, Some(_))) = self.last else { return };
        if self.sick {
            self.tries += 1;
        } else {
            self.was_healthy.insert(id);
        }
    }

    /// What it says.
    pub fn report(&self, alloc_id: AllocId, attempts: u32) -> Observed {
        let action = self.last.as_ref().map(|(id, _)| *id);
        let healthy = match (action.is_some_and(|id| self.was_healthy.contains(&id)), self.sick, self.tries) {
            (true, false, _) => Some(true),
            (_, true, 1..) => Some(false),
            _ => None,
        };
        Observed {
            alloc_id,
            bundle: self.placed,
            action: self.last.clone(),
            problem: None,
            tail: None,
            duration_ms: 1,
            health: Some(Probed { action, healthy, spent: self.tries >= attempts, problem: None }),
        }
    }
}
