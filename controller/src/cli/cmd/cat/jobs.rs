//! `maand cat jobs`.

use crate::catalog::read;
use crate::cli::Context;
use crate::cli::filter::Filter;
use crate::cli::table::{Table, number};
use crate::failure::Failure;

/// List the jobs by deployment_seq, the order in which a deploy rolls them
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
    let mut jobs: Vec<_> = snapshot.jobs.iter().filter(|job| filter.job(&job.name)).collect();
    jobs.sort_by(|a, b| (a.spec.deployment_seq, &a.name).cmp(&(b.spec.deployment_seq, &b.name)));
    let mut table = Table::new(&["job", "version", "disabled", "deployment_seq", "cpu", "memory", "selectors"]);
    for job in jobs {
        let mut rows = snapshot.allocations_of(&job.name).filter(|a| !a.removed).peekable();
        let disabled = rows.peek().is_some() && rows.all(|a| a.disabled);
        table.row(vec![
            job.name.as_str().into(),
            job.spec.version.as_deref().unwrap_or("unknown").into(),
            disabled.into(),
            job.spec.deployment_seq.into(),
            format!("{} mhz ({})", number(job.spec.cpu.reserved), job.spec.cpu.source).into(),
            format!("{} mb ({})", number(job.spec.memory.reserved), job.spec.memory.source).into(),
            job.spec.selectors.iter().map(|s| s.as_str()).collect::<Vec<_>>().into(),
        ]);
    }
    super::print(&table, context, "the catalog has no jobs", "add one below workspace/jobs and run maand build")
}
