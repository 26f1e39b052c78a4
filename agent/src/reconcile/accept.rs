//! Decides whether a desired state is accepted (`design/pull.md`, Desired state).

use shared::api::v1::desired::{DesiredState, Fence};
use shared::{BucketId, WorkerId};

/// What was accepted last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its place in the order.
    pub fence: Fence,
    /// sha256 of its bytes.
    pub hash: [u8; 32],
}

/// What to do with a desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Newer: store it, then act on it.
    Accept,
    /// The very one that was accepted already.
    Same,
    /// Never acted on; the reason is reported.
    Refuse(String),
}

/// Judges `offered`, whose bytes hash to `hash`, for the agent of `worker` in `bucket`.
pub fn verdict(
    bucket: BucketId,
    worker: WorkerId,
    last: Option<&Accepted>,
    offered: &DesiredState,
    hash: &[u8; 32],
) -> Verdict {
    if offered.bucket_id != bucket {
        return Verdict::Refuse(format!("it is of bucket {}, this agent is of {bucket}", offered.bucket_id));
    }
    if offered.worker_id != worker {
        return Verdict::Refuse(format!("it is for worker {}, this is {worker}", offered.worker_id));
    }
    let mut jobs: Vec<_> = offered.allocations.iter().map(|a| &a.job).collect();
    jobs.sort();
    if jobs.windows(2).any(|pair| pair[0] == pair[1]) {
        return Verdict::Refuse("it names a job twice".to_owned());
    }
    match last {
        Some(last) if offered.fence < last.fence => {
            Verdict::Refuse(format!("{} is older than {}, which was accepted", offered.fence, last.fence))
        }
        Some(last) if offered.fence == last.fence && *hash == last.hash => Verdict::Same,
        Some(last) if offered.fence == last.fence => {
            Verdict::Refuse(format!("{} was accepted with other content (equivocation)", last.fence))
        }
        _ => Verdict::Accept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn state(fence: (u64, u64, u64)) -> DesiredState {
        DesiredState {
            bucket_id: BucketId::from_uuid(Uuid::from_u128(1)),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(2)),
            host: "h".parse().unwrap(),
            labels: vec![],
            fence: Fence { epoch: fence.0, update_seq: fence.1, generation: fence.2 },
            issued_at_ms: 0,
            allocations: vec![],
            prefetch: vec![],
            operations: vec![],
            hold: None,
        }
    }

    #[test]
    fn only_what_is_newer_and_its_own_is_accepted() {
        let last = Accepted { fence: Fence { epoch: 1, update_seq: 5, generation: 9 }, hash: [1; 32] };
        let bucket = BucketId::from_uuid(Uuid::from_u128(1));
        let worker = WorkerId::from_uuid(Uuid::from_u128(2));
        let judge = |fence, hash: u8| verdict(bucket, worker, Some(&last), &state(fence), &[hash; 32]);
        for newer in [(1, 5, 10), (1, 6, 0), (2, 0, 0)] {
            assert_eq!(judge(newer, 2), Verdict::Accept, "{newer:?}");
        }
        for older in [(1, 5, 8), (1, 4, 99), (0, 99, 99)] {
            assert!(matches!(judge(older, 1), Verdict::Refuse(_)), "{older:?}");
        }
        assert_eq!(judge((1, 5, 9), 1), Verdict::Same);
        assert!(matches!(judge((1, 5, 9), 2), Verdict::Refuse(why) if why.contains("equivocation")));
        assert_eq!(verdict(bucket, worker, None, &state((0, 0, 0)), &[0; 32]), Verdict::Accept);
        let other = WorkerId::from_uuid(Uuid::from_u128(3));
        assert!(matches!(verdict(bucket, other, None, &state((9, 9, 9)), &[0; 32]), Verdict::Refuse(_)));
        let other = BucketId::from_uuid(Uuid::from_u128(3));
        assert!(matches!(verdict(other, worker, None, &state((9, 9, 9)), &[0; 32]), Verdict::Refuse(_)));
    }
}
