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
