//! Hooks of a command that asks agents for something: they run beside it, and what they ask of workers goes
//! through the same agents.

use std::sync::Arc;

use super::Session;
use crate::cli::cmd::hooks::shown;
use crate::clock;
use crate::drive::workers::ByAgents;
use crate::failure::Failure;
use crate::hooks::overlay::{Overlay, commit};
use crate::hooks::report::Report;
use crate::hooks::sink::Logged;
use crate::hooks::{Call, Runner, Setup};
use crate::telemetry::BucketLog;

impl Session<'_> {
    /// Runs the hooks of a call, with `shows` printing what they print; what those wrote that succeeded is
    /// kept.
    pub fn hooks(&mut self, call: &Call<'_>, shows: bool) -> Result<Report, Failure> {
        self.begin()?;
        let bucket = &self.context.bucket;
        let runner = match &mut self.hooks {
            Some(runner) => runner,
            empty => {
                let show = shows.then(|| shown(&self.context.ui));
                let log = BucketLog::new(bucket, self.settings.logs);
                let runner = Runner::start(Setup {
                    bucket: bucket.clone(),
                    database: bucket.database(),
                    run: self.run,
                    sink: Arc::new(Logged { log, maand: self.name, run: self.run, show }),
                    workers: Arc::new(ByAgents::new(bucket, bucket.database(), self.settings.pickup_timeout_s)),
                })?;
                runner.cancel_on_signals();
                empty.insert(runner)
            }
        };
        let step = Overlay::new();
        let report = runner.run(&self.snapshot, call, &step)?;
        let writes = step.drain();
        if !writes.is_empty() {
            self.catalog.write(|tx| commit(tx, &writes, clock::now_ms()))?;
        }
        Ok(report)
    }
}
