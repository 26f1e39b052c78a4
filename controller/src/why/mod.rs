//! Decides why a worker is not where the operator wants it: one answer out of what both ends know, the first
//! thing that stands in the way, and what to do about it.

use shared::api::v1::desired::Fence;
use shared::api::v1::health::HealthState;
use shared::api::v1::report::{ObservedAllocation, Outcome, Phase, Process};
use shared::text::clean;
use shared::{AllocId, BundleDigest, Host, RelPath};

use crate::admission::alarm::Alarm;
use crate::model::{Allocation, PostDeploy};
use crate::plan::{Plan, Rest};

/// A clock that is off by more is worth a word, milliseconds. maand itself bears a day.
pub const CLOCK_MS: i64 = 30_000;

/// What is known of a worker and its agent.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its name.
    pub host: Host,
    /// It is in workers.json.
    pub is_listed: bool,
    /// The catalog is older than what agents were told.
    pub is_regressed: bool,
    /// A maand serve runs.
    pub is_served: bool,
    /// An agent has joined for it: whether its certificate has ended.
    pub joined: Option<bool>,
    /// Its certificates were ended: when and why, in words.
    pub shut_out: Option<String>,
    /// What is wrong with its identity.
    pub alarms: Vec<Alarm>,
    /// Whether it is there; since when not, in words.
    pub away: Option<String>,
    /// What it was told last.
    pub told: Option<Fence>,
    /// What it accepted last.
    pub accepted: Option<Fence>,
    /// Why it refused what it was offered last.
    pub refused: Option<String>,
    /// Its clock less ours, milliseconds.
    pub clock_ms: i64,
    /// What make targets need and it has not, as its agent said.
    pub lacking: Vec<&'static str>,
    /// An operator wants nothing changed on it, in these words.
    pub held: Option<String>,
}

/// What is known of one of its allocations.
#[derive(Debug, Clone)]
pub struct Here {
    /// What the catalog has.
    pub allocation: Allocation,
    /// What its agent said last.
    pub said: Option<ObservedAllocation>,
    /// The rollout that is open has to do with it.
    pub rolling: Option<Rolling>,
    /// What a deploy would do with it; `None` when nothing.
    pub planned: Option<String>,
}

/// An allocation's place in the rollout that is open.
#[derive(Debug, Clone)]
pub struct Rolling {
    /// Its id, shortened as `maand rollout show` takes it.
    pub run: String,
    /// Nobody drives it: an operator has to go on with it, or `maand drive`.
    pub is_held: bool,
    /// Whether this allocation's part is over.
    pub is_over: bool,
    /// How far its job is.
    pub job: String,
    /// What is known of this allocation in it.
    pub what: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Conclusion {
    /// What stands in the way, or that nothing does.
    pub so: String,
    /// What to do; `None` when nothing.
    #[serde(rename = "do")]
    pub remedy: Option<String>,
}

fn so(what: impl Into<String>, remedy: impl Into<String>) -> Option<Conclusion> {
    Some(Conclusion { so: what.into(), remedy: Some(remedy.into()) })
}

/// What stands in the way of everything on a worker; `None` when nothing does.
pub fn of_worker(worker: &Worker) -> Option<Conclusion> {
    let host = &worker.host;
    if worker.is_regressed {
        return so("the catalog is older than what agents have been told, so they are told nothing", "maand recover");
    }
    // Somebody else may be at work under its name: more than that it is away, or new.
    if let Some(alarm) = worker.alarms.iter().find(|alarm| alarm.kind.is_grave()) {
        return so(clean(&alarm.detail), alarm.kind.remedy(host.as_str()));
    }
    match worker.joined {
        None if worker.is_listed && worker.shut_out.is_some() => {
            let when = worker.shut_out.as_deref().unwrap_or_default();
            return so(
                format!("the certificates of its agent were ended ({when}), so it is not let in"),
                format!(
                    "to let it back in: maand agent token {host}, and there the line that it prints, with --replace"
                ),
            );
        }
        None if worker.is_listed && !worker.alarms.is_empty() => {
            let alarm = worker.alarms.first().map(|alarm| clean(&alarm.detail)).unwrap_or_default();
            return so(
                format!("no agent has joined for {host}: {alarm}"),
                format!("maand agent token {host} gives a new token; run the line that it prints on that worker"),
            );
        }
        None if !worker.is_listed => {
            return so(format!("{host} is not in workers.json, and no agent speaks for it"), "maand gc");
        }
        None => {
            return so(
                format!("no agent has joined for {host}"),
                format!("run `maand agent token {host}`, and on that worker the line that it prints"),
            );
        }
        Some(true) => {
            return so(
                "the certificate of its agent has ended, and it has not asked for a new one",
                format!(
                    "start maand-agent on {host}, which gets one for its key; if that is lost: maand agent token {host}, and \
                     there the line that it prints, with --replace"
                ),
            );
        }
        Some(false) => {}
    }
    if let Some(why) = &worker.refused {
        return so(
            format!("its agent refuses what it is told: {}", clean(why)),
            "look at its log (journalctl -u maand-agent); after a restored backup: maand recover",
        );
    }
    if let Some(since) = &worker.away {
        if !worker.is_served {
            return so(
                "no maand serve runs: agents hear nothing",
                "start maand serve, or maand deploy, which serves meanwhile",
            );
        }
        let clock = if worker.clock_ms.abs() > CLOCK_MS {
            format!("; its clock was {} s off", worker.clock_ms / 1000)
        } else {
            String::new()
        };
        return so(
            format!("its agent is offline ({since}){clock}"),
            format!("start maand-agent on {host}; maand agent ping {host} says when it is heard"),
        );
    }
    if worker.told.is_some() && worker.accepted < worker.told {
        let accepted = worker.accepted.map_or_else(|| "nothing".to_owned(), |fence| fence.to_string());
        let told = worker.told.unwrap_or_default();
        return so(
            format!("its agent is there and behind: it accepted {accepted}, it was told {told}"),
            format!("maand agent ping {host}; if that takes long, look at its log on the worker"),
        );
    }
    if let Some(words) = &worker.held {
        return so(format!("it is {words}"), format!("wait for that, or maand agent unhold {host}"));
    }
    if worker.clock_ms.abs() > CLOCK_MS {
        let seconds = worker.clock_ms / 1000;
        return so(
            format!("its clock is {seconds:+} s off: what it logs has wrong times; beyond a day it is not let in"),
            "set up time synchronisation there",
        );
    }
    if !worker.lacking.is_empty() {
        return so(
            format!("{host} has no {}: make targets cannot run there", worker.lacking.join(" and no ")),
            format!("install it there; maand agent ping {host} has its agent look again"),
        );
    }
    None
}

/// The answer for one allocation.
pub fn of_allocation(worker: &Worker, here: &Here) -> Conclusion {
    let allocation = &here.allocation;
    let resting = at_rest(allocation, here);
    // What is at rest as it should be needs nobody.
    if let Some(Conclusion { remedy: None, .. }) = &resting {
        return resting.unwrap_or_else(fine);
    }
    of_worker(worker)
        .or_else(|| rolling(here))
        .or(resting)
        .or_else(|| held(here))
        .or_else(|| outdated(here))
        .or_else(|| unwell(here))
        .unwrap_or_else(fine)
}

fn fine() -> Conclusion {
    Conclusion { so: "in sync: it runs what was promoted, and what the last build made".to_owned(), remedy: None }
}

fn at_rest(allocation: &Allocation, here: &Here) -> Option<Conclusion> {
    let deploy = "maand deploy";
    if allocation.removed {
        return match &allocation.rolled {
            Some(rolled) if rolled.may_run => so("it is no longer wanted here and may still run", deploy),
            Some(_) => so("it is no longer wanted here and is stopped; its files are still there", deploy),
            None => so(
                "it is no longer wanted here: stopped, its files gone; data/ and logs/ are kept",
                "maand gc takes those away",
            ),
        };
    }
    if allocation.disabled {
        if allocation.may_run() {
            return so("it is drained (disabled.json) and not known to be stopped yet", deploy);
        }
        if here.planned.is_some() {
            return so("it is drained and stopped, and has older files than the last build made", deploy);
        }
        let what = "it is drained (disabled.json): stopped, its files stay".to_owned();
        return Some(Conclusion { so: what, remedy: None });
    }
    None
}

fn rolling(here: &Here) -> Option<Conclusion> {
    let rolling = here.rolling.as_ref().filter(|rolling| !rolling.is_over)?;
    let (run, job, what) = (&rolling.run, &rolling.job, &rolling.what);
    if rolling.is_held {
        return so(
            format!("a deploy is open and nobody drives it (rollout {run}, {job}): {what}"),
            "maand deploy goes on with it, maand rollout abort ends it",
        );
    }
    so(format!("a deploy is under way (rollout {run}, {job}): {what}"), "maand rollout watch")
}

/// What keeps it from having what was released to it.
fn held(here: &Here) -> Option<Conclusion> {
    let allocation = &here.allocation;
    if let Some(said) = &here.said {
        if let Some(problem) = &said.problem {
            return so(
                format!("its agent is held up: {}", clean(problem)),
                "put that right on the worker; the agent tries again by itself",
            );
        }
        if let Some(boot) = said.boot.as_ref().filter(|_| said.process != Process::Started) {
            let log = format!("logs/{}.log; maand job start brings it up", allocation.host);
            match &boot.outcome {
                None if boot.started_ms == 0 => {
                    return so("its machine was booted, and its start waits for its turn", "wait for it");
                }
                None => return so("its machine was booted, and it is being started", "wait for it"),
                Some(Outcome::Failed { exit }) => {
                    return so(format!("its machine was booted, and its start failed, exit {exit}"), log);
                }
                Some(Outcome::TimedOut) => {
                    return so("its machine was booted, and its start took too long and was ended", log);
                }
                Some(Outcome::Interrupted) => {
                    return so("its machine was booted, and its start was cut off with the agent", log);
                }
                Some(Outcome::Refused { reason }) => {
                    return so(format!("its machine was booted, and its start was refused: {}", clean(reason)), log);
                }
                Some(Outcome::Ok) => {}
            }
        }
        let doing = match said.phase {
            Phase::Fetching => Some("fetching its files"),
            Phase::Applying => Some("putting its files in place"),
            Phase::Running => Some("running a make target"),
            Phase::Idle => None,
        };
        if let Some(doing) = doing {
            return so(format!("its agent is {doing}"), "wait for it; maand agent ping shows that it is alive");
        }
    }
    if let Some(deferral) = allocation.rolled.as_ref().and_then(|rolled| rolled.deferred.as_ref()) {
        return so(
            format!(
                "a deploy went on without it, its agent was out of reach; {} waits for it",
                deferral.bundle.short()
            ),
            "maand drive (or maand serve --drive) brings it up to date, maand deploy does at once",
        );
    }
    let outcome = here.said.as_ref().and_then(|said| said.action.as_ref()).and_then(|action| action.outcome.as_ref());
    let is_proved = allocation.promoted.is_some() && here.said.as_ref().is_some_and(|s| s.process == Process::Started);
    let rerun = "correct it, then maand build && maand deploy";
    match outcome {
        Some(Outcome::Failed { exit }) => so(format!("its last make target failed, exit {exit}"), rerun),
        Some(Outcome::TimedOut) => so("its last make target took too long and was ended", rerun),
        Some(Outcome::Interrupted) => {
            so("its last make target was cut off, and nobody knows how it went", "maand deploy")
        }
        Some(Outcome::Refused { reason }) => so(format!("its agent refused its last action: {}", clean(reason)), rerun),
        Some(Outcome::Ok) if is_proved && allocation.rolled.as_ref().is_some_and(|rolled| rolled.health_failed) => {
            so("it was started and did not become healthy in time, so it is not promoted", rerun)
        }
        Some(Outcome::Ok) | None => None,
    }
}

/// What the last build made, and no deploy has brought here.
fn outdated(here: &Here) -> Option<Conclusion> {
    let allocation = &here.allocation;
    let dry = "maand deploy --dry-run shows it, maand deploy does it";
    let Some(promoted) = &allocation.promoted else { return so("it is built and was never deployed here", dry) };
    if allocation.start_pending || !allocation.may_run() {
        return so("it is wanted again and was not started since", dry);
    }
    if promoted.version != allocation.new_version && allocation.bundle == Some(promoted.bundle) {
        let (from, to) = (&promoted.version, &allocation.new_version);
        return so(format!("version {to} is built and not deployed; {from} is promoted"), dry);
    }
    if allocation.differs() {
        let built = allocation.bundle.map_or_else(|| "-".to_owned(), |bundle| bundle.short());
        return so(format!("{built} is built and not deployed; {} is promoted", promoted.bundle.short()), dry);
    }
    None
}

/// What is wrong with it although it was promoted.
fn unwell(here: &Here) -> Option<Conclusion> {
    let (allocation, promoted) = (&here.allocation, here.allocation.promoted.as_ref()?);
    let job = &allocation.job;
    let again = format!("maand deploy --force --jobs {job}");
    let Some(said) = &here.said else {
        return so("its agent has not said anything of it yet", format!("maand agent ping {}", allocation.host));
    };
    if said.bundle != Some(promoted.bundle) {
        let has = said.bundle.map_or_else(|| "no files".to_owned(), |bundle| bundle.short());
        return so(format!("its agent has {has}, {} is promoted", promoted.bundle.short()), again);
    }
    if let Some(health) = said.health.as_ref().filter(|health| health.state == HealthState::Unhealthy) {
        let why = health.problem.as_deref().map_or_else(|| "its checks fail".to_owned(), clean);
        return so(
            format!("it runs what was promoted and is not healthy: {why}"),
            format!("logs/{}.log; {again} restarts it", allocation.host),
        );
    }
    match said.process {
        Process::Stopped => return so("it has what was promoted and was stopped there", again),
        Process::Failed => return so("it has what was promoted, and its last make target failed", again),
        Process::Started | Process::Unknown => {}
    }
    if !said.drift.is_empty() {
        let paths: Vec<&str> = said.drift.iter().take(3).map(RelPath::as_str).collect();
        let more = if said.drift.len() > paths.len() { ", …" } else { "" };
        if !said.unhealed.is_empty() {
            let names: Vec<&str> = said.unhealed.iter().take(3).map(RelPath::as_str).collect();
            return so(
                format!(
                    "something edits its files again and again, and they are put back no more: {}",
                    names.join(", ")
                ),
                format!("find what writes them on {}, or take self_heal out of the manifest", allocation.host),
            );
        }
        return so(
            format!("{} managed files were edited there: {}{more}", said.drift.len(), paths.join(", ")),
            format!("{again} puts them back; keep what you need in workspace/jobs/{job}"),
        );
    }
    match allocation.rolled.as_ref().and_then(|rolled| rolled.post_deploy) {
        Some(PostDeploy::Failed | PostDeploy::Pending) => so(
            "it is promoted, and the post_deploy hooks of its job have not succeeded",
            "correct the hook, then maand deploy",
        ),
        Some(PostDeploy::Success) | None => None,
    }
}

/// What a deploy would do with an allocation, in the words of `--dry-run`.
pub fn planned(plan: &Plan, alloc: AllocId) -> Option<String> {
    let short = |digest: Option<BundleDigest>| digest.map_or_else(|| "-".to_owned(), |digest| digest.short());
    for job in &plan.jobs {
        for (n, batch) in job.batches.iter().enumerate() {
            if let Some(step) = batch.iter().find(|step| step.alloc_id == alloc) {
                let matched: Vec<&str> = step.matched.iter().map(RelPath::as_str).collect();
                let why = match (step.from == Some(step.to), step.current_version == step.new_version) {
                    _ if !matched.is_empty() => format!("matched={}", matched.join(",")),
                    (_, _) if step.from.is_none() => "never deployed here".to_owned(),
                    (false, _) => format!("content {} -> {}", short(step.from), short(Some(step.to))),
                    (true, false) => format!("version {} -> {}", step.current_version, step.new_version),
                    (true, true) => "it is to run again".to_owned(),
                };
                return Some(format!("{} in batch {} of {} ({why})", step.kind, n + 1, job.batches.len()));
            }
        }
        if let Some(step) = job.settle.iter().chain(&job.promotes).find(|step| step.alloc_id == alloc) {
            return Some(match step.rest {
                Rest::Stop => "stop (drained)".to_owned(),
                Rest::Promote => "new files, nothing runs (drained)".to_owned(),
                Rest::Remove { stop: true } => "stop, then take its files away (removed)".to_owned(),
                Rest::Remove { stop: false } => "take its files away (removed)".to_owned(),
            });
        }
    }
    None
}

#[cfg(test)]
mod tests;
