//! How often a worker may ask: a bucket of tokens for each, the clock an argument.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::WorkerId;

/// Requests at once.
const BURST: u32 = 200;
/// One more request each.
const INTERVAL: Duration = Duration::from_millis(20);

/// The rates of all workers.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<WorkerId, Instant>>);

impl Rates {
    /// Whether `worker` may ask now.
    pub(crate) fn allow(&self, worker: WorkerId, now: Instant) -> bool {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The moment at which the bucket would be full again (GCRA).
        let full = rates.entry(worker).or_insert(now);
        let next = (*full).max(now) + INTERVAL;
        let allowed = next.duration_since(now) <= INTERVAL * BURST;
        if allowed {
            *full = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_burst_passes_a_flood_does_not_and_others_do_not_suffer() {
        let rates = Rates::default();
        let worker = |n| WorkerId::from_uuid(uuid::Uuid::from_u128(n));
        let begin = Instant::now();
        let passed = (0..1000).filter(|_| rates.allow(worker(1), begin)).count();
        assert_eq!(passed, BURST as usize);
        assert!(rates.allow(worker(2), begin));
        assert!(rates.allow(worker(1), begin + INTERVAL * 2));
    }
}
