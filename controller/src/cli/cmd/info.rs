//! `maand info`.

use serde_json::json;

use crate::catalog::read;
use crate::cli::Context;
use crate::cli::table::Table;
use crate::failure::Failure;

/// Show the bucket's id, its update sequence and how much is in it
#[derive(Debug, clap::Args)]
#[command(after_long_help = "The bucket id is part of every path on a worker: /opt/worker/<bucket_id>/.\nThe update \
    sequence moves once per deploy; compare it with worker.json on\na worker.")]
pub struct Args {}

/// Runs it.
pub fn run(_: Args, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let snapshot = catalog.read(|tx| read::snapshot(tx))?;
    let live = snapshot.allocations.iter().filter(|a| !a.removed).count();
    if context.ui.wants_json() {
        context.ui.out_json(&json!({
            "bucket_id": snapshot.bucket_id,
            "epoch": snapshot.epoch,
            "update_seq": snapshot.update_seq,
            "workers": snapshot.workers.len(),
            "jobs": snapshot.jobs.len(),
            "allocations": live,
            "built_at_ms": snapshot.built_at_ms,
        }));
        return Ok(());
    }
    let built = match snapshot.built_at_ms {
        Some(at) => crate::cli::table::time(at),
        None => "never (run maand build)".to_owned(),
    };
    let mut table = Table::new(&["Description", "Value"]);
    table.row(vec!["Bucket ID".into(), snapshot.bucket_id.to_string().into()]);
    table.row(vec!["Update Sequence".into(), snapshot.update_seq.into()]);
    table.row(vec!["Number of Workers".into(), snapshot.workers.len().into()]);
    table.row(vec!["Number of Jobs".into(), snapshot.jobs.len().into()]);
    table.row(vec!["Number of Allocations".into(), live.into()]);
    table.row(vec!["Last Build".into(), built.into()]);
    table.print(&context.ui);
    Ok(())
}
