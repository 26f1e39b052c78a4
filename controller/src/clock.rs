//! Edge: the only reader of time and randomness.
#![expect(clippy::disallowed_methods, reason = "edge: time and randomness")]

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// Milliseconds since 1970 UTC.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A random id.
pub fn random_uuid() -> Uuid {
    Uuid::new_v4()
}

/// An id that sorts by time: for runs, so that their directories list in order.
pub fn run_uuid() -> Uuid {
    Uuid::now_v7()
}

/// A moment of the monotonic clock, for measuring.
pub fn instant() -> std::time::Instant {
    std::time::Instant::now()
}

/// Time that goes forward at the pace of the machine, whoever sets its clock: what that said when this was made,
/// and what the monotonic clock has counted since. A time that the machine sleeps does not count.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    wall_ms: i64,
    began: std::time::Instant,
}

impl Steady {
    /// From now on.
    pub fn begin() -> Self {
        Self { wall_ms: now_ms(), began: instant() }
    }

    /// Milliseconds since 1970 UTC, by this.
    pub fn now_ms(&self) -> i64 {
        self.wall_ms.saturating_add(i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}

/// A moment, `2026-11-23 22:15:10 UTC`.
pub fn time(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => format!("{ms} ms"),
    }
}
