//! A job's template, whoever wrote it.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::controller::model::kv::{Keys, Namespace, Source as Values, Value};
use ::controller::model::{Allocation, Worker};
use ::controller::render::template::{Context, Source, Templates};
use shared::AllocId;
use uuid::Uuid;

/// What the job's secret is.
pub const SECRET: &str = "hush-4711-hush";

#[derive(Debug)]
struct Fixed;

impl Values for Fixed {
    fn keys(&self, namespace: &Namespace) -> Result<Arc<Keys>, String> {
        let pair =
            |key: &str, text: &str, secret| Keys::from([(key.to_owned(), Value { text: text.to_owned(), secret })]);
        Ok(Arc::new(match namespace.to_string().as_str() {
            "vars/job/api" => pair("db_name", "x", false),
            "secrets/job/api" => pair("password", SECRET, true),
            "secrets/job/other" => panic!("a namespace was read that the job has no right to"),
            _ => Keys::new(),
        }))
    }
}

/// Renders it. Nothing of a secret is in a file that is not private, nor in the message of a failure.
pub(super) fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let job: shared::JobName = "api".parse().unwrap();
    let source = Source { path: "conf/a.j2".parse().unwrap(), mode: 0o644, text: text.to_owned() };
    let worker = Worker {
        worker_id: super::wire::worker(),
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
    let values: Arc<dyn Values> = Arc::new(Fixed);
    let upstream = Arc::new(BTreeSet::new());
    let context = Context {
        bucket: super::wire::bucket(),
        allocation: &allocation,
        worker: &worker,
        upstream: &upstream,
        values: &values,
    };
    let Ok(templates) = Templates::compile(&job, vec![source]) else { return };
    let holds = |content: &[u8]| content.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    match templates.render(&context) {
        Ok(files) => {
            for file in files {
                assert!(file.content.len() <= 16 << 20);
                assert!(file.private || !holds(&file.content), "a secret in a file that is not private");
            }
        }
        Err(failed) => {
            for problem in failed.problems {
                assert!(!holds(problem.to_string().as_bytes()), "a secret in a message: {problem}");
            }
        }
    }
}
