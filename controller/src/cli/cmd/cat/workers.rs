//! `maand cat workers`.

use serde_json::Value;

use crate::catalog::read;
use crate::cli::Context;
use crate::cli::table::{Table, number};
use crate::failure::Failure;

/// List the workers, in the order in which deploys go through them
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
pub fn run(_: Args, context: &Context) -> Result<(), Failure> {
    let workers = context.catalog()?.read(|tx| read::workers(tx))?;
    let mut table = Table::new(&["worker_ip", "zone", "cpu_mhz", "memory_mb", "position", "labels"]);
    for worker in &workers {
        table.row(vec![
            worker.host.as_str().into(),
            worker.tags.get("zone").map_or(Value::Null, |zone| zone.as_str().into()),
            number(worker.cpu_mhz),
            number(worker.memory_mb),
            worker.position.into(),
            worker.labels.iter().map(|label| label.as_str()).collect::<Vec<_>>().into(),
        ]);
    }
    super::print(
        &table,
        context,
        "the catalog has no workers",
        "list them in workspace/workers.json and run maand build",
    )
}
