//! `maand-agent run`: puts the agent's parts together, and keeps them going side by side.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::umask;
use shared::api::v1::desired::{DesiredState, Fence};
use shared::{Code, Diagnostic, Host};
use tokio::signal::unix::{Signal, SignalKind};

use super::runtime;
use crate::client::Client;
use crate::config::Config;
use crate::identity::Identity;
use crate::operations::Operations;
use crate::renew::{self, Renewing};
use crate::report::{self, Transient};
use crate::service::Service;
use crate::state::layout::Layout;
use crate::state::ledger::Ledger;
use crate::work::Workshop;
use crate::{by_hand, facts, health, local, machine, poll};

/// Seconds between two looks for edited files, where agent.toml does not say.
const DRIFT_CHECK_S: u32 = 3600;

/// Runs until a signal ends it.
pub(super) fn serve(path: &Path, controller: Option<String>, boot_id_file: &Path) -> Result<(), Diagnostic> {
    let boot_id = facts::boot_id(boot_id_file);
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false).init();
    // What the agent writes for itself is nobody else's; make gets the usual mask.
    let _before = umask(Mode::from_raw_mode(0o077));
    let mut config = Config::load(path)?;
    if let Some(url) = controller {
        url.trim_end_matches('/').clone_into(&mut config.controller);
    }
    let layout = Layout::new(&config.root, config.bucket_id);
    let (ledger, session) = Ledger::open(&layout)?;
    let ledger = Arc::new(ledger);
    // For checks of jobs that speak TLS; the agent's own client names its provider.
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let identity = Identity::new(&config.state, config.bucket_id);
    let held = identity.load()?;
    let machine = machine::check(&identity, config.bucket_id)?;
    let unusable = |error: &dyn std::error::Error| {
        Diagnostic::new(Code::AgentState, "the agent's identity cannot be used").cause(error)
    };
    let tls = renew::tls(&held, config.bucket_id)?;
    let runtime = runtime()?;
    let client = Client::starting(tls, &config.controller, machine.start(config.bucket_id, session))
        .map_err(|error| unusable(&error))?;
    let transient = Arc::new(Transient::default());
    let accepted: Option<DesiredState> = match ledger.accepted() {
        Ok(accepted) => accepted.and_then(|(_, payload)| serde_json::from_slice(&payload).ok()),
        Err(error) => return Err(unusable(&error)),
    };
    let net = runtime.handle().clone();
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let nothing = nothing_accepted(&config);
        let state = accepted.clone().unwrap_or(nothing);
        let allow = config.allow.as_ref().map(|kinds| kinds.iter().map(|kind| kind.word().to_owned()).collect());
        let operations = Operations::new(allow);
        let shop =
            Workshop::new(ledger.clone(), layout.clone(), client.clone(), net, transient.clone(), operations, state);
        tracing::info!(controller = config.controller, bucket = %config.bucket_id, session, "agent_started");
        let runner = local::agent().and_then(|agent| local::write_runner(&layout, &agent, &std::path::absolute(path)?));
        if let Err(error) = runner {
            tracing::warn!(%error, "runner_not_written");
        }
        if let Some(state) = &accepted {
            poll::describe(&layout, state, true);
        }
        if let Some(boot_id) = boot_id {
            shop.boot(boot_id);
        }
        let every = config.drift_check_seconds.unwrap_or(DRIFT_CHECK_S);
        if every > 0 {
            shop.watch_drift(Duration::from_secs(every.into()));
        }
        // Finishes what a crash cut off, before anything is heard from the controller.
        shop.begin();
        let service = Service::default();
        service.ready();
        let root = config.root.clone();
        let reporting = report::send_all(ledger.clone(), client.clone(), transient.clone(), root, &service);
        let renewing = Renewing::new(identity, config.bucket_id, &config.controller, client.clone(), held);
        tokio::select! {
            () = poll::poll(&config, &client, &ledger, &layout, &shop, &service) => {}
            () = service.tell(&ledger, &transient) => {}
            () = reporting => {}
            () = renewing.keep() => {}
            () = health::watch(shop.clone()) => {}
            () = by_hand::notice(shop.clone()) => {}
            () = shop.clone().send_late_after_reports() => {}
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        service.stopping();
        tracing::info!("agent_stopped");
        Ok(())
    })?;
    // Threads of make targets that still run are left: their processes and results outlive this one.
    runtime.shutdown_background();
    Ok(())
}

fn signal(kind: SignalKind) -> Result<Signal, Diagnostic> {
    tokio::signal::unix::signal(kind)
        .map_err(|error| Diagnostic::new(Code::AgentState, "signals cannot be handled").cause(&error))
}

/// Before the first desired state: nothing is wanted, nothing is removed.
fn nothing_accepted(config: &Config) -> DesiredState {
    DesiredState {
        bucket_id: config.bucket_id,
        worker_id: config.worker_id,
        host: Host::unknown(),
        labels: Vec::new(),
        fence: Fence::default(),
        issued_at_ms: 0,
        allocations: Vec::new(),
        prefetch: Vec::new(),
        operations: Vec::new(),
        hold: None,
    }
}
