//! The decision table: what happens to an allocation.

use shared::ActionKind;

use crate::model::Allocation;

/// A row's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// In sync.
    Skip,
    /// Roll it.
    Move(ActionKind),
}

/// Decides for an active allocation.
pub fn decide(allocation: &Allocation, force: bool) -> Decision {
    if allocation.promoted.is_none() || allocation.start_pending {
        Decision::Move(ActionKind::Start)
    } else if force || allocation.differs() {
        Decision::Move(ActionKind::Restart)
    } else {
        Decision::Skip
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Promoted;
    use shared::{AllocId, BundleDigest, WorkerId};
    use uuid::Uuid;

    #[test]
    fn every_row() {
        let digest = |n| BundleDigest::from_bytes([n; 32]);
        let allocation = |promoted: Option<(u8, &str)>, start_pending| Allocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            job: "api".parse().unwrap(),
            host: "w".parse().unwrap(),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(2)),
            disabled: false,
            removed: false,
            start_pending,
            deployment_seq: 0,
            new_version: "1.0.0".into(),
            bundle: Some(digest(1)),
            promoted: promoted.map(|(n, version)| Promoted { bundle: digest(n), version: version.into() }),
            render_inputs: None,
        };
        use ActionKind::{Restart, Start};
        use Decision::{Move, Skip};
        for (promoted, pending, force, expected) in [
            (None, false, false, Move(Start)),
            (None, false, true, Move(Start)),
            (Some((1, "1.0.0")), true, false, Move(Start)),
            (Some((1, "1.0.0")), false, false, Skip),
            (Some((1, "1.0.0")), false, true, Move(Restart)),
            (Some((2, "1.0.0")), false, false, Move(Restart)),
            (Some((1, "0.9.0")), false, false, Move(Restart)),
        ] {
            assert_eq!(decide(&allocation(promoted, pending), force), expected, "{promoted:?} {pending} {force}");
        }
    }
}
