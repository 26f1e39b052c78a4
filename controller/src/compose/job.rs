//! Edge: the bundles of one job whose inputs changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shared::{Code, Diagnostic, Entry, Host, JobName};

use super::{Composed, Held, Lists, Live, Reads, inputs, unreadable};
use crate::bundle::store::Batch;
use crate::catalog::certificates as rows;
use crate::failure::Failure;
use crate::model::cert::Issued;
use crate::model::kv::{Asked, Namespace, Remembering};
use crate::model::{Allocation, Job, Worker};
use crate::render::{self, Scope, Unrendered};
use crate::renderer::{Compiled, Failed, Renderer};
use crate::tally::Tally;

/// One job whose inputs changed.
pub(super) struct OneJob<'a> {
    pub(super) job: &'a Job,
    pub(super) renderer: &'a mut Renderer,
    pub(super) templates: &'a mut Compiled,
    pub(super) made: &'a inputs::Made,
    /// What it is made of now, of what its templates read at the last build.
    pub(super) before: Option<&'a inputs::MadeOf<'a>>,
    /// Where certificates came or went.
    pub(super) touched: &'a BTreeSet<Host>,
    pub(super) live: &'a Arc<Live>,
    pub(super) workers: &'a BTreeMap<shared::WorkerId, Worker>,
    pub(super) certificates: &'a rows::OfJob,
    pub(super) ca: &'a Entry,
    /// Jobs whose hooks may write values.
    pub(super) writers: &'a BTreeSet<JobName>,
    pub(super) tally: &'a Tally,
    pub(super) composed: &'a mut Composed,
}

impl OneJob<'_> {
    /// Sets the bundles of its `allocations`; what is wrong with the workspace is the inner error.
    pub(super) fn compose(
        &mut self,
        allocations: &mut [Allocation],
        old: Option<&Reads>,
        batch: &mut Batch<'_>,
        lists: &mut Lists<'_>,
    ) -> Result<Result<(), Vec<Diagnostic>>, Failure> {
        let values = Remembering::new(self.live.clone());
        let upstream: BTreeSet<JobName> =
            self.job.spec.hooks.values().filter_map(|hook| hook.demand.as_ref()).map(|d| d.job.clone()).collect();
        let outputs = self.templates.outputs();
        let shipped = inputs::shipped(self.job, self.ca);
        let same_shipped = old.is_some_and(|old| old.has_shipped(&shipped));
        let mut kept = false;
        for allocation in allocations.iter_mut().filter(|a| !a.removed) {
            self.tally.add(1);
            let Some(worker) = self.workers.get(&allocation.worker_id) else { continue };
            let same = match (self.before, allocation.render_inputs) {
                (Some(before), Some(inputs)) => before.rendering(allocation) == inputs,
                (_, None) => self.templates.is_empty(),
                _ => false,
            };
            if same && same_shipped && allocation.bundle.is_some() && !self.touched.contains(&allocation.host) {
                kept = true;
                continue;
            }
            let reused = if same { lists.entries(allocation.bundle, &outputs)? } else { None };
            let rendered = match reused {
                Some(entries) => {
                    kept = true;
                    entries
                }
                None => {
                    let scope = Scope::of(self.made.bucket(), allocation, worker, &upstream);
                    match self.renderer.render(self.templates, &scope, &values) {
                        Ok(rendered) => {
                            self.composed.rendered += rendered.len();
                            for file in &rendered {
                                let stored = match file.private {
                                    true => batch.put_private(self.live.key(), &file.content),
                                    false => batch.put(&file.content),
                                };
                                stored.map_err(Held::from)?;
                            }
                            rendered.iter().map(render::Rendered::entry).collect()
                        }
                        Err(Failed::Renderer(error)) => return Err(Held::from(error).into()),
                        Err(Failed::Workspace(failed)) if may_come(&failed, self.writers) => {
                            self.undecided(allocations, values.asked(), &failed).map_err(unreadable)?;
                            return Ok(Ok(()));
                        }
                        // The same mistake on a thousand workers is one mistake.
                        Err(Failed::Workspace(failed)) => return Ok(Err(failed.problems)),
                    }
                }
            };
            match render::bundle(self.job, rendered, self.certificates_of(allocation)) {
                Ok(bundle) => allocation.bundle = Some(lists.put(bundle)?),
                Err(error) => {
                    let problem = Diagnostic::new(Code::PathConflict, error.to_string());
                    return Ok(Err(vec![problem.at(format!("workspace/jobs/{}", self.job.name))]));
                }
            }
        }
        let mut reads = Reads::new(values.asked(), !self.templates.volatile().is_empty(), &shipped);
        if kept && let Some(old) = old {
            reads.add(old);
        }
        self.composed.older_key |= self.templates.used_older_key();
        for path in self.templates.volatile() {
            self.composed.notes.push(format!(
                "workspace/jobs/{}/{path} uses current_version: its content changes once more after every promotion, \
                 and the job is rolled again",
                self.job.name
            ));
        }
        let made = self.made.of(self.job, self.certificates, &reads).map_err(unreadable)?;
        for allocation in allocations.iter_mut().filter(|a| !a.removed) {
            allocation.render_inputs = (!self.templates.is_empty()).then(|| made.rendering(allocation));
        }
        let inputs = made.all(allocations);
        self.composed.jobs.insert(self.job.name.clone(), (inputs, reads));
        Ok(Ok(()))
    }

    /// Its templates read what hooks have not written yet: what they come to is known when the job deploys.
    fn undecided(
        &mut self,
        allocations: &mut [Allocation],
        asked: BTreeMap<Namespace, Asked>,
        failed: &Unrendered,
    ) -> Result<(), String> {
        for allocation in allocations.iter_mut().filter(|a| !a.removed) {
            (allocation.bundle, allocation.render_inputs) = (None, None);
        }
        let reads = Reads::new(asked, !self.templates.volatile().is_empty(), &inputs::shipped(self.job, self.ca));
        let inputs = self.made.of(self.job, self.certificates, &reads)?.all(allocations);
        self.composed.jobs.insert(self.job.name.clone(), (inputs, reads));
        if let Some(problem) = failed.problems.first() {
            let at = problem.at.as_deref().unwrap_or_default();
            let name = &self.job.name;
            self.composed.notes.push(format!(
                "job {name}: {at}: {}; a hook is to write it, and the job's files are known when it deploys",
                problem.message
            ));
        }
        Ok(())
    }

    fn certificates_of(&self, allocation: &Allocation) -> Vec<Entry> {
        certificate_entries(self.job, self.certificates, self.ca, &allocation.host)
    }
}

/// Whether nothing is wrong but values that hooks may still write.
fn may_come(failed: &Unrendered, writers: &BTreeSet<JobName>) -> bool {
    let written = |namespace: &Namespace| match namespace {
        Namespace::JobVars(job) | Namespace::JobSecrets(job) => writers.contains(job),
        _ => false,
    };
    failed.missing.as_ref().is_some_and(|missing| missing.iter().all(written))
}

/// The certificates of one allocation, as files of its bundle.
pub(super) fn certificate_entries(job: &Job, certificates: &rows::OfJob, ca: &Entry, host: &Host) -> Vec<Entry> {
    let entry = |path: String, mode: u32, (blob, len): (shared::BlobDigest, u64), private: bool| {
        path.parse().ok().map(|path| Entry { path, mode, len, blob, private })
    };
    let mut entries = vec![ca.clone()];
    for name in job.spec.certs.keys() {
        let issued: Option<&Issued> = certificates.get(&(name.clone(), host.clone()));
        if let Some(issued) = issued {
            entries.extend(entry(format!("certs/{name}.crt"), 0o644, issued.crt, false));
            entries.extend(entry(format!("certs/{name}.key"), 0o600, issued.key, true));
        }
    }
    entries
}
