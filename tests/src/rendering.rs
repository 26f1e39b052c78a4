//! One template of a made-up job, rendered by the product: what it sees is written here, once.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use controller::model::kv::{Keys, Lookup, Namespace, Source as Values, Value};
use controller::render::template::{Context, Source, Templates};
use controller::render::{Rendered, Scope};
use controller::renderer::{Failed, Limits, Renderer};
use shared::{AllocId, BucketId, Diagnostic, JobName, WorkerId};
use uuid::Uuid;

/// What the job's secret is.
pub const SECRET: &str = "hush-4711-hush";

#[derive(Debug)]
struct Fixed {
    secret: &'static str,
}

impl Values for Fixed {
    fn keys(&self, namespace: &Namespace) -> Result<Arc<Keys>, String> {
        let pair =
            |key: &str, text: &str, secret| Keys::from([(key.to_owned(), Value { text: text.to_owned(), secret })]);
        Ok(Arc::new(match namespace.to_string().as_str() {
            "vars/job/api" => pair("db_name", "x", false),
            "vars/job/db" => pair("port", "5432", false),
            "secrets/job/api" => pair("password", self.secret, true),
            "secrets/job/other" => panic!("a namespace was read that the job has no right to"),
            _ => Keys::new(),
        }))
    }
}

impl Lookup for Fixed {
    fn names(&self, namespace: &Namespace) -> Result<Vec<String>, String> {
        Ok(self.keys(namespace)?.keys().cloned().collect())
    }

    fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Value>, String> {
        Values::get(self, namespace, key)
    }
}

/// `maand`, once it is known where that is.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// From now on templates are rendered as the product does it, in a process of `maand`'s.
pub fn by(maand: impl Into<PathBuf>) {
    let _before = PROGRAM.set(maand.into());
}

/// Whether they are: then there is nothing that a template may not do.
pub fn isolated() -> bool {
    PROGRAM.get().is_some()
}

/// Renders `text` as `conf/a.j2` of job `api`, which demands `db`, for worker `w1`: in a process of `maand`'s, or
/// where that is not known, as in a fuzzer, in this one.
pub fn render(text: &str) -> Result<Rendered, Vec<Diagnostic>> {
    render_with(text, SECRET)
}

/// The same where the job's secret is another one.
pub fn render_with(text: &str, secret: &'static str) -> Result<Rendered, Vec<Diagnostic>> {
    static RENDERER: Mutex<Option<Renderer>> = Mutex::new(None);
    let Some(program) = PROGRAM.get() else { return here(text, secret) };
    let mut renderer = RENDERER.lock().unwrap_or_else(PoisonError::into_inner);
    let renderer = renderer.get_or_insert_with(|| Renderer::new(program.clone(), Limits::default()));
    render_by(renderer, text, secret)
}

/// The same by a renderer.
pub fn render_by(renderer: &mut Renderer, text: &str, secret: &'static str) -> Result<Rendered, Vec<Diagnostic>> {
    let problems = |failed| match failed {
        Failed::Workspace(failed) => failed.problems,
        Failed::Renderer(error) => panic!("{error}"),
    };
    let scope = scope();
    let mut compiled = renderer.compile(&scope.job, &[source(text)]).map_err(problems)?;
    let mut files = renderer.render(&mut compiled, &scope, &Fixed { secret }).map_err(problems)?;
    Ok(files.remove(0))
}

/// The same in this process. The engine goes as deep as a template has it go.
pub fn here(text: &str, secret: &'static str) -> Result<Rendered, Vec<Diagnostic>> {
    let render = || {
        let scope = Arc::new(scope());
        let values: Arc<dyn Lookup> = Arc::new(Fixed { secret });
        let templates = Templates::compile(&scope.job, vec![source(text)], &|_| ())?;
        let context = Context { scope: &scope, values: &values };
        let mut files = templates.render(&context, &|_| ()).map_err(|failed| failed.problems)?;
        Ok(files.remove(0))
    };
    std::thread::scope(|threads| {
        let thread = std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(threads, render).unwrap();
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn source(text: &str) -> Source {
    Source { path: "conf/a.j2".parse().unwrap(), mode: 0o644, text: text.to_owned() }
}

fn scope() -> Scope {
    let job: JobName = "api".parse().unwrap();
    Scope {
        bucket_id: BucketId::from_uuid(Uuid::from_u128(3)),
        alloc_id: AllocId::from_uuid(Uuid::from_u128(2)),
        job,
        current_version: "0.0.0".to_owned(),
        new_version: "1.2.0".to_owned(),
        worker_id: WorkerId::from_uuid(Uuid::from_u128(1)),
        host: "w1".parse().unwrap(),
        labels: vec!["web".to_owned()],
        upstream: BTreeSet::from(["db".parse().unwrap()]),
    }
}
