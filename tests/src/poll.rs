//! The one way to wait: on a condition, with a deadline, saying what was seen last.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Longest wait of a test: generous, because two cores may be shared; a test that passes never waits it.
pub const LONG: Duration = Duration::from_secs(60);

/// Asks until `check` gives a value. Panics after `limit` with `what` and what `check` said last.
pub fn until<T, E: Debug>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + limit;
    loop {
        match check() {
            Ok(value) => return value,
            Err(last) if Instant::now() >= end => panic!("waited {limit:?} for {what}; last seen: {last:?}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
