//! Edge: from what a build decided to bundles: issues certificates, renders templates, stores what
//! they came to. What was made of the same things at the last build is not made again: a job whose
//! inputs are the same keeps its bundles, an allocation whose values are the same keeps what was
//! rendered for it.

pub mod again;
mod certificates;
mod inputs;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shared::diagnostic::chain;
use shared::{BlobDigest, Bundle, BundleDigest, Code, Diagnostic, Entry, Host, JobName};
use thiserror::Error;

use crate::build::Build;
use crate::build::namespaces::Derived;
use crate::bundle::store::{self, Batch, Store};
use crate::catalog::{self, Catalog, bundles, certificates as rows, read};
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::model::cert::Issued;
use crate::model::kv::{Asked, Namespace, Remembering, Source};
use crate::model::{Allocation, FileKind, HookEvent, Job, Worker};
use crate::paths::BucketDir;
use crate::render::template::Source as Text;
use crate::render::{self, Context, Templates, Unrendered};
use crate::secrets::{self, SealingKey};
use crate::tally::Tally;
use crate::tls;
use crate::tls::ca::{Authority, Kind};

pub use certificates::Changes;
pub use inputs::Reads;
pub use values::Live;

/// Longest template, bytes.
const TEMPLATE_CAP: u64 = 4 << 20;
/// Bundles' lists that are written at once.
const LISTS: usize = 512;

/// Why bundles could not be made, apart from what is wrong with the workspace.
#[derive(Debug, Error)]
pub enum Held {
    /// The blob store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The authority.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The sealing key.
    #[error(transparent)]
    Secrets(#[from] secrets::Error),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    /// A thread that issues certificates.
    #[error("a thread that issues certificates ended early")]
    Thread,
}

impl From<Held> for Failure {
    fn from(held: Held) -> Self {
        match held {
            Held::Catalog(error) => error.into(),
            Held::Tls(error) => error.into(),
            Held::Secrets(error) => {
                let problem = Diagnostic::new(Code::Secrets, "the bucket's secrets cannot be used").cause(&error);
                Self::new(Exit::Input, problem.remedy("restore secrets/kv.key from a backup"))
            }
            Held::Store(_) | Held::Thread => {
                let problem = Diagnostic::new(Code::Storage, "the bundles cannot be made").cause(&held);
                Self::new(Exit::Failed, problem)
            }
        }
    }
}

/// A value that cannot be read.
fn unreadable(why: String) -> Failure {
    let problem = Diagnostic::new(Code::Secrets, "a key-value cannot be read").note(why);
    Failure::new(Exit::Input, problem.remedy("restore secrets/kv.key, or write the secret anew with a hook"))
}

/// What composing came to, besides the allocations' bundles.
#[derive(Debug, Default)]
pub struct Composed {
    /// Of every job: digest of its inputs, and what its templates read.
    pub jobs: BTreeMap<JobName, ([u8; 32], Reads)>,
    /// Of every job that has any.
    pub certificates: Vec<Changes>,
    /// Files that were rendered.
    pub rendered: usize,
    /// What deserves a word.
    pub notes: Vec<String>,
    /// A template read `deploy_order`.
    pub older_key: bool,
}

/// What composing needs of the bucket.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The bucket.
    pub bucket: &'a BucketDir,
    /// Its settings.
    pub settings: &'a Settings,
    /// Its blobs.
    pub store: &'a Store,
    /// The certificate of the jobs' authority, PEM, and its end.
    pub ca: (&'a str, i64),
    /// Milliseconds since 1970 UTC.
    pub now_ms: i64,
    /// Counts allocations for who waits.
    pub tally: Tally,
}

/// Sets the bundle of every allocation that is not removed.
pub fn compose(
    bench: &Bench<'_>,
    catalog: &mut Catalog,
    build: &mut Build,
    derived: &Arc<Derived>,
    live: Arc<Live>,
    key: &SealingKey,
) -> Result<Composed, Failure> {
    let (mut known, mut issued) = catalog.read(|tx| Ok((read::job_inputs(tx)?, rows::all(tx)?)))?;
    // It is in every bundle. Without it the store was lost, or is another bucket's: nothing in it counts as
    // made, and what was is made again.
    let lost = !bench.store.contains(&BlobDigest::of(bench.ca.0.as_bytes()));
    if lost {
        known.clear();
    }
    let mut batch = bench.store.batch();
    let ca_entry = Entry {
        path: "certs/ca.crt".parse().map_err(|_| unreadable("certs/ca.crt is no path".to_owned()))?,
        mode: 0o644,
        len: bench.ca.0.len() as u64,
        blob: batch.put(bench.ca.0.as_bytes()).map_err(Held::from)?,
        private: false,
    };
    let load = || Ok(Authority::load(Kind::Jobs, bench.bucket)?);
    let mut issuing = certificates::Issuing {
        authority: &load,
        loaded: None,
        key,
        ca: *ca_entry.blob.as_bytes(),
        ca_not_after_ms: bench.ca.1,
        now_ms: bench.now_ms,
        ttl_days: bench.settings.certs_ttl_days,
        renewal_days: bench.settings.certs_renewal_days,
    };
    let made = inputs::Made::new(build.bucket_id, &build.workers, derived.clone(), live.clone());
    let workers: BTreeMap<_, Worker> = build.workers.iter().map(|w| (w.worker_id, w.clone())).collect();
    let writers = writers(&build.jobs);
    let mut composed = Composed::default();
    let mut problems = Vec::new();
    let mut lists = Lists { catalog, waiting: BTreeMap::new() };
    let mut rest = &mut build.allocations[..];
    bench.tally.begin("rendering", rest.iter().filter(|a| !a.removed).count());
    for job in &build.jobs {
        // Allocations are ordered by job.
        let skipped = rest.partition_point(|a| a.job < job.name);
        let count = rest[skipped..].partition_point(|a| a.job == job.name);
        let (of_job, after) = std::mem::take(&mut rest)[skipped..].split_at_mut(count);
        rest = after;

        let mut there = issued.remove(&job.name).unwrap_or_default();
        let mut pems = values::Pems::new();
        bench.tally.name("certificates");
        let changes =
            certificates::bring(&mut issuing, &mut batch, job, derived.placed(&job.name), &mut there, &mut pems)?;
        bench.tally.name("rendering");
        let touched: BTreeSet<Host> = changes.hosts().cloned().collect();
        if !touched.is_empty() {
            composed.certificates.push(changes);
        }
        let old = known.get(&job.name);
        let before = old.map(|(_, reads)| made.of(job, &there, reads)).transpose().map_err(unreadable)?;
        if let (Some(before), Some((Some(inputs), reads))) = (&before, old)
            && of_job.iter().all(|a| a.removed || a.bundle.is_some())
            && before.all(of_job) == *inputs
        {
            composed.jobs.insert(job.name.clone(), (*inputs, reads.clone()));
            bench.tally.add(of_job.iter().filter(|a| !a.removed).count());
            continue;
        }
        let templates = match sources(bench.store, job).and_then(|sources| Templates::compile(&job.name, sources)) {
            Ok(templates) => templates,
            Err(found) => {
                problems.extend(found);
                continue;
            }
        };
        if lost || !templates.is_empty() {
            certificates::read_pems(lists.catalog.connection(), key, &job.name, &there, &mut pems)?;
        }
        if lost {
            certificates::store(&mut batch, key, &pems)?;
        }
        live.set_pems(pems);
        let mut one = OneJob {
            job,
            templates: &templates,
            made: &made,
            before: before.as_ref(),
            touched: &touched,
            live: &live,
            workers: &workers,
            certificates: &there,
            ca: &ca_entry,
            writers: &writers,
            tally: &bench.tally,
            composed: &mut composed,
        };
        match one.compose(of_job, old.map(|(_, reads)| reads), &mut batch, &mut lists)? {
            Ok(()) => {}
            Err(found) => problems.extend(found),
        }
    }
    // Of jobs that are gone.
    for (job, there) in issued {
        let gone = there.into_keys().map(|(name, host)| (job.clone(), name, host)).collect();
        composed.certificates.push(Changes { issued: Vec::new(), gone });
    }
    if !problems.is_empty() {
        return Err(Failure { exit: Exit::Input, problems });
    }
    bench.tally.begin("writing", 0);
    lists.flush()?;
    batch.finish().map_err(Held::from)?;
    Ok(composed)
}

/// One job whose inputs changed.
struct OneJob<'a> {
    job: &'a Job,
    templates: &'a Templates,
    made: &'a inputs::Made,
    /// What it is made of now, of what its templates read at the last build.
    before: Option<&'a inputs::MadeOf<'a>>,
    /// Where certificates came or went.
    touched: &'a BTreeSet<Host>,
    live: &'a Arc<Live>,
    workers: &'a BTreeMap<shared::WorkerId, Worker>,
    certificates: &'a rows::OfJob,
    ca: &'a Entry,
    /// Jobs whose hooks may write values.
    writers: &'a BTreeSet<JobName>,
    tally: &'a Tally,
    composed: &'a mut Composed,
}

impl OneJob<'_> {
    fn compose(
        &mut self,
        allocations: &mut [Allocation],
        old: Option<&Reads>,
        batch: &mut Batch<'_>,
        lists: &mut Lists<'_>,
    ) -> Result<Result<(), Vec<Diagnostic>>, Failure> {
        let values = Arc::new(Remembering::new(self.live.clone()));
        let source: Arc<dyn Source> = values.clone();
        let upstream: BTreeSet<JobName> =
            self.job.spec.hooks.values().filter_map(|hook| hook.demand.as_ref()).map(|d| d.job.clone()).collect();
        let upstream = Arc::new(upstream);
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
                    let context = Context {
                        bucket: self.made.bucket(),
                        allocation,
                        worker,
                        upstream: &upstream,
                        values: &source,
                    };
                    match render::render(self.templates, &context) {
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
                        Err(failed) if may_come(&failed, self.writers) => {
                            self.undecided(allocations, values.asked(), &failed).map_err(unreadable)?;
                            return Ok(Ok(()));
                        }
                        // The same mistake on a thousand workers is one mistake.
                        Err(failed) => return Ok(Err(failed.problems)),
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
        let mut reads = Reads::new(values.asked(), self.templates.uses_current_version(), &shipped);
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
        let reads = Reads::new(asked, self.templates.uses_current_version(), &inputs::shipped(self.job, self.ca));
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

/// Jobs that have a hook which may write variables and secrets.
fn writers(jobs: &[Job]) -> BTreeSet<JobName> {
    let writes = |job: &&Job| {
        job.spec.hooks.values().any(|hook| hook.executed_on.iter().any(|event| *event != HookEvent::HealthCheck))
    };
    jobs.iter().filter(writes).map(|job| job.name.clone()).collect()
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
fn certificate_entries(job: &Job, certificates: &rows::OfJob, ca: &Entry, host: &Host) -> Vec<Entry> {
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

/// Bundles' lists on their way into the catalog: content by its digest, so that writing them before
/// the build is committed shows nobody anything.
struct Lists<'a> {
    catalog: &'a mut Catalog,
    waiting: BTreeMap<BundleDigest, Vec<u8>>,
}

impl Lists<'_> {
    fn put(&mut self, bundle: Bundle) -> catalog::Result<BundleDigest> {
        let digest = bundle.digest();
        if !self.waiting.contains_key(&digest) && !bundles::contains(self.catalog.connection(), &digest)? {
            self.waiting.insert(digest, bundles::pack(&bundle)?);
            if self.waiting.len() >= LISTS {
                self.flush()?;
            }
        }
        Ok(digest)
    }

    fn flush(&mut self) -> catalog::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        self.catalog.write(|tx| waiting.iter().try_for_each(|(digest, packed)| bundles::put(tx, digest, packed)))
    }

    /// The entries of `paths` in a bundle of the last build; `None` when any of it is not there.
    fn entries(&self, digest: Option<BundleDigest>, paths: &[shared::RelPath]) -> catalog::Result<Option<Vec<Entry>>> {
        let Some(digest) = digest else { return Ok(None) };
        let bundle = bundles::get(self.catalog.connection(), &digest)?;
        Ok(bundle.and_then(|bundle| paths.iter().map(|path| bundle.get(path.as_str()).cloned()).collect()))
    }
}

fn sources(store: &Store, job: &Job) -> Result<Vec<Text>, Vec<Diagnostic>> {
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    for file in job.files.iter().filter(|file| file.kind == FileKind::Template) {
        let place = format!("workspace/jobs/{}/{}", job.name, file.path);
        let text = store.read(&file.blob, TEMPLATE_CAP).map_err(|error| chain(&error));
        match text.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is no UTF-8".to_owned())) {
            Ok(text) => sources.push(Text { path: file.path.clone(), mode: file.mode, text }),
            Err(why) => {
                problems.push(
                    Diagnostic::new(Code::TemplateSyntax, format!("this template cannot be read: {why}")).at(place),
                );
            }
        }
    }
    if problems.is_empty() { Ok(sources) } else { Err(problems) }
}

/// Every problem that compiling the templates of `jobs` shows, without rendering them.
pub fn check_templates(store: &Store, jobs: &[Job]) -> Vec<Diagnostic> {
    let compile = |job: &Job| sources(store, job).and_then(|sources| Templates::compile(&job.name, sources)).err();
    jobs.iter().filter_map(compile).flatten().collect()
}
