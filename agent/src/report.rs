//! Edge: tells the controller all that the agent knows, until it has it. A report is made of the
//! ledger when it is sent, so a result and its report are one and the same durable row.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::api::v1;
use shared::api::v1::facts::WorkerFacts;
use shared::api::v1::health::ObservedHealth;
use shared::api::v1::report::{Fetched, MAX_PATHS, ObservedAllocation, Phase, Report};
use shared::backoff::Backoff;
use shared::{AllocId, JobName};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::client::Client;
use crate::facts::Gauge;
use crate::health::schedule::News;
use crate::reconcile::{Place, Row, heal};
use crate::service::{Loop, Service};
use crate::state::ledger::Ledger;
use crate::{clock, machine};

/// What is begun is reported only when it is not done within this time: a quick update is one report.
const PATIENCE: Duration = Duration::from_millis(300);
/// Longest time for one, with the pause after one that failed.
const EXCHANGE: Duration = Duration::from_secs(60);
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));

/// What is not in the ledger: it is of this process alone.
#[derive(Debug, Default)]
pub struct Transient {
    /// Where each allocation's work stands, and what holds it up.
    doing: Mutex<HashMap<AllocId, Doing>>,
    /// Why the last desired state was refused.
    refused: Mutex<Option<String>>,
    /// How each job that has checks answers.
    health: Mutex<BTreeMap<AllocId, ObservedHealth>>,
    /// What was downloaded last, for each allocation.
    fetched: Mutex<HashMap<AllocId, Fetched>>,
    /// Counts what is worth a report, so that one report answers for all that came before it.
    news: AtomicU64,
    now: Notify,
    soon: Notify,
    /// A report has got through.
    pub through: Notify,
    /// Work went into another phase.
    pub moved: Notify,
}

/// Where an allocation's work stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Doing {
    job: JobName,
    phase: Phase,
    problem: Option<String>,
}

impl Doing {
    fn words(&self) -> String {
        let Self { job, phase, problem } = self;
        let phase = match phase {
            Phase::Idle => "done",
            Phase::Fetching => "fetching",
            Phase::Applying => "putting files in place",
            Phase::Running => "running make",
        };
        match problem {
            None => format!("{job}: {phase}"),
            Some(why) => format!("{job}: {phase}, held up: {why}"),
        }
    }
}

impl Transient {
    /// An allocation's work goes into a phase.
    pub fn phase(&self, alloc: AllocId, job: &JobName, phase: Phase) {
        let mut doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        if phase == Phase::Idle {
            doing.remove(&alloc);
        } else if doing.get(&alloc).is_none_or(|now| now.phase != phase) {
            // A step that is tried again is as held up as it was, until it gets through.
            doing.insert(alloc, Doing { job: job.clone(), phase, problem: None });
        }
        drop(doing);
        self.moved.notify_one();
        self.report_soon();
    }

    /// What is at work, for people: the job and what is done for it.
    pub fn at_work(&self) -> Vec<String> {
        let mut said: Vec<_> = self.doing().into_values().map(|doing| doing.words()).collect();
        said.sort();
        said
    }

    /// An allocation's work makes no progress; whether that is news.
    pub fn problem(&self, alloc: AllocId, job: &JobName, phase: Phase, why: String) -> bool {
        let now = Doing { job: job.clone(), phase, problem: Some(why) };
        let mut doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        let news = doing.get(&alloc) != Some(&now);
        doing.insert(alloc, now);
        drop(doing);
        if news {
            self.report_soon();
        }
        news
    }

    /// Files were downloaded for an allocation.
    pub fn fetched(&self, alloc: AllocId, fetched: Fetched) {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).insert(alloc, fetched);
    }

    /// The last desired state was refused, or no longer.
    pub fn refused(&self, why: Option<String>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if *refused != why {
            *refused = why;
            self.report_now();
        }
    }

    /// How each job that has checks answers, and how much that is worth telling.
    pub fn health(&self, observed: BTreeMap<AllocId, ObservedHealth>, news: News) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = observed;
        match news {
            News::None => {}
            News::Soon => self.report_soon(),
            News::Now => self.report_now(),
        }
    }

    /// Something is worth a report at once.
    pub fn report_now(&self) {
        self.news.fetch_add(1, Ordering::SeqCst);
        self.now.notify_one();
    }

    /// Something is worth a report, if nothing better comes soon.
    pub fn report_soon(&self) {
        self.news.fetch_add(1, Ordering::SeqCst);
        self.soon.notify_one();
    }

    fn doing(&self) -> HashMap<AllocId, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What of a row the controller is told.
fn observed(row: Row, doing: Option<Doing>, health: Option<ObservedHealth>) -> ObservedAllocation {
    // A removal that was cut off waits to be gone on with: it is not done because nobody is at it.
    let is_leaving = row.place == Place::Empty && !row.leaving.is_empty();
    let rest = if is_leaving { Phase::Applying } else { Phase::Idle };
    let (phase, problem) = doing.map_or((rest, None), |doing| (doing.phase, doing.problem));
    let first = |mut paths: Vec<_>| {
        paths.truncate(MAX_PATHS);
        paths
    };
    let (_, unhealed) = heal::decide(&row.drift, &row.list, &row.heals, clock::now_ms());
    ObservedAllocation {
        alloc_id: row.alloc_id,
        job: row.job,
        bundle: match row.place {
            Place::Whole(bundle) => Some(bundle),
            Place::Empty | Place::Applying { .. } => None,
        },
        version: Some(row.version).filter(|version| !version.is_empty()),
        purged: row.purged,
        phase,
        process: row.process,
        action: row.action,
        problem,
        boot: row.boot,
        unhealed: first(unhealed),
        drift: first(row.drift),
        unmanaged: first(row.unmanaged),
        health,
        fetched: None,
    }
}

/// Sends reports for as long as it is polled.
pub async fn send_all(
    ledger: Arc<Ledger>,
    client: Client,
    transient: Arc<Transient>,
    root: std::path::PathBuf,
    service: &Service,
) {
    let boot_id = machine::boot_id();
    let mut number = 0;
    let (mut gauge, mut told) = (Gauge::default(), None::<WorkerFacts>);
    loop {
        let mut attempt = 0;
        let mut news;
        loop {
            news = transient.news.load(Ordering::SeqCst);
            service.back_within(Loop::Report, EXCHANGE);
            let sent = match client.numbered().await {
                Ok(session) => {
                    // Asked for first: one with another number would count as another start's, and what it says
                    // once, such as facts, be lost.
                    let facts = gauge.measure(&root);
                    let told_facts = (told.as_ref() != Some(&facts)).then(|| facts.clone());
                    number += 1;
                    match report(&ledger, &transient, session, number, boot_id, told_facts) {
                        Ok(mut report) => {
                            // One that the controller will not take is no report at all.
                            if report.fit(v1::REPORT_CAP) {
                                tracing::warn!(allocations = report.allocations.len(), "report_shortened");
                            }
                            client.report(&report).await.map(|()| facts)
                        }
                        Err(error) => {
                            tracing::error!(error = shared::diagnostic::chain(&error), "ledger_unreadable");
                            break;
                        }
                    }
                }
                Err(error) => Err(error),
            };
            match sent {
                Ok(facts) => {
                    told = Some(facts);
                    transient.through.notify_one();
                    break;
                }
                Err(error) => {
                    tracing::debug!(error = shared::diagnostic::chain(&error), "report_failed");
                    tokio::time::sleep(RETRY.delay(attempt, clock::random())).await;
                    attempt += 1;
                }
            }
        }
        service.rests(Loop::Report);
        while news == transient.news.load(Ordering::SeqCst) {
            tokio::select! {
                () = transient.now.notified() => {}
                () = transient.soon.notified() => {
                    if news != transient.news.load(Ordering::SeqCst) {
                        drop(tokio::time::timeout(PATIENCE, transient.now.notified()).await);
                    }
                }
            }
        }
    }
}

/// The only report of a process that sends but one.
pub fn once(ledger: &Ledger, transient: &Transient, session: u64) -> crate::state::ledger::Result<Report> {
    let mut report = report(ledger, transient, session, 1, machine::boot_id(), None)?;
    report.fit(v1::REPORT_CAP);
    Ok(report)
}

fn report(
    ledger: &Ledger,
    transient: &Transient,
    session: u64,
    number: u64,
    boot_id: Uuid,
    facts: Option<WorkerFacts>,
) -> crate::state::ledger::Result<Report> {
    let last = ledger.last()?;
    let mut doing = transient.doing();
    let mut health = transient.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let fetched = transient.fetched.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut allocations: Vec<_> = ledger
        .rows()?
        .into_iter()
        .map(|row| (doing.remove(&row.alloc_id), health.remove(&row.alloc_id), row))
        .map(|(doing, health, row)| observed(row, doing, health))
        .collect();
    // Whose first files are on their way has no row yet, and may be held up all the same.
    allocations.extend(
        doing.into_iter().map(|(alloc, doing)| observed(Row::new(alloc, doing.job.clone()), Some(doing), None)),
    );
    for observed in &mut allocations {
        observed.fetched = fetched.get(&observed.alloc_id).cloned();
    }
    Ok(Report {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        session,
        number,
        boot_id,
        clock_ms: clock::now_ms(),
        accepted: last.map(|last| last.accepted.fence),
        essence: last.and_then(|last| last.essence),
        refused: transient.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        allocations,
        operations: ledger.operations()?.into_iter().map(|entry| entry.observed).collect(),
        facts,
    })
}
