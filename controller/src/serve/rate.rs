//! How often a worker may ask, and an address that shows no certificate: a bucket of tokens for each, the clock an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests at once.
const BURST: u32 = 200;
/// One more request each.
const INTERVAL: Duration = Duration::from_millis(20);
/// Who is remembered at most; beyond it, who has been quiet is forgotten.
const REMEMBERED: usize = 65_536;

/// The rates of all who ask.
#[derive(Debug)]
pub(crate) struct Rates<K>(Mutex<HashMap<K, Instant>>);

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Rates<K> {
    /// Whether `who` may ask now.
    pub(crate) fn allow(&self, who: K, now: Instant) -> bool {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.len() >= REMEMBERED {
            rates.retain(|_, full| *full > now);
        }
        // The moment at which the bucket would be full again (GCRA).
        let full = rates.entry(who).or_insert(now);
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
        let begin = Instant::now();
        let passed = (0..1000).filter(|_| rates.allow(1, begin)).count();
        assert_eq!(passed, BURST as usize);
        assert!(rates.allow(2, begin));
        assert!(rates.allow(1, begin + INTERVAL * 2));
    }
}
