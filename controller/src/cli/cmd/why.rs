//! `maand why`.

use serde_json::{Map, Value, json};
use shared::api::v1::desired::{DesiredAllocation, DesiredState};
use shared::api::v1::report::{ObservedAction, ObservedAllocation, Outcome, Process};
use shared::text::clean;
use shared::{Code, Diagnostic, Host, JobName, RelPath, WorkerId};

use crate::catalog::desired::state_word;
use crate::catalog::observed::{Agent, Contact};
use crate::catalog::rollout::{self as rollouts, Header};
use crate::catalog::{Catalog, agents, desired, gc, observed, read};
use crate::cli::Context;
use crate::cli::cmd::rollout::phase;
use crate::cli::filter::unknown;
use crate::cli::table::{Table, time};
use crate::clock;
use crate::drive::survey::Survey;
use crate::failure::{Exit, Failure};
use crate::high_water;
use crate::model::{Allocation, Snapshot};
use crate::plan::Options;
use crate::rollout::flight::{Fate, Why};
use crate::rollout::job::JobRollout;
use crate::serve::ServeLock;
use crate::why::{Conclusion, Here, Rolling, Worker, of_allocation, of_worker, planned};

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
    let known = look(&args.host, context, &mut catalog)?;
    let survey = Survey::take(&mut catalog, &Options::default(), known.worker.is_served, known.now_ms)?;
    let plan = survey.plan(&Options::default());
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
        away,
        told: told.as_ref().map(|told| told.fence),
        accepted: agent.as_ref().and_then(|agent| agent.accepted),
        refused: agent.as_ref().and_then(|agent| agent.refused.clone()),
        clock_ms: agent.as_ref().map_or(0, |agent| agent.clock_offset_ms),
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

fn outcome_word(outcome: Option<&Outcome>) -> String {
    match outcome {
        None => "running".to_owned(),
        Some(Outcome::Ok) => "ok".to_owned(),
        Some(Outcome::Failed { exit }) => format!("failed, exit {exit}"),
        Some(Outcome::TimedOut) => "took too long and was ended".to_owned(),
        Some(Outcome::Interrupted) => "cut off".to_owned(),
        Some(Outcome::Refused { reason }) => format!("refused: {}", clean(reason)),
    }
}

/// What is known of the worker, in lines.
fn of_host(known: &Read) -> Vec<(&'static str, String)> {
    let worker = &known.worker;
    let mut facts = Vec::new();
    let state = match (worker.joined, &worker.away) {
        (None, _) => "not joined".to_owned(),
        (Some(_), None) => "online".to_owned(),
        (Some(_), Some(since)) => format!("offline, {since}"),
    };
    let version = known.agent.as_ref().map(|agent| clean(&agent.version)).filter(|version| !version.is_empty());
    facts.push(("agent", version.map_or(state.clone(), |version| format!("{state} (maand-agent {version})"))));
    if let (Some(contact), None) = (known.contact, &worker.away) {
        facts.push(("last seen", time(contact.last_seen_ms)));
    }
    if let Some(end) = known.certificate_end_ms {
        facts.push(("certificate", format!("until {}", time(end))));
    }
    if known.agent.is_some() {
        facts.push(("clock", format!("{:+} ms", worker.clock_ms)));
    }
    let shown =
        |fence: Option<shared::api::v1::desired::Fence>| fence.map_or_else(|| "nothing".to_owned(), |f| f.to_string());
    let issued = known.told.as_ref().map(|told| format!(", {}", time(told.issued_at_ms))).unwrap_or_default();
    facts.push(("told", format!("{}{issued}", shown(worker.told))));
    facts.push(("accepted", shown(worker.accepted)));
    if let Some(why) = &worker.refused {
        facts.push(("refused", clean(why)));
    }
    if !worker.is_listed {
        facts.push(("workers.json", "it is not in there any more".to_owned()));
    }
    facts
}

/// What is known of one allocation, in lines.
fn of_job(known: &Read, here: &Here) -> Vec<(&'static str, String)> {
    let allocation = &here.allocation;
    let mut facts = Vec::new();
    let built = match &allocation.bundle {
        Some(bundle) => format!("{} version {}", bundle.short(), allocation.new_version),
        None => "not wanted here".to_owned(),
    };
    let at = known.snapshot.built_at_ms.map(|at| format!(", {}", time(at))).unwrap_or_default();
    facts.push(("last build", format!("{built}{at}")));
    facts.push((
        "promoted",
        match &allocation.promoted {
            Some(promoted) => format!("{} version {}", promoted.bundle.short(), promoted.version),
            None => "never".to_owned(),
        },
    ));
    facts.push(("rollout", allocation.rollout_word().to_owned()));
    facts.push(("plan", here.planned.clone().unwrap_or_else(|| "nothing to do".to_owned())));
    facts.push((
        "open rollout",
        match (&here.rolling, &known.open) {
            (Some(rolling), _) => {
                let what = if rolling.what.is_empty() { "its part is over" } else { &rolling.what };
                format!("{}: {}; {what}", rolling.run, rolling.job)
            }
            (None, Some((open, _))) => format!("{}: it has no part in it", open.run),
            (None, None) => "none".to_owned(),
        },
    ));
    let told = known.told.as_ref().and_then(|told| told.allocations.iter().find(|a| a.alloc_id == allocation.alloc_id));
    facts.push(("told", told.map_or_else(|| "nothing of it".to_owned(), told_words)));
    match &here.said {
        Some(said) => facts.extend(heard(said)),
        None => facts.push(("has", "its agent has said nothing of it".to_owned())),
    }
    facts
}

fn told_words(told: &DesiredAllocation) -> String {
    let files = told.bundle.map_or_else(|| "files as they are".to_owned(), |bundle| bundle.short());
    let action =
        told.action.as_ref().map_or_else(|| "no action".to_owned(), |action| format!("{} {}", action.kind, action.id));
    format!("{}, {files}, {action}", state_word(told.state))
}

fn heard(said: &ObservedAllocation) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let process = match said.process {
        Process::Unknown => "nothing is known of its process",
        Process::Started => "started",
        Process::Stopped => "stopped",
        Process::Failed => "its last target failed",
    };
    let has = said.bundle.map_or_else(|| "no files".to_owned(), |bundle| bundle.short());
    let version = said.version.as_deref().map(|version| format!(" version {}", clean(version))).unwrap_or_default();
    facts.push(("has", format!("{has}{version}, {process}")));
    if let Some(ObservedAction { id, outcome, started_ms, duration_ms, tail }) = &said.action {
        let word = outcome_word(outcome.as_ref());
        facts.push(("last action", format!("{id}: {word}, {} ({duration_ms} ms)", time(*started_ms))));
        for line in tail.iter().flat_map(|tail| tail.lines()) {
            facts.push(("output", format!("| {}", clean(line))));
        }
    }
    if let Some(health) = &said.health {
        let why = health.problem.as_deref().map(|why| format!(": {}", clean(why))).unwrap_or_default();
        facts.push(("health", format!("{} since {}{why}", health.state.word(), time(health.since_ms))));
    }
    if let Some(problem) = &said.problem {
        facts.push(("held up", clean(problem)));
    }
    let names = |paths: &[RelPath]| paths.iter().map(RelPath::as_str).collect::<Vec<_>>().join(", ");
    if !said.drift.is_empty() {
        facts.push(("edited there", names(&said.drift)));
    }
    if !said.unmanaged.is_empty() {
        facts.push(("unmanaged", names(&said.unmanaged)));
    }
    facts
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
