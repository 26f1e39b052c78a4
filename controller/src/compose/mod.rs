//! Edge: from what a build decided to bundles: issues certificates, renders templates, stores what
//! they came to. What was made of the same things at the last build is not made again: a job whose
//! inputs are the same keeps its bundles, an allocation whose values are the same keeps what was
//! rendered for it.

pub mod again;
mod certificates;
mod inputs;
mod job;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shared::diagnostic::chain;
use shared::{BlobDigest, Bundle, BundleDigest, Code, Diagnostic, Entry, Host, JobName};
use thiserror::Error;

use crate::build::Build;
use crate::build::namespaces::Derived;
use crate::bundle::store::{self, Store};
use crate::catalog::{self, Catalog, bundles, certificates as rows, read};
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::model::{FileKind, HookEvent, Job, Worker};
use crate::paths::BucketDir;
use crate::render::template::Source as Text;
use crate::renderer::{self, Failed, Renderer};
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
    /// The process that renders.
    #[error(transparent)]
    Renderer(#[from] renderer::Error),
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
            Held::Store(_) | Held::Thread | Held::Renderer(_) => {
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
    let mut renderer = Renderer::default();
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
        let mut templates = match compile(&mut renderer, bench.store, job)? {
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
        let mut one = job::OneJob {
            job,
            renderer: &mut renderer,
            templates: &mut templates,
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

/// Jobs that have a hook which may write variables and secrets.
fn writers(jobs: &[Job]) -> BTreeSet<JobName> {
    let writes = |job: &&Job| {
        job.spec.hooks.values().any(|hook| hook.executed_on.iter().any(|event| *event != HookEvent::HealthCheck))
    };
    jobs.iter().filter(writes).map(|job| job.name.clone()).collect()
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

/// The templates of a job, compiled; what is wrong with them is the inner error.
fn compile(
    renderer: &mut Renderer,
    store: &Store,
    job: &Job,
) -> Result<Result<renderer::Compiled, Vec<Diagnostic>>, Held> {
    let sources = match sources(store, job) {
        Ok(sources) => sources,
        Err(problems) => return Ok(Err(problems)),
    };
    match renderer.compile(&job.name, &sources) {
        Ok(compiled) => Ok(Ok(compiled)),
        Err(Failed::Workspace(failed)) => Ok(Err(failed.problems)),
        Err(Failed::Renderer(error)) => Err(error.into()),
    }
}

/// Every problem that compiling the templates of `jobs` shows, without rendering them.
pub fn check_templates(store: &Store, jobs: &[Job]) -> Result<Vec<Diagnostic>, Failure> {
    let mut renderer = Renderer::default();
    let mut problems = Vec::new();
    for job in jobs {
        if let Err(found) = compile(&mut renderer, store, job)? {
            problems.extend(found);
        }
    }
    Ok(problems)
}
