//! How often a worker may ask, and an address that shows no certificate, and how much output a worker may send: a
//! bucket of tokens for each, the clock an argument.

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

/// Bytes of output at once: what many jobs say when they all start.
const OUTPUT_BURST: u64 = 64 << 20;
/// Bytes of output a second.
const OUTPUT_PER_SECOND: u64 = 2 << 20;

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
        self.take(who, now, INTERVAL, INTERVAL * BURST)
    }

    /// Whether `who` may send `bytes` of output now. What is refused is sent again later.
    pub(crate) fn allow_output(&self, who: K, bytes: usize, now: Instant) -> bool {
        let time = |bytes: u64| Duration::from_micros(bytes.saturating_mul(1_000_000) / OUTPUT_PER_SECOND);
        self.take(who, now, time(bytes as u64), time(OUTPUT_BURST))
    }

    /// Takes `cost` of a bucket that holds `burst` and fills with time (GCRA).
    fn take(&self, who: K, now: Instant, cost: Duration, burst: Duration) -> bool {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.len() >= REMEMBERED {
            rates.retain(|_, full| *full > now);
        }
        // The moment at which the bucket would be full again.
        let full = rates.entry(who).or_insert(now);
        let next = (*full).max(now) + cost;
        let allowed = next.duration_since(now) <= burst;
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

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn output_is_measured_in_bytes() {
        let rates = Rates::default();
        let begin = Instant::now();
        let batch = 256 << 10;
        let passed = (0..1000).filter(|_| rates.allow_output(1, batch, begin)).count();
        assert_eq!(passed as u64 * batch as u64, OUTPUT_BURST);
        assert!(rates.allow_output(2, batch, begin));
        assert!(rates.allow_output(1, batch, begin + Duration::from_secs(1)));
    }
}
