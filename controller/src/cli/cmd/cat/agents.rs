//! `maand cat agents`.

use serde_json::Value;

use crate::catalog::{agents, observed, read};
use crate::cli::Context;
use crate::cli::table::{Table, time};
use crate::clock;
use crate::failure::Failure;

/// List each worker's agent: whether it is there, and what it has heard
#[derive(Debug, clap::Args)]
#[command(after_long_help = "state:\n  not joined  no agent has joined: run maand agent token HOST\n  online      \
    connected now\n  offline     not heard of since last_seen\n\nupdate_seq is that of the desired state which the \
    agent accepted; compare it\nwith maand info.")]
pub struct Args {}

/// Runs it.
pub fn run(_: Args, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let (workers, said, contacts, joined) = catalog
        .read(|tx| Ok((read::workers(tx)?, observed::agents(tx)?, observed::contacts(tx)?, agents::joined(tx)?)))?;
    let now_ms = clock::now_ms();
    let mut table =
        Table::new(&["host", "state", "last_seen", "version", "update_seq", "certificate_end", "clock_ms", "refused"]);
    for worker in &workers {
        let id = worker.worker_id;
        let agent = said.get(&id);
        let contact = contacts.get(&id);
        let state = match (joined.contains_key(&id), contact) {
            (false, _) => "not joined",
            (true, Some(contact)) if contact.is_online(now_ms) => "online",
            (true, _) => "offline",
        };
        table.row(vec![
            worker.host.as_str().into(),
            state.into(),
            contact.map_or(Value::Null, |contact| time(contact.last_seen_ms).into()),
            agent.map_or(Value::Null, |agent| agent.version.as_str().into()),
            agent.and_then(|agent| agent.accepted).map_or(Value::Null, |fence| fence.update_seq.into()),
            joined.get(&id).map_or(Value::Null, |end| time(*end).into()),
            agent.map_or(Value::Null, |agent| agent.clock_offset_ms.into()),
            agent.and_then(|agent| agent.refused.as_deref()).map_or(Value::Null, Value::from),
        ]);
    }
    super::print(
        &table,
        context,
        "the catalog has no workers",
        "list them in workspace/workers.json and run maand build",
    )
}
