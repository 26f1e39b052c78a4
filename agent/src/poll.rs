//! Edge: the agent's main task: asks for the desired state, accepts it durably, hands it to the
//! workshop. Whatever the controller fails to say stops changes, never what runs.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shared::BlobDigest;
use shared::api::v1::MAX_WAIT_S;
use shared::api::v1::desired::{DesiredState, Envelope, RunState};
use shared::backoff::Backoff;
use shared::diagnostic::chain;

use crate::client::{Answer, Client, Failed, Polled};
use crate::config::Config;
use crate::reconcile::grant::Grant;
use crate::reconcile::{Accepted, Verdict, verdict};
use crate::service::{Loop, Service};
use crate::state::durable;
use crate::state::layout::Layout;
use crate::state::ledger::Ledger;
use crate::work::Workshop;
use crate::{clock, failpoint};

/// Longest time that one round takes beside its wait: connecting, the answer, asking once more, a pause after trouble.
const EXCHANGE: Duration = Duration::from_secs(150);
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// Polls for ever.
pub async fn poll(
    config: &Config,
    client: &Client,
    ledger: &Ledger,
    layout: &Layout,
    shop: &Arc<Workshop>,
    service: &Service,
) {
    let mut attempt = 0;
    let mut said = String::new();
    let mut reached = false;
    loop {
        let last = match ledger.last() {
            Ok(last) => last.map(|last| last.accepted),
            Err(error) => {
                tracing::error!(error = chain(&error), "ledger_unreadable");
                tokio::time::sleep(RETRY.delay(attempt, clock::random())).await;
                attempt = attempt.saturating_add(1);
                continue;
            }
        };
        let wait = match config.poll_interval_seconds {
            Some(_) => 0,
            // Back again: known at once, not when the first long poll is over.
            None if !reached => 0,
            // Spread, so that a fleet that came back together does not stay together.
            None => MAX_WAIT_S - (clock::random() * 5.0) as u64,
        };
        service.back_within(Loop::Poll, Duration::from_secs(wait) + EXCHANGE);
        let pause = match client.desired(last.map(|last| last.fence), wait).await {
            Ok(answer) => {
                service.controller(None);
                if !reached {
                    reached = true;
                    shop.send_late();
                    shop.try_again();
                    // It may be another one by now, or have an older catalog: it is told everything anew.
                    shop.transient.report_now();
                }
                if !said.is_empty() {
                    tracing::info!("controller_reached");
                    said.clear();
                }
                if let Some(clock_ms) = answer.clock_ms {
                    shop.heard(clock_ms);
                }
                match answer.polled {
                    Polled::Newer(envelope) => {
                        let is_taken = offered(config, client, ledger, layout, shop, last.as_ref(), envelope).await;
                        // The controller would offer the same again at once.
                        let delay = (!is_taken).then(|| RETRY.delay(attempt, clock::random()));
                        attempt = if is_taken { 0 } else { attempt.saturating_add(1) };
                        delay.max(config.poll_interval_seconds.map(|s| Duration::from_secs(s.into())))
                    }
                    Polled::Nothing { pause, .. } => {
                        attempt = 0;
                        // It ends, and is away for a while without a poll that fails.
                        reached &= pause.is_none();
                        pause.or(config.poll_interval_seconds.map(|s| Duration::from_secs(s.into())))
                    }
                }
            }
            Err(error) => {
                let text = chain(&error);
                reached = false;
                // Once for each kind of trouble, not once for each try.
                if text != said {
                    tracing::warn!(error = text, "poll_failed");
                    service.controller(Some(&text));
                    said = text;
                }
                let delay = RETRY.delay(attempt, clock::random());
                attempt = attempt.saturating_add(1);
                // Not wanted there: asking often changes nothing.
                let patient = matches!(error, Failed::Refused { status: 401 | 403, .. });
                Some(if patient { delay.max(Duration::from_secs(5)) } else { delay })
            }
        };
        if let Some(pause) = pause {
            service.back_within(Loop::Poll, pause);
            tokio::time::sleep(pause).await;
        }
    }
}

/// Whether `offered` is about more than fences and names: something of an allocation is to change.
fn brings_work(ledger: &Ledger, offered: &DesiredState) -> bool {
    let known = ledger.accepted().ok().flatten();
    let known = known.and_then(|(_, payload)| serde_json::from_slice::<DesiredState>(&payload).ok());
    known.map_or(!offered.allocations.is_empty(), |known| known.allocations != offered.allocations)
}

/// False when the document is not taken, whatever the reason: it has to be asked for again, later.
async fn offered(
    config: &Config,
    client: &Client,
    ledger: &Ledger,
    layout: &Layout,
    shop: &Arc<Workshop>,
    last: Option<&Accepted>,
    envelope: Envelope,
) -> bool {
    let refuse = |why: String| {
        tracing::error!(reason = why, "desired_refused");
        shop.transient.refused(Some(why));
        false
    };
    let (payload, state) = match envelope.opened() {
        Ok(opened) => opened,
        Err(why) => return refuse(why),
    };
    let hash = *BlobDigest::of(&payload).as_bytes();
    let asked = clock::moment();
    let mut grant = None;
    if brings_work(ledger, &state) {
        // It may have lain in a socket while this process or its machine stood still, and be taken back since:
        // what is not the newest any more is not begun.
        match client.desired(Some(state.fence), 0).await {
            Ok(Answer { polled: Polled::Nothing { lease_ms, .. }, .. }) => {
                let given = Grant { fence: state.fence, asked, lease_ms };
                if !given.covers(state.fence, clock::moment()) {
                    tracing::info!(fence = %state.fence, lease_ms, "desired_unconfirmed");
                    return false;
                }
                grant = Some(given);
            }
            Ok(_) => {
                tracing::info!(fence = %state.fence, "desired_superseded");
                return true;
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), fence = %state.fence, "desired_unconfirmed");
                return false;
            }
        }
    }
    match verdict(config.bucket_id, config.worker_id, last, &state, &hash) {
        Verdict::Same => true,
        Verdict::Refuse(why) => refuse(why),
        Verdict::Accept => {
            if let Err(error) = ledger.accept(&Accepted { fence: state.fence, hash }, &payload) {
                tracing::error!(error = chain(&error), "accept_failed");
                // A report needs no disk: whoever looks there learns of it.
                shop.transient.refused(Some(format!("{} cannot be written down: {}", state.fence, chain(&error))));
                return false;
            }
            tracing::info!(fence = %state.fence, "desired_accepted");
            shop.transient.refused(None);
            // Ad-hoc work changes nothing that jobs.json says.
            describe(layout, &state, !state.is_same_but_for_operations(&shop.desired()));
            if let Some(grant) = grant {
                shop.confirmed(grant);
                failpoint::hit("accept::granted");
            }
            shop.set(state);
            true
        }
    }
}

/// worker.json and jobs.json, for people and scripts; after the state that they describe is accepted,
/// and again when the agent starts. `whole`: jobs.json too.
pub fn describe(layout: &Layout, state: &DesiredState, whole: bool) {
    let worker = json!({
        "bucket_id": state.bucket_id,
        "worker_id": state.worker_id,
        "worker_ip": state.host,
        "labels": state.labels,
        "update_seq": state.fence.update_seq,
        "epoch": state.fence.epoch,
        "generation": state.fence.generation,
    });
    let here = state.allocations.iter().filter(|a| matches!(a.state, RunState::Running | RunState::Stopped));
    let jobs: Vec<_> = here.map(|a| json!({ "job": a.job, "disabled": u8::from(a.disabled) })).collect();
    let files = [(layout.worker_json(), worker), (layout.jobs_json(), json!(jobs))];
    for (path, value) in files.into_iter().take(if whole { 2 } else { 1 }) {
        let mut text = Vec::new();
        let indented = serde_json::ser::PrettyFormatter::with_indent(b"   ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, indented);
        let written = serde::Serialize::serialize(&value, &mut serializer).map_err(std::io::Error::other);
        text.push(b'\n');
        if let Err(error) = written.and_then(|()| durable::write_soon(&path, &text, 0o644)) {
            tracing::warn!(path = %path.display(), %error, "description_not_written");
        }
    }
}
