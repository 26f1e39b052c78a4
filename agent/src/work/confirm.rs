//! The controller's word that what this worker was told still holds: asked for before something is begun, and
//! good for a while.

use shared::api::v1::desired::{DesiredState, Fence};
use shared::diagnostic::chain;

use super::{Held, Workshop, lock};
use crate::client::{Answer, Polled};
use crate::clock;
use crate::reconcile::grant::{Grant, Moment, on_hold};

impl Workshop {
    /// The controller has said that a desired state is its newest.
    pub fn confirmed(&self, grant: Grant) {
        *lock(&self.grant) = Some(grant);
    }

    /// Why an operator wants nothing changed on this worker now.
    pub fn on_hold(&self, desired: &DesiredState) -> Option<String> {
        on_hold(desired.hold.as_ref(), self.controller_ms().unwrap_or_else(clock::now_ms))
    }

    /// Whether what `fence` asks for may be begun now.
    pub(super) fn may_begin(&self, fence: Fence) -> bool {
        self.may_begin_until(fence).is_some()
    }

    /// Until when what `fence` asks for may be begun, if it may now.
    pub(super) fn may_begin_until(&self, fence: Fence) -> Option<Moment> {
        lock(&self.grant).and_then(|grant| grant.until(fence, clock::moment()))
    }

    /// Asks, unless that was answered a moment ago.
    pub(super) fn confirm(&self, fence: Fence) -> Result<(), Held> {
        // One at a time: an answer is one for all.
        let _one = lock(&self.asking);
        if self.may_begin(fence) {
            return Ok(());
        }
        let asked = clock::moment();
        let answer = self.net.block_on(self.client.desired(Some(fence), 0));
        let held = |why: &str| Err(Held::Unconfirmed(why.to_owned()));
        match answer {
            Ok(Answer { polled, .. }) => match polled {
                Polled::Newer(_) => held("the controller has something newer, which is on its way"),
                Polled::Nothing { lease_ms: 0, .. } => {
                    held("the controller does not stand by what it told this worker last: see its log, maand recover")
                }
                Polled::Nothing { lease_ms, .. } => {
                    self.confirmed(Grant { fence, asked, lease_ms });
                    if self.may_begin(fence) { Ok(()) } else { held("the controller's answer took too long") }
                }
            },
            Err(error) => held(&format!("the controller is asked first whether it still holds: {}", chain(&error))),
        }
    }
}
