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
    let bucket = catalog.read(|tx| read::summary(tx))?;
    if context.ui.wants_json() {
        context.ui.out_json(&json!({
            "bucket_id": bucket.bucket_id,
            "epoch": bucket.epoch,
            "update_seq": bucket.update_seq,
            "workers": bucket.workers,
            "jobs": bucket.jobs,
            "allocations": bucket.allocations,
            "built_at_ms": bucket.built_at_ms,
        }));
        return Ok(());
    }
    let built = match bucket.built_at_ms {
        Some(at) => crate::cli::table::time(at),
        None => "never (run maand build)".to_owned(),
    };
    let mut table = Table::new(&["Description", "Value"]);
    table.row(vec!["Bucket ID".into(), bucket.bucket_id.to_string().into()]);
    table.row(vec!["Update Sequence".into(), bucket.update_seq.into()]);
    table.row(vec!["Number of Workers".into(), bucket.workers.into()]);
    table.row(vec!["Number of Jobs".into(), bucket.jobs.into()]);
    table.row(vec!["Number of Allocations".into(), bucket.allocations.into()]);
    table.row(vec!["Last Build".into(), built.into()]);
    table.print(&context.ui);
    Ok(())
}
