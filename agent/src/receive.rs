//! Edge: takes in an answer that may be long: no more bytes than it may have, no slower than it may come.

use std::io::Write;
use std::time::Duration;

use reqwest::Response;

use crate::client::{Failed, SILENCE};
use crate::clock;

/// How long a download may be slower than [`SLOWEST`].
const GRACE: Duration = Duration::from_secs(60);
/// Bytes a second: a controller that is slower than that, on the whole, is left and asked anew, so that it
/// cannot hold up what else there is to do.
const SLOWEST: u64 = 1 << 10;

/// Writes an answer to `out`, which has its first `have` bytes already. On an error `out` has what came
/// until then.
pub(crate) async fn receive(mut response: Response, have: u64, cap: u64, out: &mut impl Write) -> Result<(), Failed> {
    let began = clock::instant();
    let mut total = have;
    loop {
        let chunk = match tokio::time::timeout(SILENCE, response.chunk()).await {
            Ok(chunk) => chunk.map_err(Failed::Transport)?,
            Err(_) => return Err(Failed::TooSlow(total - have, began.elapsed().as_secs())),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        total += chunk.len() as u64;
        if total > cap {
            return Err(Failed::TooLong(usize::try_from(cap).unwrap_or(usize::MAX)));
        }
        out.write_all(&chunk).map_err(Failed::Store)?;
        if too_slow(total - have, began.elapsed()) {
            return Err(Failed::TooSlow(total - have, began.elapsed().as_secs()));
        }
    }
}

/// Whether `bytes` in `took` are fewer than a download has to bring.
fn too_slow(bytes: u64, took: Duration) -> bool {
    took > GRACE && bytes < took.as_secs() * SLOWEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_line_is_borne_and_a_trickle_is_not() {
        let seconds = Duration::from_secs;
        assert!(!too_slow(0, seconds(60)), "a controller may be busy first");
        assert!(too_slow(61, seconds(61)), "a byte a second");
        assert!(!too_slow(61 << 10, seconds(61)));
        assert!(!too_slow(400 << 20, seconds(24 * 3600)), "half a gigabyte in a day");
    }
}
