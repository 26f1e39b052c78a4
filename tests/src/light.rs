//! Agents by the hundred in one process: they enrol, poll and report as real ones do, and decide with the
//! agent's own `reconcile`; files and `make` are left out. For what a fleet does to the controller.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent::client::{Answer, Client, Polled};
use agent::identity::Identity;
use agent::join::{self, Place};
use agent::reconcile::{self, Accepted, Row, Step, Verdict};
use controller::cli::ui::Ui;
use controller::cli::{Context, cmd};
use controller::paths::BucketDir;
use data_encoding::BASE64;
use rustls::ClientConfig;
use shared::api::v1::MAX_WAIT_S;
use shared::api::v1::desired::{DesiredState, RunState};
use shared::api::v1::health::{HealthState, ObservedHealth};
use shared::api::v1::report::{ObservedAction, ObservedAllocation, Outcome, Phase, Process, Report};
use shared::{ActionId, ActionKind, AllocId, BlobDigest, BucketId, WorkerId};
use tokio::sync::watch;

use crate::bucket::Bucket;

/// Agents that live until this is dropped.
#[derive(Debug)]
pub struct Lights {
    agents: Vec<Arc<Light>>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Debug)]
struct Light {
    host: String,
    bucket: BucketId,
    worker: WorkerId,
    controller: String,
    tls: ClientConfig,
    away: watch::Sender<bool>,
    ledger: Mutex<Ledger>,
}

/// What a real one keeps over its own end.
#[derive(Debug, Default)]
struct Ledger {
    session: u64,
    accepted: Option<Accepted>,
    desired: Option<DesiredState>,
    rows: BTreeMap<AllocId, Row>,
    ran: Vec<(AllocId, ActionId, ActionKind)>,
}

impl Lights {
    /// Enrols one for every host, and lets all of them live. The hosts are in the catalog, and serve runs.
    pub fn join(bucket: &Bucket, hosts: &[String]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let url = format!("https://{}:{}", bucket.address(1), bucket.port());
        let context = Context { bucket: BucketDir::new(bucket.path("")), ui: Ui::new(true, true) };
        let mut agents = Vec::new();
        for host in hosts {
            let token = cmd::agent::new_token(&context, &host.parse().unwrap(), 30).unwrap();
            let dir = bucket.dir().join("lights").join(host);
            let light = runtime.block_on(Light::enrol(&url, &token, host, &dir));
            runtime.spawn(live(light.clone()));
            agents.push(light);
        }
        Self { agents, _runtime: runtime }
    }

    /// Takes agent `n` away, its connections with it, or brings it back.
    pub fn set_away(&self, n: usize, away: bool) {
        self.agents[n].away.send_replace(away);
    }

    /// What agent `n` was ever told to do and did, in order.
    pub fn ran(&self, n: usize) -> Vec<(AllocId, ActionId, ActionKind)> {
        self.agents[n].ledger().ran.clone()
    }

    /// The update_seq that agent `n` accepted last; 0 before the first.
    pub fn update_seq(&self, n: usize) -> u64 {
        self.agents[n].ledger().accepted.map_or(0, |accepted| accepted.fence.update_seq)
    }

    /// Its worker's name.
    pub fn host(&self, n: usize) -> &str {
        &self.agents[n].host
    }
}

impl Light {
    async fn enrol(url: &str, token: &str, host: &str, dir: &Path) -> Arc<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let place = |name: &str| -> PathBuf { dir.join(name) };
        let place = Place {
            config: place("agent.toml"),
            root: Some(place("root")),
            state: Some(place("state")),
            replace: false,
        };
        let config = join::join(url, token, &place).await.unwrap();
        let identity = Identity::new(&config.state, config.bucket_id).load().unwrap();
        Arc::new(Self {
            host: host.to_owned(),
            bucket: config.bucket_id,
            worker: config.worker_id,
            controller: config.controller,
            tls: agent::renew::tls(&identity, config.bucket_id).unwrap(),
            away: watch::Sender::new(false),
            ledger: Mutex::default(),
        })
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One life: from coming back until going away, or an error.
    async fn connected(&self) {
        let session = {
            let mut ledger = self.ledger();
            ledger.session += 1;
            ledger.session
        };
        let client = Client::new(self.tls.clone(), &self.controller, session).unwrap();
        let mut number = 0;
        loop {
            number += 1;
            let (report, after) = {
                let mut ledger = self.ledger();
                ledger.act();
                (ledger.report(session, number), ledger.accepted.map(|accepted| accepted.fence))
            };
            if (number == 1 || after.is_some()) && client.report(&report).await.is_err() {
                return;
            }
            loop {
                match client.desired(after, MAX_WAIT_S).await {
                    Ok(Answer { polled: Polled::Nothing { pause, .. }, .. }) => {
                        tokio::time::sleep(pause.unwrap_or_default()).await
                    }
                    Ok(Answer { polled: Polled::Newer(envelope), .. }) => {
                        let payload = BASE64.decode(envelope.payload.as_bytes()).unwrap();
                        let offered: DesiredState = serde_json::from_slice(&payload).unwrap();
                        // As real ones do where there is work: does it still hold?
                        match client.desired(Some(offered.fence), 0).await {
                            Ok(Answer { polled: Polled::Nothing { lease_ms: 1.., .. }, .. }) => self.accept(&payload),
                            Ok(_) => continue,
                            Err(_) => return,
                        }
                        break;
                    }
                    Err(_) => return,
                }
            }
        }
    }

    fn accept(&self, payload: &[u8]) {
        let offered: DesiredState = serde_json::from_slice(payload).unwrap();
        let hash = *BlobDigest::of(payload).as_bytes();
        let mut ledger = self.ledger();
        match reconcile::verdict(self.bucket, self.worker, ledger.accepted.as_ref(), &offered, &hash) {
            Verdict::Accept => {
                ledger.accepted = Some(Accepted { fence: offered.fence, hash });
                ledger.desired = Some(offered);
            }
            Verdict::Same => {}
            Verdict::Refuse(why) => panic!("{}: {why}", self.host),
        }
    }
}

async fn live(light: Arc<Light>) {
    let mut away = light.away.subscribe();
    loop {
        if away.wait_for(|away| !*away).await.is_err() {
            return;
        }
        tokio::select! {
            // With the client its connections go.
            () = light.connected() => tokio::time::sleep(Duration::from_millis(100)).await,
            () = async { drop(away.wait_for(|away| *away).await) } => {}
        }
    }
}

impl Ledger {
    /// Does everything that is to be done; nothing of it takes time.
    fn act(&mut self) {
        let Some(desired) = self.desired.clone() else { return };
        for wanted in &desired.allocations {
            let row = self.rows.entry(wanted.alloc_id).or_insert_with(|| Row::new(wanted.alloc_id, wanted.job.clone()));
            loop {
                let action = match reconcile::next(wanted, row) {
                    Step::Nothing | Step::Resume(_) => break,
                    Step::Place(bundle) => {
                        row.place = reconcile::Place::Whole(bundle);
                        continue;
                    }
                    Step::RemoveFiles | Step::RemoveTree if row.place == reconcile::Place::Empty => break,
                    Step::RemoveFiles | Step::RemoveTree => {
                        row.place = reconcile::Place::Empty;
                        continue;
                    }
                    Step::Run(action) | Step::Complete(action) => action,
                };
                self.ran.push((wanted.alloc_id, action.id, action.kind));
                row.process = match action.kind {
                    ActionKind::Stop => Process::Stopped,
                    ActionKind::Sync => row.process,
                    ActionKind::Start | ActionKind::Restart | ActionKind::Reload => Process::Started,
                };
                let outcome = Some(Outcome::Ok);
                row.action = Some(ObservedAction { id: action.id, outcome, started_ms: 0, duration_ms: 1, tail: None });
            }
        }
    }

    fn report(&self, session: u64, number: u64) -> Report {
        let asked = |alloc: AllocId| {
            let wanted = self.desired.iter().flat_map(|desired| &desired.allocations);
            wanted.clone().any(|a| a.alloc_id == alloc && a.state == RunState::Running && a.health.is_some())
        };
        let observed = |row: &Row| ObservedAllocation {
            version: None,
            purged: false,
            alloc_id: row.alloc_id,
            job: row.job.clone(),
            bundle: match row.place {
                reconcile::Place::Whole(bundle) => Some(bundle),
                _ => None,
            },
            phase: Phase::Idle,
            process: row.process,
            action: row.action.clone(),
            problem: None,
            drift: Vec::new(),
            unmanaged: Vec::new(),
            fetched: None,
            boot: None,
            unhealed: vec![],
            health: asked(row.alloc_id).then(|| ObservedHealth {
                state: HealthState::Healthy,
                action: row.action.as_ref().map(|action| action.id),
                attempt: 0,
                is_final: true,
                since_ms: 0,
                checked_ms: 0,
                problem: None,
            }),
        };
        Report {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            session,
            number,
            boot_id: uuid::Uuid::nil(),
            clock_ms: 0,
            accepted: self.accepted.map(|accepted| accepted.fence),
            essence: None,
            refused: None,
            allocations: self.rows.values().map(observed).collect(),
            operations: Vec::new(),
            facts: None,
        }
    }
}
