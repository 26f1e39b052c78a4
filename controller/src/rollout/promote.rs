//! Decides what a report means for a release.

use shared::api::v1::report::Outcome;
use shared::{ActionId, BundleDigest};

use super::event::Observed;

/// What a report means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Proved: this very action succeeded, with this very bundle in place.
    Good,
    /// Nothing yet; left over from before, or under way.
    Pending,
    /// The agent was cut off and nobody knows: ask again, under a new id.
    AskAgain,
    /// It did not work.
    Bad(Outcome),
}

/// Judges `observed` against a release of `action` with `bundle`.
pub fn judge(observed: &Observed, action: ActionId, bundle: BundleDigest) -> Verdict {
    match &observed.action {
        Some((id, Some(outcome))) if *id == action => match outcome {
            Outcome::Ok if observed.bundle == Some(bundle) => Verdict::Good,
            // An action that ended well without its bundle in place is none that we asked for.
            Outcome::Ok => Verdict::Pending,
            Outcome::Interrupted => Verdict::AskAgain,
            bad => Verdict::Bad(bad.clone()),
        },
        _ => Verdict::Pending,
    }
}
