//! Decides which allocations of a job move at the same time: first starts, then upgrades, each in the
//! job's order, never more than the job allows.

use std::collections::BTreeSet;

use shared::{ActionKind, Host};

use super::Move;

/// Batches of `moves`, which come in the job's order. `starts` 0 means all at once.
pub fn batches(moves: Vec<Move>, starts: u32, upgrades: u32) -> Vec<Vec<Move>> {
    let (new, updated): (Vec<Move>, Vec<Move>) = moves.into_iter().partition(|m| m.kind == ActionKind::Start);
    let size = |limit: u32, all: usize| if limit == 0 { all.max(1) } else { limit as usize };
    let starts = size(starts, new.len());
    let chunks = |moves: Vec<Move>, size: usize| moves.chunks(size).map(<[Move]>::to_vec).collect::<Vec<_>>();
    let mut all = chunks(new, starts);
    all.extend(chunks(updated, size(upgrades.max(1), 0)));
    all
}

/// The order that a hook wrote (`rollout_order`, comma-separated), if it names each of the job's active
/// hosts once and nobody else; otherwise what is wrong with it (`spec/decisions.md`, Deploy).
pub fn order(active: &[Host], wanted: &str) -> Result<Vec<Host>, String> {
    let mut named = BTreeSet::new();
    let mut order = Vec::new();
    for name in wanted.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let Some(host) = active.iter().find(|host| host.as_str() == name) else {
            return Err(format!("{:?} is no active worker of the job", shared::text::clean(name)));
        };
        if !named.insert(host) {
            return Err(format!("{host} is named twice"));
        }
        order.push(host.clone());
    }
    match active.iter().find(|host| !named.contains(host)) {
        Some(missing) => Err(format!("{missing} is missing")),
        None => Ok(order),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::{AllocId, BundleDigest, WorkerId};
    use uuid::Uuid;

    #[test]
    fn starts_first_then_upgrades_in_order_within_their_limits() {
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
        use ActionKind::{Reload, Restart, Start};
        let moves = vec![step(1, Restart), step(2, Start), step(3, Reload), step(4, Start), step(5, Restart)];
        let hosts = |starts, upgrades| -> Vec<String> {
            let batches = batches(moves.clone(), starts, upgrades);
            batches.iter().map(|b| b.iter().map(|m| m.host.as_str()).collect::<Vec<_>>().join(" ")).collect()
        };
        assert_eq!(hosts(0, 2), ["w2 w4", "w1 w3", "w5"]);
        assert_eq!(hosts(1, 9), ["w2", "w4", "w1 w3 w5"]);
        assert!(batches(Vec::new(), 0, 1).is_empty());
    }

    #[test]
    fn an_order_names_every_active_worker_once_or_is_refused() {
        let active: Vec<Host> = ["w1", "w2", "w3"].iter().map(|host| host.parse().unwrap()).collect();
        let said =
            |wanted| order(&active, wanted).map(|hosts| hosts.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(said("w3, w1,,w2").unwrap(), ["w3", "w1", "w2"]);
        assert_eq!(said("w3,w1").unwrap_err(), "w2 is missing");
        assert_eq!(said("w3,w1,w3").unwrap_err(), "w3 is named twice");
        assert_eq!(said("w9,w1").unwrap_err(), "\"w9\" is no active worker of the job");
        assert_eq!(said("").unwrap_err(), "w1 is missing");
    }
}
