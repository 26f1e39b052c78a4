//! Edge: the only reader of time and randomness.
#![expect(clippy::disallowed_methods, reason = "edge: time and randomness")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::reconcile::grant::Moment;

/// Milliseconds since 1970 UTC.
pub fn now_ms() -> i64 {
    ms_of(SystemTime::now())
}

/// The same of a file's time.
pub fn ms_of(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A moment of the monotonic clock.
pub fn instant() -> Instant {
    Instant::now()
}

/// By the steady clock, sleep included, and by the other one.
pub fn moment() -> Moment {
    let steady = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (s, ns) = (u64::try_from(steady.tv_sec).unwrap_or(0), u64::try_from(steady.tv_nsec).unwrap_or(0));
    Moment { steady_ms: s * 1000 + ns / 1_000_000, wall_ms: now_ms() }
}

/// Anywhere in [0, 1), for jitter.
pub fn random() -> f64 {
    let mut bytes = [0u8; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}

/// An id that was never given before.
pub fn random_uuid() -> uuid::Uuid {
    let mut bytes = [0u8; 16];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        // No two moments are the same; nobody guesses at these ids for gain.
        bytes = (u128::from(moment().steady_ms) << 64 | u128::from(now_ms().unsigned_abs())).to_be_bytes();
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
