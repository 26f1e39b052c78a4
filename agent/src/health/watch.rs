//! Runs the checks that `schedule` asks for, for as long as it is polled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared::AllocId;
use shared::diagnostic::chain;
use tokio::task::JoinSet;

use super::probe::Place;
use super::schedule::{Board, News, Now, Round, Subject};
use crate::clock;
use crate::work::{Workshop, environment};

/// Watches every job that has checks.
pub async fn watch(shop: Arc<Workshop>) {
    let begin = clock::instant();
    let now =
        || Now { mono_ms: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX), wall_ms: clock::now_ms() };
    let mut board = Board::default();
    let mut rounds: JoinSet<Option<String>> = JoinSet::new();
    let mut under_way: HashMap<tokio::task::Id, Round> = HashMap::new();
    let mut stirred = true;
    loop {
        if stirred {
            if let Some(subjects) = subjects(&shop) {
                board.settle(&subjects, now());
            }
            shop.transient.health(board.observed(), News::None);
        }
        for round in board.due(now()) {
            let Some(place) = shop.place_of(round.alloc_id) else { continue };
            let task = rounds.spawn(shop.prober.clone().ask(round.spec.clone(), place));
            under_way.insert(task.id(), round);
        }
        let pause = board.next_due_ms().map(|due| Duration::from_millis(due.saturating_sub(now().mono_ms)));
        tokio::select! {
            () = shop.stirred.notified() => stirred = true,
            Some(ended) = rounds.join_next_with_id() => {
                stirred = false;
                let (task, problem) = match ended {
                    Ok((task, problem)) => (task, problem),
                    Err(error) => (error.id(), Some(format!("the checks cannot be run: {error}"))),
                };
                let Some(round) = under_way.remove(&task) else { continue };
                let news = board.ended(round.alloc_id, round.number, problem, now(), clock::random());
                say(&shop, &board, round.alloc_id, news);
            }
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => stirred = false,
        }
    }
}

/// Who has checks; `None` when the ledger does not say.
fn subjects(shop: &Workshop) -> Option<Vec<Subject>> {
    let desired = shop.desired();
    if desired.allocations.iter().all(|wanted| wanted.health.is_none()) {
        return Some(Vec::new());
    }
    let rows = match shop.ledger.rows() {
        Ok(rows) => rows,
        Err(error) => {
            tracing::error!(error = chain(&error), "ledger_unreadable");
            return None;
        }
    };
    let of = |row: &crate::reconcile::Row| {
        let subject = Subject::of(desired.allocations.iter().find(|wanted| wanted.alloc_id == row.alloc_id)?, row)?;
        // Somebody starts or stops it by hand right now.
        let runs = subject.runs.filter(|_| !shop.is_disturbed(row.alloc_id));
        Some(Subject { runs, ..subject })
    };
    Some(rows.iter().filter_map(of).collect())
}

fn say(shop: &Workshop, board: &Board, alloc: AllocId, news: News) {
    let observed = board.observed();
    if news == News::Now
        && let Some(seen) = observed.get(&alloc)
    {
        let job = shop.desired().allocations.iter().find(|a| a.alloc_id == alloc).map(|a| a.job.to_string());
        let (job, state) = (job.unwrap_or_default(), seen.state.word());
        match &seen.problem {
            Some(problem) => tracing::warn!(job, state, problem, attempt = seen.attempt, "health"),
            None => tracing::info!(job, state, "health"),
        }
    }
    shop.transient.health(observed, news);
}

impl Workshop {
    /// Where the checks of an allocation are asked; `None` for one that is no longer wanted.
    pub fn place_of(&self, alloc: AllocId) -> Option<Place> {
        let desired = self.desired();
        let wanted = desired.allocations.iter().find(|wanted| wanted.alloc_id == alloc)?;
        let (dir, env) = (self.layout.job(&wanted.job), environment(&desired, wanted));
        Some(Place { dir, host: desired.host.clone(), env })
    }
}
