//! `maand agent ping`.
#![expect(clippy::disallowed_methods, reason = "edge: waits for an agent")]

use std::time::Duration;

use serde_json::json;
use shared::text::clean;
use shared::{Code, Diagnostic, WorkerId};

use crate::catalog::observed::Agent;
use crate::catalog::{Catalog, agents, observed, publish, read};
use crate::cli::Context;
use crate::cli::meanwhile::Meanwhile;
use crate::cli::table::time;
use crate::clock;
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::serve::notify::wake;

/// How often its report is looked for.
const LOOK: Duration = Duration::from_millis(2);

/// Ask an agent for a sign of life, and wait for it
///
/// Its worker's desired state is handed out anew, with the same content under the next generation, and the
/// report of the agent that it accepted it is waited for: both directions work, and so does its disk. Nothing
/// is run.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Example:\n  maand agent ping 10.0.0.1\n\nAn agent with poll_interval_seconds answers when it asks the next \
    time: give --timeout as long.\nWhen no maand serve runs, this serves agents for as long as it waits."
)]
pub struct Ping {
    /// The worker's name in workers.json
    host: String,
    /// Seconds to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
}

/// Runs it.
pub fn run(args: &Ping, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    super::super::recover::refuse_regressed(context, &mut catalog)?;
    let snapshot = catalog.read(|tx| read::snapshot(tx))?;
    let worker = super::worker(&snapshot, &args.host)?.clone();
    let (id, host) = (worker.worker_id, &worker.host);
    if !catalog.read(|tx| agents::is_joined(tx, id))? {
        let problem = Diagnostic::new(Code::NotJoined, format!("no agent has joined for {host}"));
        let remedy = format!("run `maand agent token {host}`, and on that worker the line that it prints");
        return Err(Failure::new(Exit::Failed, problem.remedy(remedy)));
    }
    let runtime = context.runtime()?;
    let settings = Settings::load(&context.bucket)?;
    let meanwhile = Meanwhile::serve(context, &settings, &runtime)?;
    let begin = clock::instant();
    let fence = catalog.write(|tx| {
        let now_ms = clock::now_ms();
        match publish::move_generation(tx, id, now_ms)? {
            Some(fence) => Ok(Some(fence)),
            // It was never told anything: now it is told that it is nobody's worker yet.
            None => {
                publish::name(tx, &worker, snapshot.epoch, snapshot.update_seq, now_ms)?;
                publish::move_generation(tx, id, now_ms)
            }
        }
    })?;
    wake(&context.bucket);
    let limit = Duration::from_secs(args.timeout.into());
    let heard = loop {
        let agent = said(&mut catalog, id)?;
        if agent.as_ref().is_some_and(|agent| agent.accepted >= fence) {
            break agent;
        }
        if begin.elapsed() >= limit {
            break None;
        }
        std::thread::sleep(LOOK);
    };
    let waited = begin.elapsed();
    meanwhile.end();
    let Some(agent) = heard else {
        return Err(silent(&mut catalog, context, &args.host, id, args.timeout)?);
    };
    let ms = waited.as_secs_f64() * 1000.0;
    if context.ui.wants_json() {
        context
            .ui
            .out_json(&json!({ "host": host, "milliseconds": (ms * 10.0).round() / 10.0, "version": agent.version,
            "clock_ms": agent.clock_offset_ms, "accepted": agent.accepted.map(|fence| fence.to_string()) }));
        return Ok(());
    }
    let clock = agent.clock_offset_ms;
    context
        .ui
        .out(format_args!("{host}: heard in {ms:.1} ms (maand-agent {}, clock {clock:+} ms)", clean(&agent.version)));
    Ok(())
}

fn said(catalog: &mut Catalog, id: WorkerId) -> Result<Option<Agent>, Failure> {
    Ok(catalog.read(|tx| observed::agents(tx))?.remove(&id))
}

/// Why nothing was heard, as far as it is known.
fn silent(catalog: &mut Catalog, context: &Context, host: &str, id: WorkerId, limit: u32) -> Result<Failure, Failure> {
    let contact = catalog.read(|tx| observed::contacts(tx))?.remove(&id);
    let refused = said(catalog, id)?.and_then(|agent| agent.refused);
    if let Some(why) = refused {
        let problem =
            Diagnostic::new(Code::Refused, format!("the agent of {host} refuses what it is told: {}", clean(&why)));
        return Ok(Failure::new(Exit::Failed, problem.remedy(format_args!("maand why {host}"))));
    }
    let url = Settings::load(&context.bucket)?.advertised();
    let problem = Diagnostic::new(Code::AgentOffline, format!("the agent of {host} was not heard within {limit} s"));
    let problem = match contact {
        Some(contact) => problem.note(format!("last seen {}", time(contact.last_seen_ms))),
        None => problem.note("it has never been seen"),
    };
    Ok(Failure::new(
        Exit::Failed,
        problem.remedy(format_args!("look there at: systemctl status maand-agent; it must reach {url}")),
    ))
}
