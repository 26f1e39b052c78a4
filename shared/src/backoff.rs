//! How long to wait before the next try: exponential between two bounds, with full jitter above the
//! lower one, so that a thousand agents do not come back in the same second.

use std::time::Duration;

/// A policy; the randomness is an argument of [`Backoff::delay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// Waits between `min` and `max`; a `max` below `min` counts as `min`.
    pub const fn new(min: Duration, max: Duration) -> Self {
        let max = if max.as_nanos() < min.as_nanos() { min } else { max };
        Self { min, max }
    }

    /// The wait before try number `attempt` (the first retry is 0). `random` is anywhere in [0, 1).
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let ceiling = self.min.saturating_mul(1u32.checked_shl(attempt.min(20)).unwrap_or(u32::MAX)).min(self.max);
        let spread = ceiling.saturating_sub(self.min);
        self.min + spread.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_bounds_and_grows() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(15));
        assert_eq!(backoff.delay(0, 0.9), Duration::from_millis(100));
        for attempt in 0..100 {
            for random in [0.0, 0.5, 0.999] {
                let delay = backoff.delay(attempt, random);
                assert!(delay >= Duration::from_millis(100) && delay <= Duration::from_secs(15));
            }
        }
        assert!(backoff.delay(3, 0.999) > backoff.delay(1, 0.999));
        assert!(backoff.delay(40, 0.999) > Duration::from_secs(14));
    }
}
