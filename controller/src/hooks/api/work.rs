//! `/semaphore/…`, and the worker's side of the API: `/make`, `/script`. Nothing connects to a worker: its
//! agent is asked, through [`Workers`].

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::http::StatusCode;
use shared::{Host, JobName, RunId, WorkerId};

use super::Caller;
use super::answer::{Answer, Refusal, empty, json};
use super::body::{Acquire, Acquired, Done as Body, Make, Named, Script, Status};
use super::semaphore::{Key, MAX_CAPACITY, Refused, Who};

/// Longest name of a semaphore, bytes.
const MAX_NAME: usize = 128;
/// How long a semaphore is waited for when nothing is said, and at most.
const SEMAPHORE_WAIT_S: (i64, i64) = (600, 3600);
/// The same for what a worker is asked to do.
const WORK_S: (i64, i64) = (300, 3600);

/// What a worker is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// `make -s -C <the job's directory> TARGET`.
    Make {
        /// A name of letters, digits, `_`, `.` and `-`.
        target: String,
    },
    /// A script for `sh`.
    Script {
        /// Its text.
        script: String,
    },
}

/// Where, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The command that the hook runs in.
    pub run: RunId,
    /// The worker.
    pub worker_id: WorkerId,
    /// Its name.
    pub host: Host,
    /// The job, which has an allocation there.
    pub job: JobName,
    /// What to do.
    pub work: Work,
    /// When to end it. An answer is expected a little later at the latest.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// The exit code; `None` when it was ended.
    pub exit: Option<i32>,
    /// What it printed; bounded by who implements this.
    pub stdout: String,
    /// The same of standard error.
    pub stderr: String,
    /// It took too long and was ended.
    pub timed_out: bool,
}

/// Why nothing was done, in words for who wrote the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDone {
    /// Nobody here can ask an agent.
    Unavailable(String),
    /// The agent has not been heard of, or did not take it up in time.
    Offline(String),
    /// The agent, or a rule, says no.
    Refused(String),
}

/// An answer that is waited for.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<Done, NotDone>> + Send + 'a>>;

/// Has work done on workers, by their agents.
pub trait Workers: Send + Sync + fmt::Debug {
    /// Does it, and waits for the end. Dropped, it takes back what was not begun.
    fn run(&self, order: Order) -> Answering<'_>;
}

/// No way to any worker.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoWorkers;

impl Workers for NoWorkers {
    fn run(&self, _: Order) -> Answering<'_> {
        let why = "this command cannot run anything on workers";
        Box::pin(async { Err(NotDone::Unavailable(why.to_owned())) })
    }
}

/// A number of seconds: the default for nothing and less, at most the bound.
fn seconds(asked: Option<i64>, (default, most): (i64, i64)) -> Duration {
    let seconds = asked.filter(|seconds| *seconds > 0).unwrap_or(default).min(most);
    Duration::from_secs(seconds.unsigned_abs())
}

fn named(caller: &Caller, name: &str) -> Result<(Key, Who), Refusal> {
    let name = name.trim();
    if name.is_empty() {
        return Err(Refusal::bad("name is missing or blank"));
    }
    if name.len() > MAX_NAME {
        return Err(Refusal::bad(format!("name is longer than {MAX_NAME} bytes")));
    }
    let invocation = &caller.invocation;
    let key = Key { job: invocation.job.clone(), event: invocation.event, name: name.to_owned() };
    Ok((key, Who { invocation: invocation.number, alloc_id: invocation.alloc_id }))
}

/// POST /semaphore/acquire.
pub(super) async fn acquire(caller: Caller, asked: Acquire) -> Answer {
    let (key, who) = named(&caller, &asked.name)?;
    let capacity = u32::try_from(asked.capacity.unwrap_or(1).clamp(1, i64::from(u32::MAX))).unwrap_or(1);
    let conflict = |message: String| Err(Refusal::new(StatusCode::CONFLICT, message));
    if capacity > MAX_CAPACITY {
        return conflict(format!("capacity {capacity} is above {MAX_CAPACITY}"));
    }
    let limit = seconds(asked.timeout_seconds, SEMAPHORE_WAIT_S);
    let semaphores = &caller.shared.semaphores;
    match semaphores.acquire(key.clone(), who, capacity, limit).await {
        Ok(()) => {}
        Err(Refused::TimedOut) => {
            let holders: Vec<String> = semaphores.state(&key).holders.iter().map(ToString::to_string).collect();
            let message = format!(
                "semaphore {:?} was not free within {} s: held by {}",
                key.name,
                limit.as_secs(),
                if holders.is_empty() { "nobody now".to_owned() } else { holders.join(", ") }
            );
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message));
        }
        Err(Refused::Capacity(first)) => {
            return conflict(format!("semaphore {:?} has capacity {first}, not {capacity}", key.name));
        }
        Err(Refused::Names) => return conflict("this job has too many semaphores".to_owned()),
    }
    if !caller.is_admitted() {
        // Its process ended meanwhile, and what it held was given back before this.
        semaphores.release(&key, who);
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "this hook has ended"));
    }
    json(&Acquired {
        name: key.name,
        allocation_id: who.alloc_id.to_string(),
        capacity: capacity.into(),
        acquired: true,
    })
}

/// POST /semaphore/release.
pub(super) fn release(caller: &Caller, asked: &Named) -> Answer {
    let (key, who) = named(caller, &asked.name)?;
    if caller.shared.semaphores.release(&key, who) {
        return empty();
    }
    let message = format!("semaphore {:?} is not held by this allocation", key.name);
    Err(Refusal::new(StatusCode::CONFLICT, message))
}

/// GET /semaphore/status.
pub(super) fn status(caller: &Caller, asked: &Named) -> Answer {
    let (key, _) = named(caller, &asked.name)?;
    let state = caller.shared.semaphores.state(&key);
    json(&Status {
        name: key.name,
        capacity: state.capacity.into(),
        waiting: i64::try_from(state.waiting).unwrap_or(i64::MAX),
        available: i64::from(state.capacity) - i64::try_from(state.holders.len()).unwrap_or(0),
        holders: state.holders.iter().map(ToString::to_string).collect(),
    })
}

/// POST /make.
pub(super) async fn make(caller: Caller, asked: Make) -> Answer {
    let target = asked.target.trim();
    let mut letters = target.chars();
    let fine = letters.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && letters.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !fine || target.len() > 128 {
        let rule = "a letter or digit, then letters, digits, _ . -";
        return Err(Refusal::bad(format!("target {target:?} is not a make target: {rule}")));
    }
    order(caller, Work::Make { target: target.to_owned() }, asked.timeout_seconds, asked.host).await
}

/// POST /script.
pub(super) async fn script(caller: Caller, asked: Script) -> Answer {
    if asked.script.trim().is_empty() {
        return Err(Refusal::bad("script is missing or blank"));
    }
    order(caller, Work::Script { script: asked.script }, asked.timeout_seconds, asked.host).await
}

async fn order(caller: Caller, work: Work, asked: Option<i64>, host: Option<String>) -> Answer {
    let invocation = &caller.invocation;
    let own = invocation.host.as_str();
    let wanted = host.as_deref().map(str::trim).filter(|host| !host.is_empty()).unwrap_or(own);
    let Some((host, worker_id)) = invocation.workers.iter().find(|(host, _)| host.as_str() == wanted) else {
        let hosts: Vec<&str> = invocation.workers.iter().map(|(host, _)| host.as_str()).take(12).collect();
        let message = format!("job {} has no allocation on {wanted:?}; it has on {}", invocation.job, hosts.join(", "));
        return Err(Refusal::bad(message));
    };
    let order = Order {
        run: caller.shared.run,
        worker_id: *worker_id,
        host: host.clone(),
        job: invocation.job.clone(),
        work,
        timeout: seconds(asked, WORK_S),
    };
    let refuse = |status, message| Err(Refusal::new(status, message));
    match caller.shared.workers.run(order).await {
        Ok(Done { exit, stdout, stderr, timed_out }) => {
            json(&Body { exit: exit.map(i64::from), stdout, stderr, timed_out })
        }
        Err(NotDone::Unavailable(why)) => refuse(StatusCode::NOT_IMPLEMENTED, why),
        Err(NotDone::Offline(why)) => refuse(StatusCode::SERVICE_UNAVAILABLE, why),
        Err(NotDone::Refused(why)) => refuse(StatusCode::CONFLICT, why),
    }
}
