//! What hooks would change of a plan: a dry run runs them over key-values that nobody keeps, in the order in
//! which a deploy would, and plans with what they wrote.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use shared::{Diagnostic, JobName, RunId};

use super::plan_of;
use crate::catalog::{Catalog, bundles};
use crate::cli::Context;
use crate::cli::cmd::hooks::shown;
use crate::clock;
use crate::config::Settings;
use crate::drive::hands::Hands;
use crate::drive::survey::Survey;
use crate::failure::Failure;
use crate::hooks::api::NoWorkers;
use crate::hooks::overlay::Overlay;
use crate::hooks::sink::Logged;
use crate::plan::{Options, Plan};
use crate::rollout::event::{Call, Event, Stage};
use crate::telemetry::BucketLog;

/// A plan that hooks had their part in.
#[derive(Debug)]
pub struct Preview {
    /// The plan.
    pub plan: Plan,
    /// Jobs whose hooks or templates failed.
    pub failed: BTreeSet<JobName>,
    /// What they said.
    pub problems: Vec<Diagnostic>,
}

impl Preview {
    /// Without hooks.
    pub fn of(plan: Plan) -> Self {
        Self { plan, failed: BTreeSet::new(), problems: Vec::new() }
    }
}

/// The plan with what hooks would write, and what went wrong with them.
pub fn with_hooks(
    context: &Context,
    catalog: &mut Catalog,
    database: &Path,
    (survey, plan, options): (&mut Survey, Plan, &Options),
    verbose: bool,
) -> Result<Preview, Failure> {
    let deciding: Vec<_> = plan.jobs.iter().filter(|job| job.decides && job.refused.is_none()).cloned().collect();
    if deciding.is_empty() {
        return Ok(Preview::of(plan));
    }
    let settings = Settings::load(&context.bucket)?;
    let run = RunId::from_uuid(clock::run_uuid());
    let show = verbose.then(|| shown(&context.ui));
    let log = BucketLog::new(&context.bucket, settings.logs);
    let sink = Arc::new(Logged { log, maand: "deploy", run, show });
    // A dry run changes nothing: its hooks reach no worker.
    let hands = Hands::new(&context.bucket, database.to_owned(), run, sink, Arc::new(NoWorkers));
    hands.check(&survey.snapshot, &plan)?;
    let mut problems = Vec::new();
    let mut failed = BTreeSet::new();
    let wrote = Overlay::new();
    for job in &deciding {
        if job.prepares() {
            context.ui.say(format_args!("{} | pre_deploy hooks, over key-values that are thrown away", job.job));
            let call = Call { job: job.job.clone(), stage: Stage::PreDeploy, targets: None, batch: None };
            let ended = hands.preview(&survey.snapshot, job, &call, &wrote);
            if matches!(&ended.event, Event::Hooked { failures, .. } if !failures.is_empty()) {
                problems.extend(ended.problems);
                failed.insert(job.job.clone());
                continue;
            }
        }
        match hands.again(catalog, &survey.snapshot, &job.job, wrote.clone(), false) {
            Ok(made) => {
                for allocation in survey.snapshot.allocations.iter_mut().filter(|a| a.job == job.job) {
                    let Some(bundle) = made.get(&allocation.alloc_id) else { continue };
                    allocation.bundle = Some(bundle.digest());
                    let promoted = allocation.promoted.as_ref().map(|promoted| promoted.bundle);
                    let before = promoted.map(|digest| catalog.read(|tx| bundles::get(tx, &digest))).transpose()?;
                    if let Some(before) = before.flatten() {
                        survey.changed.insert(allocation.alloc_id, before.changed_paths(bundle));
                    }
                }
            }
            Err(found) => {
                problems.extend(found);
                failed.insert(job.job.clone());
            }
        }
    }
    let mut plan = plan_of(survey, options)?;
    for job in plan.jobs.iter_mut().filter(|job| failed.contains(&job.job)) {
        job.refused = Some("its hooks or templates failed, see below".to_owned());
    }
    Ok(Preview { plan, failed, problems })
}
