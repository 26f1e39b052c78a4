//! How often an address's refusals are written to the log: enough to see what goes on, too few to fill
//! it. What is left out is counted. The clock is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines at once.
const BURST: u32 = 20;
/// One more line each.
const INTERVAL: Duration = Duration::from_secs(2);
/// Addresses that are told apart; beyond it the ones that have been silent go.
const ADDRESSES: usize = 10_000;

/// The refusals of all addresses.
#[derive(Debug, Default)]
pub(crate) struct Quiet(Mutex<HashMap<IpAddr, Said>>);

#[derive(Debug, Clone, Copy)]
struct Said {
    /// When it may say [`BURST`] again (GCRA).
    full: Instant,
    left_out: u64,
}

impl Quiet {
    /// Whether a line about `address` may be written now, and how many before it were not.
    pub(crate) fn may_say(&self, address: IpAddr, now: Instant) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= ADDRESSES && !all.contains_key(&address) {
            all.retain(|_, said| said.full > now);
            if all.len() >= ADDRESSES {
                return None;
            }
        }
        let said = all.entry(address).or_insert(Said { full: now, left_out: 0 });
        let next = said.full.max(now) + INTERVAL;
        if next.duration_since(now) > INTERVAL * BURST {
            said.left_out += 1;
            return None;
        }
        said.full = next;
        Some(std::mem::take(&mut said.left_out))
    }
}

/// What a line says of those before it.
pub(crate) fn left_out(count: u64) -> String {
    if count == 0 { String::new() } else { format!(" ({count} more refusals of this address are not logged)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_flood_is_counted_and_others_are_heard() {
        let quiet = Quiet::default();
        let begin = Instant::now();
        let said = (0..1000).filter(|_| quiet.may_say([10, 0, 0, 1].into(), begin).is_some()).count();
        assert_eq!(said, BURST as usize);
        assert_eq!(quiet.may_say([10, 0, 0, 2].into(), begin), Some(0));
        assert_eq!(quiet.may_say([10, 0, 0, 1].into(), begin + INTERVAL), Some(980));
        assert_eq!(left_out(980), " (980 more refusals of this address are not logged)");
        for n in 0..20_000u32 {
            quiet.may_say(std::net::Ipv4Addr::from(n).into(), begin);
        }
        assert!(quiet.0.lock().unwrap().len() <= ADDRESSES);
        assert!(quiet.may_say([99, 0, 0, 1].into(), begin + INTERVAL).is_some(), "silent ones make room");
    }
}
