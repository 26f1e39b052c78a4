//! One release on its way: whether its agent has it, what became of it, and how long that may take.

use serde::{Deserialize, Serialize};
use shared::api::GONE_MS;
use shared::api::v1::desired::Fence;
use shared::api::v1::report::Outcome;
use shared::{ActionId, BundleDigest};

use super::event::{Observed, Probed};

/// Time beyond its limit that a target's result may take to come, milliseconds.
pub(super) const GRACE_MS: i64 = 60_000;
/// How often an interrupted action is asked for again.
const MAX_AGAIN: u32 = 2;

/// A release. Small: it is written with every step that changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flight {
    /// Under which id.
    pub action_id: ActionId,
    /// When it was released, milliseconds since 1970 UTC.
    pub released_ms: i64,
    /// The generation that it was released in, once the driver has recorded it.
    pub fence: Option<Fence>,
    /// When its agent was first seen to have it.
    pub picked_up_ms: Option<i64>,
    /// How often it was asked for again.
    pub again: u32,
    /// What holds it up, as its agent says.
    pub problem: Option<String>,
    /// When its action ended well, or it was taken back.
    #[serde(default)]
    pub ended_ms: Option<i64>,
    /// Its agent has begun its action, or done it.
    #[serde(default)]
    pub begun: bool,
    /// When it was taken back. Until its agent's lease is over it may have been begun all the same.
    #[serde(default)]
    pub taken_back_ms: Option<i64>,
    /// An operator holds its worker: it is not begun there, and counts against no budget.
    #[serde(default)]
    pub is_held: bool,
    /// How it ended; `None` while it is under way.
    #[serde(default)]
    pub fate: Option<Fate>,
}

/// How a release ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// Its action ended well; its gate is still to come.
    Ran,
    /// It is promoted, stopped or removed, whichever it was for.
    Settled,
    /// It did not work.
    Failed {
        /// Why.
        why: Why,
    },
    /// Its agent was out of reach: taken back.
    Deferred,
    /// Its agent was out of reach: left for when it is back.
    Left,
}

/// Why a release did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Why {
    /// It was taken up, and no result came.
    NoResult {
        /// How long it was waited for, milliseconds.
        waited_ms: i64,
        /// What the agent said holds it up.
        problem: Option<String>,
    },
    /// The agent reported how it went.
    Outcome {
        /// How.
        outcome: Outcome,
        /// The end of its output.
        tail: Option<String>,
    },
    /// It ran, and its probes are not good.
    Unhealthy {
        /// What is wrong.
        problem: String,
    },
    /// A hook failed for it.
    Hook {
        /// What it said.
        problem: String,
    },
}

impl Why {
    /// The exit code of a make target that failed.
    pub fn exit(&self) -> Option<i32> {
        match self {
            Self::Outcome { outcome: Outcome::Failed { exit }, .. } => Some(*exit),
            _ => None,
        }
    }

    /// In a few words, for a line of progress.
    pub fn brief(&self) -> String {
        match self {
            Self::NoResult { waited_ms, .. } => format!("no result after {} s", waited_ms / 1000),
            Self::Outcome { outcome, .. } => match outcome {
                Outcome::Failed { exit } => format!("exit {exit}"),
                Outcome::TimedOut => "it took too long".to_owned(),
                Outcome::Interrupted => "interrupted again and again".to_owned(),
                Outcome::Refused { reason } => format!("refused: {reason}"),
                Outcome::Ok => "ok".to_owned(),
            },
            Self::Unhealthy { problem } => format!("not healthy: {problem}"),
            Self::Hook { problem } => problem.clone(),
        }
    }
}

/// What a report means for a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet; left over from before, or under way.
    Pending,
    /// Proved: this very action succeeded, with this very bundle in place.
    Good,
    /// The agent was cut off and nobody knows: ask again, under a new id.
    AskAgain,
    /// It did not work.
    Bad(Why),
}

/// What a release is to leave in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    /// This bundle.
    Files(BundleDigest),
    /// No bundle.
    Nothing,
    /// What was there.
    Anything,
}

/// Judges `observed` against a release of `action` that is to leave something in place.
fn judge(observed: &Observed, action: ActionId, leaves: Leaves, again: u32) -> Verdict {
    let in_place = match leaves {
        Leaves::Files(bundle) => observed.bundle == Some(bundle),
        Leaves::Nothing => observed.bundle.is_none(),
        Leaves::Anything => true,
    };
    match &observed.action {
        Some((id, Some(outcome))) if *id == action => match outcome {
            Outcome::Ok if in_place => Verdict::Good,
            // An action that ended well without its bundle in place is none that we asked for.
            Outcome::Ok => Verdict::Pending,
            Outcome::Interrupted if again < MAX_AGAIN => Verdict::AskAgain,
            bad => Verdict::Bad(Why::Outcome { outcome: bad.clone(), tail: observed.tail.clone() }),
        },
        _ => Verdict::Pending,
    }
}

impl Flight {
    /// Released now.
    pub(super) fn new(action_id: ActionId, now_ms: i64, again: u32) -> Self {
        Self {
            action_id,
            released_ms: now_ms,
            fence: None,
            picked_up_ms: None,
            again,
            problem: None,
            ended_ms: None,
            begun: false,
            taken_back_ms: None,
            is_held: false,
            fate: None,
        }
    }

    /// What was written by a clock that was set back since does not prolong a wait.
    pub(super) fn not_after(&mut self, now_ms: i64) {
        self.released_ms = self.released_ms.min(now_ms);
        for moment in [&mut self.picked_up_ms, &mut self.ended_ms, &mut self.taken_back_ms].into_iter().flatten() {
            *moment = (*moment).min(now_ms);
        }
    }

    /// How long it was waited for, milliseconds; 0 while it is.
    pub fn waited_ms(&self) -> i64 {
        self.ended_ms.map_or(0, |ended| ended - self.released_ms)
    }

    /// Whether it is under way.
    pub fn is_open(&self) -> bool {
        self.fate.is_none()
    }

    /// Takes a report in; what it means.
    pub(super) fn observe(&mut self, observed: &Observed, leaves: Leaves, now_ms: i64) -> Verdict {
        let has_it = observed.action.as_ref().is_some_and(|(id, _)| *id == self.action_id);
        if has_it && self.picked_up_ms.is_none() {
            self.picked_up_ms = Some(now_ms);
        }
        self.begun |= has_it;
        self.problem.clone_from(&observed.problem);
        judge(observed, self.action_id, leaves, self.again)
    }

    /// The agent has accepted `fence`; whether that says that it has this.
    pub(super) fn accepted(&mut self, fence: Fence, now_ms: i64) -> bool {
        // What was taken back is accepted as such by the same words.
        let waits = self.is_open() && self.picked_up_ms.is_none() && self.taken_back_ms.is_none();
        let news = waits && self.fence.is_some_and(|released| fence >= released);
        if news {
            self.picked_up_ms = Some(now_ms);
        }
        news
    }

    /// Whether its agent did not pick it up in time, which somebody listened for since `driven_ms`.
    pub(super) fn is_out_of_reach(&self, now_ms: i64, driven_ms: i64, pickup_ms: i64) -> bool {
        let waits = self.is_open() && self.picked_up_ms.is_none() && self.taken_back_ms.is_none();
        waits && now_ms - self.released_ms.max(driven_ms) >= pickup_ms
    }

    /// It was taken back, and its agent can begin it no more, which somebody listened for since `driven_ms`.
    pub(super) fn is_given_up(&self, now_ms: i64, driven_ms: i64) -> bool {
        self.is_open() && self.taken_back_ms.is_some_and(|back| now_ms - back.max(driven_ms) >= GONE_MS)
    }

    /// Its agent had begun it before it was taken back, and it counts again; whether that is so.
    pub(super) fn stands_again(&mut self) -> bool {
        let stands = self.begun && self.taken_back_ms.is_some();
        if stands {
            (self.taken_back_ms, self.ended_ms, self.is_held) = (None, None, false);
        }
        stands
    }

    /// What it failed of, when its result is overdue, which somebody listened for since `driven_ms`.
    pub(super) fn overdue(&self, now_ms: i64, driven_ms: i64, timeout_s: u64) -> Option<Why> {
        let waited_ms = now_ms - self.picked_up_ms.filter(|_| self.is_open())?.max(driven_ms);
        let limit = i64::try_from(timeout_s.saturating_mul(1000)).unwrap_or(i64::MAX).saturating_add(GRACE_MS);
        (waited_ms >= limit).then(|| Why::NoResult { waited_ms, problem: self.problem.clone() })
    }

    /// What the probes after it say: `None` while they say nothing final.
    pub(super) fn probed(&self, probed: &Probed) -> Option<Result<(), Why>> {
        if probed.action != Some(self.action_id) {
            return None;
        }
        match (probed.healthy, probed.spent) {
            (Some(true), _) => Some(Ok(())),
            (Some(false), true) => {
                let problem = probed.problem.clone().unwrap_or_else(|| "its probes are not good".to_owned());
                Some(Err(Why::Unhealthy { problem }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_over_waits_the_whole_lease_and_no_longer_whatever_the_clock_said_before() {
        let hour = 3_600_000;
        for (before_ms, why) in [(-hour, "an hour ago"), (-1, "just now"), (hour, "by a clock that was set back since")]
        {
            let now_ms = 10 * hour;
            let mut flight = Flight::new(ActionId::from_uuid(uuid::Uuid::nil()), now_ms + before_ms, 0);
            flight.taken_back_ms = Some(now_ms + before_ms);
            flight.not_after(now_ms);
            assert!(!flight.is_given_up(now_ms + GONE_MS - 1, now_ms), "{why}");
            assert!(flight.is_given_up(now_ms + GONE_MS, now_ms), "{why}");
        }
    }
}
