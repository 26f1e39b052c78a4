//! `maand-agent status`.

use std::io::Write;
use std::path::Path;

use serde_json::json;
use shared::{Code, Diagnostic};

use crate::clock;
use crate::config::Config;
use crate::identity::Identity;
use crate::reconcile::{Place, Row};
use crate::renew::Refused;
use crate::state::layout::Layout;
use crate::state::ledger::{self, Ledger};

/// `maand-agent status`: what is in the ledger, for people or as JSON.
pub(super) fn status(path: &Path, as_json: bool) -> Result<(), Diagnostic> {
    let config = Config::load(path)?;
    let layout = Layout::new(&config.root, config.bucket_id);
    let ledger = Ledger::view(&layout)?;
    let failed = |error: ledger::Error| Diagnostic::new(Code::AgentState, "the ledger cannot be read").cause(&error);
    let fence = ledger.accepted().map_err(failed)?.map(|(accepted, _)| accepted.fence);
    let rows = ledger.rows().map_err(failed)?;
    let place = |row: &Row| match row.place {
        Place::Empty => "no files".to_owned(),
        Place::Whole(bundle) => bundle.short(),
        Place::Applying { to } => format!("applying {}", to.short()),
    };
    let mut out = std::io::stdout();
    let identity = Identity::new(&config.state, config.bucket_id);
    let left_ms = identity.load().ok().and_then(|held| Some(held.newest()?.life.not_after_ms - clock::now_ms()));
    let refused = Refused::load(&identity);
    if as_json {
        let allocations: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({ "job": row.job, "files": place(row), "process": row.process, "action": row.action,
                    "drift": row.drift, "unmanaged": row.unmanaged })
            })
            .collect();
        let status = json!({ "controller": config.controller, "bucket_id": config.bucket_id,
            "worker_id": config.worker_id, "accepted": fence, "certificate_ends_in_s": left_ms.map(|ms| ms / 1000),
            "refused": refused.as_ref().map(|r| json!({ "error": r.error, "message": r.message,
                "since_ms": r.since_ms, "do": r.remedy() })), "allocations": allocations });
        drop(writeln!(out, "{status:#}"));
        return Ok(());
    }
    drop(writeln!(out, "controller  {}", config.controller));
    drop(writeln!(out, "bucket      {}", config.bucket_id));
    drop(writeln!(out, "worker      {}", config.worker_id));
    drop(writeln!(out, "accepted    {}", fence.map_or_else(|| "nothing yet".to_owned(), |fence| fence.to_string())));
    drop(writeln!(out, "certificate {}", left_ms.map_or_else(|| "cannot be read".to_owned(), ends)));
    if let Some(refused) = &refused {
        drop(writeln!(out, "refused     {} ({}), {}", refused.message, refused.error, ago(refused.since_ms)));
        drop(writeln!(out, "do          {}", refused.remedy()));
    }
    for row in &rows {
        let process = serde_json::to_value(row.process).ok().and_then(|v| v.as_str().map(str::to_owned));
        drop(writeln!(out, "{:<11} {:<14} {}", row.job, place(row), process.unwrap_or_default()));
    }
    Ok(())
}

/// A span for people.
fn span(ms: i64) -> String {
    let s = ms.unsigned_abs() / 1000;
    match s {
        0..120 => format!("{s} s"),
        120..7200 => format!("{} min", s / 60),
        7200..172_800 => format!("{} h", s / 3600),
        _ => format!("{} days", s / 86_400),
    }
}

fn ends(left_ms: i64) -> String {
    if left_ms > 0 {
        return format!("ends in {}; the agent renews it by itself", span(left_ms));
    }
    format!("ended {} ago; a running agent gets a new one for its key", span(left_ms))
}

fn ago(since_ms: i64) -> String {
    format!("since {} ago", span(clock::now_ms() - since_ms))
}
