//! `maand why`.

mod facts;

use serde_json::{Map, Value, json};
use shared::api::v1::desired::DesiredState;
use shared::text::clean;
use shared::{Code, Diagnostic, Host, JobName, WorkerId};

use crate::catalog::observed::{Agent, Contact};
use crate::catalog::rollout::{self as rollouts, Header};
use crate::catalog::{Catalog, agents, desired, gc, holds, identities, observed, read};
use crate::cli::Context;
use crate::cli::cmd::rollout::phase;
use crate::cli::filter::unknown;
use crate::cli::table::{Table, time};
use crate::clock;
use crate::drive::held_words;
use crate::drive::survey::Survey;
use crate::failure::{Exit, Failure};
use crate::high_water;
use crate::model::{Allocation, Snapshot};
use crate::plan::Options;
use crate::rollout::flight::{Fate, Why};
use crate::rollout::job::JobRollout;
use crate::serve::ServeLock;
use crate::why::{Conclusion, Here, Rolling, Worker, of_allocation, of_worker, planned};
use facts::{of_host, of_job, outcome_word};

/// Say why a worker, or a job on it, is not where you want it, and what to do
///
/// Puts together what the controller wants and what the agent said: the last build, what a deploy would do, the
/// rollout that is open, what the worker was told and has accepted, what is in place there and how its last
/// action went. The last two lines are the answer.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand why 10.0.0.1            the worker, and each of its jobs in a line\n  maand why 10.0.0.1 api        \
    all that is known of that job there\n  maand why 10.0.0.1 --json | jq -r '.jobs[] | select(.do) | .job'\n\nIt looks at rows \
    and asks nobody: maand agent ping 10.0.0.1 asks the agent."
)]
pub struct Args {
    /// The worker's name in workers.json
    host: String,
    /// One of its jobs
    job: Option<String>,
}

/// All that is read.
struct Read {
    snapshot: Snapshot,
    id: WorkerId,
    host: Host,
    worker: Worker,
    told: Option<DesiredState>,
    agent: Option<Agent>,
    contact: Option<Contact>,
    certificate_end_ms: Option<i64>,
    open: Option<(Header, Vec<JobRollout>)>,
    now_ms: i64,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let mut known = look(&args.host, context, &mut catalog)?;
    let survey = Survey::take(&mut catalog, &Options::default(), known.worker.is_served, known.now_ms)?;
    let plan = survey.plan(&Options::default());
    known.worker.lacking = survey.lacking.get(&known.id).cloned().unwrap_or_default();
    let said = catalog.read(|tx| observed::allocations(tx))?;
    let mut all: Vec<Here> = survey
        .snapshot
        .allocations
        .iter()
        .filter(|a| a.worker_id == known.id)
        .map(|allocation| Here {
            allocation: allocation.clone(),
            said: said.get(&allocation.alloc_id).cloned(),
            rolling: rolling(&known, allocation),
            planned: planned(&plan, allocation.alloc_id),
        })
        .collect();
    if let Some(job) = &args.job {
        if !all.iter().any(|here| here.allocation.job.as_str() == job) {
            return Err(not_there(&known, job, &all));
        }
        all.retain(|here| here.allocation.job.as_str() == job);
    }
    let of_host = of_worker(&known.worker);
    let answers: Vec<Conclusion> = all.iter().map(|here| of_allocation(&known.worker, here)).collect();
    let whole = of_host.or_else(|| answers.iter().find(|a| a.remedy.is_some()).cloned());
    let whole = match args.job.is_some() {
        true => answers.first().cloned(),
        false => whole,
    };
    let whole = whole.unwrap_or_else(|| {
        let so = if all.is_empty() {
            "its agent is there, and no job is wanted on it"
        } else {
            "everything on it is in sync"
        };
        Conclusion { so: so.to_owned(), remedy: None }
    });
    if context.ui.wants_json() {
        print_json(context, &known, &all, &answers, &whole);
    } else {
        print(context, &known, &all, &answers, &whole, args.job.is_some());
    }
    Ok(())
}

fn look(host: &str, context: &Context, catalog: &mut Catalog) -> Result<Read, Failure> {
    let is_regressed = !high_water::evidence(&context.bucket, catalog)?.is_empty();
    let is_served = ServeLock::is_held(&context.bucket);
    let now_ms = clock::now_ms();
    let (snapshot, gone) = catalog.read(|tx| Ok((read::snapshot(tx)?, gc::gone(tx)?)))?;
    let listed = snapshot.workers.iter().map(|w| (w.worker_id, w.host.clone(), true));
    let every: Vec<(WorkerId, Host, bool)> =
        listed.chain(gone.into_iter().map(|(id, host, _)| (id, host, false))).collect();
    let Some((id, host, is_listed)) = every.iter().find(|(_, name, _)| name.as_str() == host).cloned() else {
        let known = every.iter().map(|(_, name, _)| name.as_str());
        return Err(Failure::new(Exit::Usage, unknown("worker", host, known)));
    };
    let (told, agent, contact, end, open) = catalog.read(|tx| {
        let open = match rollouts::open(tx)? {
            Some(open) => Some((open.clone(), rollouts::load_jobs(tx, open.run)?)),
            None => None,
        };
        let contact = observed::contacts(tx)?.remove(&id);
        Ok((desired::state(tx, id)?, observed::agents(tx)?.remove(&id), contact, agents::joined(tx)?.remove(&id), open))
    })?;
    let held = catalog.read(|tx| holds::held(tx, now_ms))?.remove(&id);
    let (mut alarms, mut shut_out) = catalog.read(|tx| Ok((identities::alarms(tx)?, identities::shut_out(tx)?)))?;
    let away = match contact {
        Some(contact) if contact.is_online(now_ms) => None,
        Some(contact) => Some(format!("last seen {}", time(contact.last_seen_ms))),
        None => Some("never seen".to_owned()),
    };
    let worker = Worker {
        host: host.clone(),
        is_listed,
        is_regressed,
        is_served,
        joined: end.map(|end| end <= now_ms),
        shut_out: shut_out.remove(&id).map(|(at_ms, why)| format!("{}, {}", clean(&why), time(at_ms))),
        alarms: alarms.remove(&id).unwrap_or_default(),
        away,
        told: told.as_ref().map(|told| told.fence),
        accepted: agent.as_ref().and_then(|agent| agent.accepted),
        refused: agent.as_ref().and_then(|agent| agent.refused.clone()),
        clock_ms: agent.as_ref().map_or(0, |agent| agent.clock_offset_ms),
        lacking: Vec::new(),
        held: held.map(|hold| held_words(&hold)),
    };
    Ok(Read { snapshot, id, host, worker, told, agent, contact, certificate_end_ms: end, open, now_ms })
}

fn not_there(known: &Read, job: &str, all: &[Here]) -> Failure {
    let host = &known.host;
    if known.snapshot.jobs.iter().any(|known| known.name.as_str() == job) {
        let problem = Diagnostic::new(Code::UnknownName, format!("job {job} is not placed on {host}"))
            .note("it goes to the workers that have all of its selectors among their labels");
        return Failure::new(
            Exit::Usage,
            problem.remedy("compare maand cat jobs with maand cat workers, then maand build"),
        );
    }
    Failure::new(Exit::Usage, unknown("job", job, all.iter().map(|here| here.allocation.job.as_str())))
}

/// Its place in the rollout that is open.
fn rolling(known: &Read, allocation: &Allocation) -> Option<Rolling> {
    let (open, jobs) = known.open.as_ref()?;
    let job = jobs.iter().find(|job| job.plan.job == allocation.job)?;
    job.members().find(|(alloc, _)| *alloc == allocation.alloc_id)?;
    let since = |ms: i64| format!("since {}", time(ms));
    let (what, is_over) = match job.flights.get(&allocation.alloc_id) {
        None => ("its turn has not come".to_owned(), job.is_ended()),
        Some(flight) => match (&flight.fate, flight.picked_up_ms) {
            (None, None) => (format!("its agent has not picked it up, {}", since(flight.released_ms)), false),
            (None, Some(at)) => (format!("its agent is at it, {}", since(at)), false),
            (Some(Fate::Ran), _) => ("it ran, and its gate is waited for".to_owned(), false),
            (Some(Fate::Failed { why }), _) => (failure(why), true),
            (Some(Fate::Settled | Fate::Deferred | Fate::Left), _) => (String::new(), true),
        },
    };
    let is_held = !open.is_driven(known.now_ms);
    Some(Rolling { run: open.run.to_string(), is_held, is_over, job: phase(job), what })
}

fn failure(why: &Why) -> String {
    match why {
        Why::NoResult { .. } => "no result came".to_owned(),
        Why::Outcome { outcome, .. } => outcome_word(Some(outcome)),
        Why::Unhealthy { problem } | Why::Hook { problem } => clean(problem),
    }
}

fn print(context: &Context, known: &Read, all: &[Here], answers: &[Conclusion], whole: &Conclusion, detailed: bool) {
    let line = |(name, text): &(&str, String)| context.ui.out(format_args!("  {name:<12} {text}"));
    context.ui.out(&known.host);
    of_host(known).iter().for_each(line);
    if detailed {
        for here in all {
            context.ui.out(format_args!("{} on {}", here.allocation.job, known.host));
            of_job(known, here).iter().for_each(line);
        }
    } else if !all.is_empty() {
        let mut table = Table::new(&["job", "rollout", "so"]);
        for (here, answer) in all.iter().zip(answers) {
            let allocation = &here.allocation;
            table.row(vec![
                allocation.job.as_str().into(),
                allocation.rollout_word().into(),
                answer.so.as_str().into(),
            ]);
        }
        table.print(&context.ui);
    }
    context.ui.out(format_args!("so: {}", whole.so));
    context.ui.out(format_args!("do: {}", whole.remedy.as_deref().unwrap_or("nothing")));
}

fn print_json(context: &Context, known: &Read, all: &[Here], answers: &[Conclusion], whole: &Conclusion) {
    // Lines of the same name, as those of an output, become one text.
    let object = |facts: Vec<(&'static str, String)>| -> Value {
        let mut map: Map<String, Value> = Map::new();
        for (name, text) in facts {
            let name = name.replace([' ', '.'], "_");
            let text = match map.get(&name).and_then(Value::as_str) {
                Some(before) => format!("{before}\n{text}"),
                None => text,
            };
            map.insert(name, text.into());
        }
        Value::Object(map)
    };
    let jobs: Vec<Value> = all
        .iter()
        .zip(answers)
        .map(|(here, answer)| {
            let job: &JobName = &here.allocation.job;
            json!({ "job": job, "facts": object(of_job(known, here)), "so": answer.so, "do": answer.remedy })
        })
        .collect();
    context.ui.out_json(&json!({ "host": known.host, "facts": object(of_host(known)), "jobs": jobs, "so": whole.so, "do": whole.remedy }));
}
