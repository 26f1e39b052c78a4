//! What a worker needs before anything is released to it (`spec/decisions.md`): make, and a shell for it.

use std::collections::BTreeMap;

use shared::api::v1::facts::WorkerFacts;
use shared::{ActionKind, WorkerId};

use super::Move;

/// What make targets need.
pub const TOOLS: [&str; 2] = ["make", "sh"];

/// Which of [`TOOLS`] a worker has not, by what its agent said last. Only workers whose agent is there.
pub type Lacking = BTreeMap<WorkerId, Vec<&'static str>>;

/// What is missing where, by what agents measured.
pub fn lacking<'a>(facts: impl IntoIterator<Item = (WorkerId, &'a WorkerFacts)>) -> Lacking {
    let missing = |facts: &WorkerFacts| -> Vec<&'static str> {
        TOOLS.into_iter().filter(|tool| !facts.tools.iter().any(|has| has == tool)).collect()
    };
    facts.into_iter().map(|(worker, facts)| (worker, missing(facts))).filter(|(_, lacks)| !lacks.is_empty()).collect()
}

/// Why these are not begun: the targets of all of them could not be run.
pub fn refused(moves: &[Move], lacking: &Lacking) -> Option<String> {
    let run = moves.iter().filter(|step| step.kind != ActionKind::Sync);
    let hosts: Vec<String> = run
        .filter_map(|step| Some(format!("{} has no {}", step.host, lacking.get(&step.worker_id)?.join(" and no "))))
        .collect();
    (!hosts.is_empty()).then(|| format!("make targets cannot run: {}", hosts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::{AllocId, BundleDigest};
    use uuid::Uuid;

    #[test]
    fn only_what_runs_a_target_is_refused() {
        let step = |n: u128, kind| Move {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(n)),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(n)),
            host: format!("w{n}").parse().unwrap(),
            kind,
            from: None,
            to: BundleDigest::from_bytes([1; 32]),
            current_version: "0.0.0".into(),
            new_version: "1.0.0".into(),
            matched: Vec::new(),
        };
        let worker = |n| WorkerId::from_uuid(Uuid::from_u128(n));
        let has =
            |tools: &[&str]| WorkerFacts { tools: tools.iter().map(|&t| t.to_owned()).collect(), ..Default::default() };
        let facts = [(worker(1), has(&["make", "sh"])), (worker(2), has(&["sh"])), (worker(3), has(&[]))];
        let lacking = lacking(facts.iter().map(|(worker, facts)| (*worker, facts)));
        let moves = [step(1, ActionKind::Start), step(2, ActionKind::Start), step(3, ActionKind::Restart)];
        let why = refused(&moves, &lacking).unwrap();
        assert_eq!(why, "make targets cannot run: w2 has no make, w3 has no make and no sh");
        assert_eq!(refused(&moves[..1], &lacking), None);
        assert_eq!(refused(&[step(2, ActionKind::Sync)], &lacking), None);
        assert_eq!(refused(&moves, &Lacking::new()), None);
    }
}
