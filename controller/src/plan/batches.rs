//! Decides which allocations of a job move at the same time: first starts, then upgrades, each in
//! worker order, never more than the job allows.

use shared::ActionKind;

use super::Move;

/// Batches of `moves`, which come in worker order. `starts` 0 means all at once.
pub fn batches(moves: Vec<Move>, starts: u32, upgrades: u32) -> Vec<Vec<Move>> {
    let (new, updated): (Vec<Move>, Vec<Move>) = moves.into_iter().partition(|m| m.kind == ActionKind::Start);
    let size = |limit: u32, all: usize| if limit == 0 { all.max(1) } else { limit as usize };
    let starts = size(starts, new.len());
    let chunks = |moves: Vec<Move>, size: usize| moves.chunks(size).map(<[Move]>::to_vec).collect::<Vec<_>>();
    let mut all = chunks(new, starts);
    all.extend(chunks(updated, size(upgrades.max(1), 0)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::{AllocId, BundleDigest, WorkerId};
    use uuid::Uuid;

    #[test]
    fn starts_first_then_upgrades_in_worker_order_within_their_limits() {
        let step = |n: u128, kind| Move {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(n)),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(n)),
            host: format!("w{n}").parse().unwrap(),
            kind,
            from: None,
            to: BundleDigest::from_bytes([0; 32]),
            current_version: String::new(),
            new_version: String::new(),
            matched: Vec::new(),
        };
        use ActionKind::{Restart, Start};
        let moves = vec![step(1, Restart), step(2, Start), step(3, Restart), step(4, Start), step(5, Restart)];
        let hosts = |starts, upgrades| -> Vec<String> {
            let batches = batches(moves.clone(), starts, upgrades);
            batches.iter().map(|b| b.iter().map(|m| m.host.as_str()).collect::<Vec<_>>().join(" ")).collect()
        };
        assert_eq!(hosts(0, 2), ["w2 w4", "w1 w3", "w5"]);
        assert_eq!(hosts(1, 9), ["w2", "w4", "w1 w3 w5"]);
        assert!(batches(Vec::new(), 0, 1).is_empty());
    }
}
