//! One template of a made-up job, rendered by the product: what it sees is written here, once.

use std::collections::BTreeSet;
use std::sync::Arc;

use controller::model::kv::{Keys, Namespace, Source as Values, Value};
use controller::model::{Allocation, Worker};
use controller::render::Rendered;
use controller::render::template::{Context, Source, Templates};
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

/// Renders `text` as `conf/a.j2` of job `api`, which demands `db`, for worker `w1`.
pub fn render(text: &str) -> Result<Rendered, Vec<Diagnostic>> {
    render_with(text, SECRET)
}

/// The same where the job's secret is another one.
pub fn render_with(text: &str, secret: &'static str) -> Result<Rendered, Vec<Diagnostic>> {
    let job: JobName = "api".parse().unwrap();
    let source = Source { path: "conf/a.j2".parse().unwrap(), mode: 0o644, text: text.to_owned() };
    let worker = Worker {
        worker_id: WorkerId::from_uuid(Uuid::from_u128(1)),
        host: "w1".parse().unwrap(),
        hostname: None,
        labels: vec!["web".parse().unwrap()],
        tags: Default::default(),
        memory_mb: 0.0,
        cpu_mhz: 0.0,
        position: 0,
    };
    let allocation = Allocation {
        alloc_id: AllocId::from_uuid(Uuid::from_u128(2)),
        job: job.clone(),
        host: worker.host.clone(),
        worker_id: worker.worker_id,
        disabled: false,
        removed: false,
        start_pending: false,
        deployment_seq: 0,
        new_version: "1.2.0".into(),
        bundle: None,
        promoted: None,
        rolled: None,
        render_inputs: None,
    };
    let values: Arc<dyn Values> = Arc::new(Fixed { secret });
    let upstream = Arc::new(BTreeSet::from(["db".parse().unwrap()]));
    let context = Context {
        bucket: BucketId::from_uuid(Uuid::from_u128(3)),
        allocation: &allocation,
        worker: &worker,
        upstream: &upstream,
        values: &values,
    };
    let templates = Templates::compile(&job, vec![source])?;
    let mut files = templates.render(&context).map_err(|failed| failed.problems)?;
    Ok(files.remove(0))
}
