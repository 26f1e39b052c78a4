//! `maand agent resolve`.

use serde_json::json;
use shared::text::clean;

use crate::catalog::{identities, read, sessions};
use crate::cli::Context;
use crate::failure::Failure;
use crate::serve::notify::wake;

/// End the alarms about a worker's identity
///
/// For an operator who has looked at them (maand why HOST). What they were about is not changed by it: a copy of the
/// identity that is still in use raises its alarm again. A worker that was quarantined gets work again.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "When a certificate was copied, or a machine cloned, and you know which machine is to stay:\n  maand agent \
    revoke HOST          nobody is let in any more; what runs goes on\n  maand agent token HOST           on the machine that stays \
    the line that it prints, with --replace\nThat ends the alarms by itself. When the other machine is gone for good:\n  maand agent \
    resolve HOST"
)]
pub struct Resolve {
    /// The worker's name in workers.json
    host: String,
}

/// Runs it.
pub fn run(args: &Resolve, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let snapshot = catalog.read(|tx| read::snapshot(tx))?;
    let worker = super::worker(&snapshot, &args.host)?;
    let id = worker.worker_id;
    let (alarms, ended) = catalog.write(|tx| {
        let alarms = identities::alarms(tx)?.remove(&id).unwrap_or_default();
        sessions::forget_turns(tx, id)?;
        Ok((alarms, identities::settle(tx, id, None)?))
    })?;
    wake(&context.bucket);
    if ended > 0 {
        super::end::log(context, "alarms_resolved", &args.host);
    }
    let host = &worker.host;
    if context.ui.wants_json() {
        let words: Vec<&str> = alarms.iter().map(|alarm| alarm.kind.word()).collect();
        context.ui.out_json(&json!({ "host": host, "ended": words }));
        return Ok(());
    }
    for alarm in &alarms {
        context.ui.say(format_args!("{host}: {}", clean(&alarm.detail)));
    }
    match ended {
        0 => context.ui.out(format_args!("{host}: there are no alarms")),
        n => context.ui.out(format_args!("{host}: {n} alarms ended")),
    }
    Ok(())
}
