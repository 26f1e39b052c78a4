//! `maand cat allocations`.

use std::collections::HashMap;

use serde_json::Value;

use crate::catalog::read;
use crate::cli::Context;
use crate::cli::filter::Filter;
use crate::cli::table::Table;
use crate::failure::Failure;

/// List which job is on which worker
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these jobs
    #[arg(long, value_delimiter = ',', value_name = "JOB,…")]
    jobs: Vec<String>,
    /// Only these workers
    #[arg(long, value_delimiter = ',', value_name = "HOST,…")]
    workers: Vec<String>,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let snapshot = context.catalog()?.read(|tx| read::snapshot(tx))?;
    let filter = Filter::new(&snapshot, &args.jobs, &args.workers)?;
    let zones: HashMap<_, _> =
        snapshot.workers.iter().filter_map(|worker| Some((&worker.host, worker.tags.get("zone")?))).collect();
    let mut table = Table::new(&["allocation_id", "worker_ip", "zone", "job", "disabled", "removed"]);
    for allocation in snapshot.allocations.iter().filter(|a| filter.job(&a.job) && filter.worker(&a.host)) {
        let zone = zones.get(&allocation.host);
        table.row(vec![
            allocation.alloc_id.to_string().into(),
            allocation.host.as_str().into(),
            zone.map_or(Value::Null, |zone| zone.as_str().into()),
            allocation.job.as_str().into(),
            allocation.disabled.into(),
            allocation.removed.into(),
        ]);
    }
    super::print(
        &table,
        context,
        "there are no allocations",
        "compare the jobs' selectors with the workers' labels (maand cat jobs, maand cat workers), then run maand build",
    )
}
