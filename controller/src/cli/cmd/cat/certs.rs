//! `maand cat certs`.

use serde_json::Value;

use crate::catalog::{certificates, read};
use crate::cli::Context;
use crate::cli::filter::Filter;
use crate::cli::table::{Table, time};
use crate::clock;
use crate::config::Settings;
use crate::failure::Failure;
use crate::model::cert::status;
use crate::tls::ca::{self, Kind};

/// List the certificates of jobs, and the authority that signs them
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "status:\n  ok        good\n  expiring  within certs_renewal_buffer of its end: the next build renews it\n  \
    expired   it has ended\n\nA renewed certificate is changed content: maand build renews, maand deploy rolls\nit out. The \
    authority (scope ca) is not renewed by itself; see\ndocs/reference/certs.md."
)]
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
    let settings = Settings::load(&context.bucket)?;
    let mut catalog = context.catalog()?;
    let (snapshot, all) = catalog.read(|tx| Ok((read::snapshot(tx)?, certificates::all(tx)?)))?;
    let filter = Filter::new(&snapshot, &args.jobs, &args.workers)?;
    let now_ms = clock::now_ms();
    let buffer = settings.certs_renewal_days;
    let mut table = Table::new(&["scope", "job", "worker", "cert", "common_name", "not_after", "days_left", "status"]);
    let (_, ca_end_ms) = ca::certificate(Kind::Jobs, &context.bucket)?;
    let days = |end_ms: i64| Value::from((end_ms - now_ms) / 86_400_000);
    table.row(vec![
        "ca".into(),
        Value::Null,
        Value::Null,
        "ca".into(),
        Kind::Jobs.common_name(snapshot.bucket_id).into(),
        time(ca_end_ms).into(),
        days(ca_end_ms),
        status(ca_end_ms, now_ms, buffer).into(),
    ]);
    for issued in all.into_values().flat_map(|of_job| of_job.into_values()) {
        if filter.job(&issued.job) && filter.worker(&issued.host) {
            table.row(vec![
                "job".into(),
                issued.job.as_str().into(),
                issued.host.as_str().into(),
                issued.name.as_str().into(),
                issued.common_name.as_str().into(),
                time(issued.not_after_ms).into(),
                days(issued.not_after_ms),
                status(issued.not_after_ms, now_ms, buffer).into(),
            ]);
        }
    }
    super::print(&table, context, "there are no certificates", "run maand build")
}
