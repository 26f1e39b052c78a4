//! `maand cat ports`.

use crate::catalog::read;
use crate::cli::Context;
use crate::cli::filter::Filter;
use crate::cli::table::Table;
use crate::failure::Failure;

/// List the jobs' ports with their numbers
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
    let mut table = Table::new(&["job", "name", "port"]);
    for job in snapshot.jobs.iter().filter(|job| filter.job(&job.name)) {
        for (name, port) in &job.spec.ports {
            table.row(vec![job.name.as_str().into(), name.as_str().into(), (*port).into()]);
        }
    }
    super::print(
        &table,
        context,
        "there are no ports",
        "name one below \"resources\": {\"ports\": {}} in a manifest.json, then run maand build",
    )
}
