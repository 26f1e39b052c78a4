//! `maand cat hooks`.

use serde_json::Value;

use crate::catalog::read;
use crate::cli::Context;
use crate::cli::filter::Filter;
use crate::cli::table::Table;
use crate::failure::Failure;

/// List the jobs' hooks: when each runs, and what it demands of another job
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these jobs
    #[arg(long, value_delimiter = ',', value_name = "JOB,…")]
    jobs: Vec<String>,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let snapshot = context.catalog()?.read(|tx| read::snapshot(tx))?;
    let filter = Filter::new(&snapshot, &args.jobs, &[])?;
    let mut table =
        Table::new(&["job", "hook_name", "executed_on", "demand_job", "demand_hook", "demand_config", "timeout_s"]);
    for job in snapshot.jobs.iter().filter(|job| filter.job(&job.name)) {
        for (name, hook) in &job.spec.hooks {
            let demand = hook.demand.as_ref();
            table.row(vec![
                job.name.as_str().into(),
                name.as_str().into(),
                hook.executed_on.iter().map(|event| event.word()).collect::<Vec<_>>().into(),
                demand.map_or(Value::Null, |demand| demand.job.as_str().into()),
                demand.map_or(Value::Null, |demand| demand.hook.as_str().into()),
                demand.map_or(Value::Null, |demand| Value::Object(demand.config.clone())),
                hook.timeout_s.into(),
            ]);
        }
    }
    super::print(
        &table,
        context,
        "there are no hooks",
        "declare one below \"hooks\" in a manifest.json, then run maand build",
    )
}
