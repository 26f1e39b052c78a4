//! `maand cat agents`, and `maand agent list`, which is the same.

use serde_json::Value;
use shared::text::clean;

use crate::admission::alarm::{Alarm, Kind};
use crate::catalog::{agents, gc, holds, identities, observed, read};
use crate::cli::Context;
use crate::cli::table::{Table, time};
use crate::clock;
use crate::failure::Failure;

/// List each worker's agent: whether it is there, and what it has heard
#[derive(Debug, clap::Args)]
#[command(after_long_help = "state:\n  not joined  no agent has joined: run maand agent token HOST\n  revoked     \
    its certificates were ended, by maand agent revoke: run maand agent token HOST\n  quarantined  two machines take turns under its name: see alarm, and maand why HOST\n  online      \
    connected now\n  offline     not heard of since last_seen\n\nupdate_seq is that of the desired state which the \
    agent accepted; compare it with maand info.\ncertificate_end: agents renew by themselves, after a third of the certificate's life (agent_certs_ttl in maand.conf).\n\
    clock_ms: the worker's clock less this one.\nrefused: why the agent did not accept what it was offered.\nalarm: what is wrong \
    with its identity; maand why HOST says what to do, maand agent resolve HOST ends it.\ngone: since when \
    the worker is in workers.json no more; maand deploy and maand gc clean up there, maand agent forget where nobody can.\nheld: an \
    operator wants nothing changed there until then (maand agent hold).")]
pub struct Args {}

/// Runs it.
pub fn run(_: Args, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let (workers, gone, said, contacts, joined) = catalog.read(|tx| {
        Ok((read::workers(tx)?, gc::gone(tx)?, observed::agents(tx)?, observed::contacts(tx)?, agents::joined(tx)?))
    })?;
    let (alarms, shut_out) = catalog.read(|tx| Ok((identities::alarms(tx)?, identities::shut_out(tx)?)))?;
    let now_ms = clock::now_ms();
    let mut table = Table::new(&[
        "host",
        "state",
        "last_seen",
        "version",
        "update_seq",
        "certificate_end",
        "clock_ms",
        "refused",
        "alarm",
        "gone",
        "held",
    ]);
    let held = catalog.read(|tx| holds::held(tx, now_ms))?;
    let listed = workers.into_iter().map(|worker| (worker.worker_id, worker.host, None));
    let gone = gone.into_iter().map(|(id, host, since_ms)| (id, host, Some(since_ms)));
    for (id, host, gone_ms) in listed.chain(gone) {
        let agent = said.get(&id);
        let contact = contacts.get(&id);
        let quarantined = |id| {
            let alarms: Option<&Vec<Alarm>> = alarms.get(id);
            alarms.is_some_and(|alarms| alarms.iter().any(|alarm| alarm.kind == Kind::Quarantined))
        };
        let state = match (joined.contains_key(&id), contact) {
            (false, _) if shut_out.contains_key(&id) => "revoked",
            (false, _) => "not joined",
            (true, _) if quarantined(&id) => "quarantined",
            (true, Some(contact)) if contact.is_online(now_ms) => "online",
            (true, _) => "offline",
        };
        let moment = |at: Option<i64>| at.map_or(Value::Null, |at| time(at).into());
        table.row(vec![
            host.as_str().into(),
            state.into(),
            moment(contact.map(|contact| contact.last_seen_ms)),
            agent.map_or(Value::Null, |agent| agent.version.as_str().into()),
            agent.and_then(|agent| agent.accepted).map_or(Value::Null, |fence| fence.update_seq.into()),
            moment(joined.get(&id).copied()),
            agent.map_or(Value::Null, |agent| agent.clock_offset_ms.into()),
            agent.and_then(|agent| agent.refused.as_deref()).map_or(Value::Null, Value::from),
            alarms.get(&id).map_or(Value::Null, |alarms| {
                alarms.iter().map(|alarm| clean(&alarm.detail)).collect::<Vec<_>>().join("; ").into()
            }),
            moment(gone_ms),
            held.get(&id).map_or(Value::Null, |hold| format!("until {}: {}", time(hold.until_ms), hold.reason).into()),
        ]);
    }
    super::print(
        &table,
        context,
        "the catalog has no workers",
        "list them in workspace/workers.json and run maand build",
    )
}
