//! `maand agent hold` and `maand agent unhold`.

use serde_json::json;
use shared::api::v1::desired::Hold as Held;
use shared::text::clean;
use shared::{Code, Diagnostic};

use super::{end::log, worker};
use crate::catalog::{holds, read};
use crate::cli::Context;
use crate::cli::table::time;
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::serve::notify::wake;

/// Longest hold, seconds: 30 days.
const LONGEST_S: u64 = 30 * 86_400;
/// Longest reason, bytes.
const LONGEST_REASON: usize = 500;

/// Change nothing on a worker for a while
///
/// Until the hold ends nothing that is not begun yet is begun there: no files, no make target, no script, no removal
/// by gc, no edited file put back. What runs goes on running and is checked; what had been begun is finished; and
/// after a boot the agent still starts what should run, which changes nothing. A deploy goes on without the
/// worker, says so, and counts it against no budget. The hold ends by itself.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand agent hold 10.0.0.1 --for 2h --reason 'disk is being replaced'\n  maand agent \
    hold 10.0.0.1 --until 2026-12-01T06:00:00Z --reason 'audit'\n  maand agent unhold 10.0.0.1\n\nA second hold takes the place of \
    the first. What a deploy left out is brought by maand drive, or the next maand deploy."
)]
pub struct Hold {
    /// The worker's name
    host: String,
    /// How long: 30s, 15m, 2h, 3d
    #[arg(long = "for", value_name = "TIME", conflicts_with = "until", required_unless_present = "until", value_parser = seconds)]
    length: Option<u64>,
    /// Until when, RFC 3339: 2026-12-01T06:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    until: Option<i64>,
    /// Why, for everybody who meets it
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// End a hold before its time
#[derive(Debug, clap::Args)]
pub struct Unhold {
    /// The worker's name
    host: String,
}

/// `2h` in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let each = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("a number and a unit are expected: 30s, 15m, 2h, 3d".to_owned()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(each));
    match seconds.filter(|seconds| (1..=LONGEST_S).contains(seconds)) {
        Some(seconds) => Ok(seconds),
        None => Err("from one second to 30 days".to_owned()),
    }
}

/// An RFC 3339 moment, milliseconds since 1970 UTC.
fn moment(text: &str) -> Result<i64, String> {
    let at: jiff::Timestamp = text.parse().map_err(|_| "expected a moment such as 2026-12-01T06:00:00Z".to_owned())?;
    Ok(at.as_millisecond())
}

/// Holds.
pub fn hold(args: &Hold, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let snapshot = catalog.read(|tx| read::snapshot(tx))?;
    let worker = worker(&snapshot, &args.host)?;
    let now_ms = clock::now_ms();
    let usage = |message: String| Err(Failure::new(Exit::Usage, Diagnostic::new(Code::Usage, message)));
    let longest_ms = i64::try_from(LONGEST_S * 1000).unwrap_or(i64::MAX);
    let until_ms = match (args.length, args.until) {
        (Some(seconds), _) => now_ms + i64::try_from(seconds * 1000).unwrap_or(longest_ms),
        (None, Some(until)) => until,
        (None, None) => return usage("--for or --until says how long".to_owned()),
    };
    if until_ms <= now_ms || until_ms - now_ms > longest_ms {
        return usage(format!("{} is not within the next 30 days", time(until_ms)));
    }
    let reason = clean(args.reason.trim());
    if reason.is_empty() || reason.len() > LONGEST_REASON {
        return usage(format!("--reason: some words, at most {LONGEST_REASON} bytes, for whoever asks why"));
    }
    let hold = Held { until_ms, reason };
    catalog.write(|tx| holds::set(tx, worker.worker_id, &hold, now_ms))?;
    wake(&context.bucket);
    log(context, "agent_held", &format!("{}: until {}: {}", worker.host, time(until_ms), hold.reason));
    if context.ui.wants_json() {
        context.ui.out_json(
            &json!({ "host": worker.host, "until": time(until_ms), "until_ms": until_ms, "reason": hold.reason }),
        );
    } else {
        context.ui.out(format_args!("{}: held until {}", worker.host, time(until_ms)));
        context.ui.say(format_args!("nothing is begun there before; maand agent unhold {} ends it", worker.host));
    }
    Ok(())
}

/// Ends a hold.
pub fn unhold(args: &Unhold, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let snapshot = catalog.read(|tx| read::snapshot(tx))?;
    let worker = worker(&snapshot, &args.host)?;
    let now_ms = clock::now_ms();
    let ended = catalog.write(|tx| holds::clear(tx, worker.worker_id, now_ms))?;
    wake(&context.bucket);
    if ended {
        log(context, "agent_unheld", worker.host.as_str());
    }
    if context.ui.wants_json() {
        context.ui.out_json(&json!({ "host": worker.host, "was_held": ended }));
    } else if ended {
        context.ui.out(format_args!("{}: held no more; maand deploy brings what was left out", worker.host));
    } else {
        context.ui.out(format_args!("{}: it was not held", worker.host));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_is_a_number_and_a_unit() {
        let known = [("30s", 30), ("15m", 900), ("2h", 7_200), ("30d", LONGEST_S)];
        known.iter().for_each(|(text, expected)| assert_eq!(seconds(text), Ok(*expected), "{text}"));
        for bad in ["", "h", "2", "0s", "31d", "2 h", "-1h", "1.5h", "99999999999999999999d", "2hours"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(1_000));
        assert!(moment("tomorrow").is_err());
    }
}
