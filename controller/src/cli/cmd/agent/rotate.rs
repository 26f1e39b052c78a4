//! `maand agent rotate-ca`: replaces the authority that agents and the controller are known by.
#![expect(clippy::disallowed_methods, reason = "edge: takes away keys that are over")]

use data_encoding::HEXLOWER;
use serde_json::json;
use shared::{Code, Diagnostic, Host, token};

use crate::admission::rotation::{Progress, Rotation, behind};
use crate::catalog::{Catalog, authorities, read};
use crate::cli::Context;
use crate::cli::table::{Table, time};
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::serve::notify::wake;
use crate::tls::ca;

/// Replace the authority that agents and this controller are known by
///
/// In two steps, and nothing stops working in between: start makes a new authority, which agents come to trust beside
/// the old one, and which gives them new certificates; finish takes the old one away, and refuses to while an agent is
/// behind. Jobs' own certificates are not touched.
#[derive(Debug, clap::Subcommand)]
#[command(
    after_long_help = "When a key may have been seen by somebody, every ten years, or before the authority ends:\n  maand agent rotate-ca \
    start\n  maand agent rotate-ca status      until every worker says yes twice\n  maand agent rotate-ca finish\n  maand backup \
    FILE                 an older backup has the old key alone\n\nmaand serve, or a deploy, must run in between: agents move \
    when they are in touch."
)]
pub enum RotateCa {
    /// Make a new authority, and let agents move to it
    #[command(after_long_help = "Example:\n  maand agent rotate-ca start")]
    Start,
    /// Show how far each worker is
    #[command(
        after_long_help = "trusts       its agent knows the authority that is to stay\ncertificate  its agent shows a \
        certificate of that authority\n\nWorkers whose agents have not joined are not listed: they join with what counts then."
    )]
    Status,
    /// Take the old authority away, once every worker is done
    #[command(
        after_long_help = "Examples:\n  maand agent rotate-ca finish\n  maand agent rotate-ca finish --force-without 10.0.0.9      \
        10.0.0.9 is shut out: it needs maand agent token 10.0.0.9\n\nJoin tokens that nobody has used end with it: they name the \
        old authority."
    )]
    Finish {
        /// Workers that may be shut out; they have to join anew
        #[arg(long, value_name = "HOST", value_delimiter = ',')]
        force_without: Vec<Host>,
    },
    /// Go back to the old authority; finish then takes the new one away
    #[command(after_long_help = "Example:\n  maand agent rotate-ca abort && maand agent rotate-ca finish")]
    Abort,
}

/// Runs it.
pub fn run(command: &RotateCa, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    match command {
        RotateCa::Start => start(context, &mut catalog),
        RotateCa::Status => status(context, &mut catalog),
        RotateCa::Finish { force_without } => finish(context, &mut catalog, force_without),
        RotateCa::Abort => abort(context, &mut catalog),
    }
}

fn refused(problem: Diagnostic) -> Failure {
    Failure::new(Exit::Failed, problem)
}

fn nothing_is_on() -> Failure {
    let problem = Diagnostic::new(Code::Rotation, "the agents' authority is not being replaced");
    refused(problem.remedy("maand agent rotate-ca start begins it"))
}

fn start(context: &Context, catalog: &mut Catalog) -> Result<(), Failure> {
    let now_ms = clock::now_ms();
    let (rotation, id) = catalog.read(|tx| Ok((authorities::rotation(tx)?, read::bucket_id(tx)?)))?;
    let Some(begun) = rotation.started(now_ms) else {
        let problem = Diagnostic::new(Code::Rotation, "the agents' authority is being replaced already");
        return Err(refused(problem.remedy("maand agent rotate-ca status, then finish or abort")));
    };
    // The files first: what a row names is there. What an end in between left is taken up.
    ca::ensure_agents(&context.bucket, begun.issues, id, now_ms)?;
    let was_first = catalog.write(|tx| {
        let is_first = authorities::rotation(tx)? == rotation;
        if is_first {
            authorities::set(tx, &begun)?;
        }
        Ok(is_first)
    })?;
    if !was_first {
        let problem = Diagnostic::new(Code::Rotation, "somebody else replaces the agents' authority right now");
        return Err(refused(problem.remedy("maand agent rotate-ca status")));
    }
    wake(&context.bucket);
    super::end::log(context, "authority_rotation_started", "agents move to a new authority");
    if context.ui.wants_json() {
        context.ui.out_json(&json!({ "started": true }));
        return Ok(());
    }
    context.ui.out("a new authority for agents is made; both are trusted");
    context.ui.say("agents move to it by themselves while maand serve runs: maand agent rotate-ca status, then finish");
    Ok(())
}

/// How far everybody is with the authority that is to stay.
fn progress(context: &Context, catalog: &mut Catalog, rotation: &Rotation) -> Result<Vec<Progress>, Failure> {
    let staying = ca::agents(&context.bucket, rotation.issues)?;
    let pin = HEXLOWER.encode(&token::pin(&staying.spki));
    Ok(catalog.read(|tx| authorities::progress(tx, rotation.issues, &pin))?)
}

fn status(context: &Context, catalog: &mut Catalog) -> Result<(), Failure> {
    let rotation = catalog.read(|tx| authorities::rotation(tx))?;
    let all = progress(context, catalog, &rotation)?;
    let phase = match (rotation.other, rotation.is_aborting()) {
        (None, _) => "none",
        (Some(_), false) => "moving to the new authority",
        (Some(_), true) => "going back to the old authority",
    };
    let late = behind(&all, &[]).len();
    if context.ui.wants_json() {
        context
            .ui
            .out_json(&json!({ "phase": phase, "began": rotation.began_ms.map(time), "behind": late, "workers": all }));
        return Ok(());
    }
    context.ui.out(format_args!("rotation: {phase}"));
    if rotation.other.is_none() {
        return Ok(());
    }
    if let Some(began_ms) = rotation.began_ms {
        context.ui.out(format_args!("since {}", time(began_ms)));
    }
    let mut table = Table::new(&["host", "trusts", "certificate"]);
    let word = |is| if is { "yes" } else { "no" };
    for worker in &all {
        table.row(vec![worker.host.as_str().into(), word(worker.trusts).into(), word(worker.has_certificate).into()]);
    }
    table.print(&context.ui);
    match late {
        0 => context.ui.say("nobody is behind: maand agent rotate-ca finish"),
        n => context.ui.say(format_args!("{n} behind; maand why HOST says what keeps one")),
    }
    Ok(())
}

fn finish(context: &Context, catalog: &mut Catalog, without: &[Host]) -> Result<(), Failure> {
    let now_ms = clock::now_ms();
    let rotation = catalog.read(|tx| authorities::rotation(tx))?;
    let Some((done, over)) = rotation.finished() else {
        sweep(context, &rotation);
        return Err(nothing_is_on());
    };
    let staying = ca::agents(&context.bucket, rotation.issues)?;
    let pin = HEXLOWER.encode(&token::pin(&staying.spki));
    // Judged and decided in one step: nobody joins with the old one in between.
    let decided: Result<usize, Vec<Host>> = catalog.write(|tx| {
        if authorities::rotation(tx)? != rotation {
            return Ok(Err(Vec::new()));
        }
        let all = authorities::progress(tx, rotation.issues, &pin)?;
        let late: Vec<Host> = behind(&all, without).iter().map(|worker| worker.host.clone()).collect();
        if !late.is_empty() {
            return Ok(Err(late));
        }
        authorities::set(tx, &done)?;
        Ok(Ok(authorities::end(tx, over, over == rotation.current, now_ms)?))
    })?;
    let tokens = match decided {
        Ok(tokens) => tokens,
        Err(late) if late.is_empty() => {
            let problem = Diagnostic::new(Code::Rotation, "somebody else changed the replacement right now");
            return Err(refused(problem.remedy("maand agent rotate-ca status")));
        }
        Err(late) => {
            let names = late.iter().map(Host::as_str).collect::<Vec<_>>().join(", ");
            let problem = Diagnostic::new(Code::Rotation, format!("agents are behind: {names}"))
                .note("without the other authority they would be shut out");
            return Err(refused(problem.remedy(format_args!(
                "wait for them (maand agent rotate-ca status, maand why HOST); a worker that is gone for good: maand agent revoke HOST, \
                 or finish --force-without {names}"
            ))));
        }
    };
    wake(&context.bucket);
    sweep(context, &done);
    super::end::log(context, "authority_rotation_finished", "the other authority of agents is over");
    if context.ui.wants_json() {
        context.ui.out_json(&json!({ "finished": true, "join_tokens_ended": tokens }));
        return Ok(());
    }
    context.ui.out("the other authority is over; one is trusted");
    if tokens > 0 {
        context.ui.say(format_args!(
            "{tokens} join tokens that nobody had used are over: maand agent token HOST gives new ones"
        ));
    }
    context.ui.say("make a backup: an older one has the other key");
    Ok(())
}

fn abort(context: &Context, catalog: &mut Catalog) -> Result<(), Failure> {
    let rotation = catalog.read(|tx| authorities::rotation(tx))?;
    let Some(back) = rotation.aborted() else { return Err(nothing_is_on()) };
    catalog.write(|tx| authorities::set(tx, &back))?;
    wake(&context.bucket);
    super::end::log(context, "authority_rotation_aborted", "agents go back to the old authority");
    if context.ui.wants_json() {
        context.ui.out_json(&json!({ "aborted": true }));
        return Ok(());
    }
    context.ui.out("agents go back to the old authority; both are trusted until maand agent rotate-ca finish");
    Ok(())
}

/// Takes away the files of pairs that are over, also those that an end of an earlier finish left.
fn sweep(context: &Context, rotation: &Rotation) {
    for number in (1..=rotation.last).filter(|number| !rotation.trusted().any(|trusted| trusted == *number)) {
        let (certificate, key) = context.bucket.agent_ca(number);
        for path in [key, certificate] {
            drop(std::fs::remove_file(path));
        }
    }
}
