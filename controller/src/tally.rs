//! How far a long piece of work is: whoever does it counts, whoever shows it looks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counted by one, looked at by another. A copy is the same one.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    what: Mutex<&'static str>,
    done: AtomicU64,
    total: AtomicU64,
}

/// What is at work, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// In a few words.
    pub what: &'static str,
    /// Steps that are done.
    pub done: u64,
    /// Of how many; 0 when nobody knows.
    pub total: u64,
}

impl Tally {
    /// A stage begins, of `total` steps; 0 when nobody knows.
    pub fn begin(&self, what: &'static str, total: usize) {
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(total as u64, Ordering::Relaxed);
        self.name(what);
    }

    /// The stage goes on with something else.
    pub fn name(&self, what: &'static str) {
        *self.0.what.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// Steps are done.
    pub fn add(&self, steps: usize) {
        self.0.done.fetch_add(steps as u64, Ordering::Relaxed);
    }

    /// So many steps are done.
    pub fn at(&self, steps: usize) {
        self.0.done.store(steps as u64, Ordering::Relaxed);
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        let what = *self.0.what.lock().unwrap_or_else(PoisonError::into_inner);
        Stage { what, done: self.0.done.load(Ordering::Relaxed), total: self.0.total.load(Ordering::Relaxed) }
    }
}

/// Whether progress is shown at all: to somebody at a terminal that can draw, who wants no JSON.
pub fn is_wanted(terminal: bool, json: bool, term: Option<&str>) -> bool {
    terminal && !json && !matches!(term, Some("dumb"))
}

/// How a stage is drawn, as indicatif's template.
pub fn template(stage: Stage) -> &'static str {
    match stage {
        Stage { total: 0, done: 0, .. } => "{spinner} {msg}",
        Stage { total: 0, .. } => "{spinner} {msg}: {pos}",
        _ => "{msg} [{wide_bar}] {pos}/{len}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_for_terminals_that_can_draw_and_no_json() {
        for (terminal, json, term, wanted) in [
            (true, false, Some("xterm"), true),
            (true, false, None, true),
            (true, false, Some("dumb"), false),
            (true, true, Some("xterm"), false),
            (false, false, Some("xterm"), false),
        ] {
            assert_eq!(is_wanted(terminal, json, term), wanted, "{terminal} {json} {term:?}");
        }
    }

    #[test]
    fn a_bar_is_drawn_of_what_has_an_end() {
        let tally = Tally::default();
        tally.begin("reading", 0);
        assert_eq!(template(tally.stage()), "{spinner} {msg}");
        tally.add(3);
        assert_eq!(template(tally.stage()), "{spinner} {msg}: {pos}");
        tally.begin("rendering", 40);
        tally.add(2);
        assert_eq!(tally.stage(), Stage { what: "rendering", done: 2, total: 40 });
        assert!(template(tally.stage()).contains("{wide_bar}"));
    }
}
