//! What `--dry-run` prints: why each allocation gets its action (`spec/debugging-deploy.txt`).

use serde_json::{Value, json};
use shared::{BundleDigest, RelPath};

use super::{JobPlan, Plan, Rest, Settle};

/// The reason of a job that is in sync.
pub const COMPLETE: &str = "deploy complete on all allocations";
/// The reason of a job whose allocations are all drained.
pub const DRAINED: &str = "no active allocations";

/// The reason of a dry run for a job that is in sync.
pub const PROMOTED: &str = "already promoted";

/// Why a job that needs nothing is skipped.
pub fn skip_reason(job: &JobPlan) -> &'static str {
    if job.active == 0 { DRAINED } else { COMPLETE }
}

fn short(digest: Option<BundleDigest>) -> String {
    digest.map_or_else(|| "-".to_owned(), |digest| digest.short())
}

/// What happens to a drained or removed allocation, in the guide's words.
fn word(job: &JobPlan, step: &Settle) -> &'static str {
    let promoted = job.promotes.iter().any(|other| other.alloc_id == step.alloc_id);
    match step.rest {
        Rest::Stop if promoted => "stop+promote",
        Rest::Stop => "stop",
        Rest::Promote => "promote",
        // Nothing runs any more; its files are taken away all the same.
        Rest::Remove { .. } => "stop",
    }
}

/// What is settled, each allocation once.
fn settled(job: &JobPlan) -> impl Iterator<Item = &Settle> {
    let stopped = |step: &&Settle| !job.settle.iter().any(|other| other.alloc_id == step.alloc_id);
    job.settle.iter().chain(job.promotes.iter().filter(stopped))
}

fn tail(step: &Settle) -> String {
    let removed = if matches!(step.rest, Rest::Remove { .. }) { " removed" } else { "" };
    match (step.online, step.gone) {
        (true, _) => removed.to_owned(),
        (false, true) => format!("{removed} agent=offline (assumed dead)"),
        (false, false) => format!("{removed} agent=offline (done when it is back)"),
    }
}

/// Lines of text.
pub fn text(plan: &Plan) -> Vec<String> {
    let headline = match (plan.jobs.is_empty(), plan.is_required()) {
        (true, _) => "no jobs matched",
        (_, true) => "deployment required",
        (_, false) => "no deployment required",
    };
    let mut lines = vec![format!("deploy dry-run: {headline}")];
    let hosts = plan.jobs.iter().flat_map(|job| {
        let moves = job.batches.iter().flatten().map(|step| &step.host);
        moves.chain(settled(job).map(|step| &step.host)).chain(job.skipped.iter().map(|(host, _)| host))
    });
    let width = hosts.map(|host| host.as_str().len()).max().unwrap_or(0).max(15);
    let mut seq = None;
    for job in &plan.jobs {
        if seq != Some(job.seq) {
            seq = Some(job.seq);
            lines.push(String::new());
            lines.push(format!("deployment sequence {}:", job.seq));
        }
        if let Some(why) = &job.refused {
            lines.push(format!("  job \"{}\": refused ({why})", job.job));
            continue;
        }
        if job.post_deploy_only {
            lines.push(format!("  job \"{}\": deploy required (post_deploy only)", job.job));
            continue;
        }
        if !job.is_required() {
            let reason = if job.active == 0 { DRAINED } else { PROMOTED };
            lines.push(format!("  job \"{}\": skip ({reason})", job.job));
            continue;
        }
        lines.push(format!("  job \"{}\": deploy required", job.job));
        rows(job, width, &mut lines);
    }
    lines
}

fn rows(job: &JobPlan, width: usize, lines: &mut Vec<String>) {
    let version = |from: bool, current: &str, new: &str| match from && current != new {
        true => format!(" version={current}->{new}"),
        false => String::new(),
    };
    let previous =
        |digest: Option<BundleDigest>| digest.map_or_else(String::new, |d| format!(" previous_hash={}", d.short()));
    for step in settled(job) {
        let to = step.to.or_else(|| job.promotes.iter().find(|other| other.alloc_id == step.alloc_id)?.to);
        let (host, kind) = (&step.host, word(job, step));
        let current = to.map_or_else(String::new, |to| format!(" current_hash={}", to.short()));
        let version = version(to.is_some(), &step.current_version, &step.new_version);
        lines.push(format!("    {host:<width$} {kind:<12}{}{current}{version}{}", previous(step.from), tail(step)));
    }
    for (n, batch) in job.batches.iter().enumerate() {
        for step in batch {
            let version = version(step.from.is_some(), &step.current_version, &step.new_version);
            let matched: Vec<&str> = step.matched.iter().map(RelPath::as_str).collect();
            let matched = if matched.is_empty() { String::new() } else { format!(" matched={}", matched.join(",")) };
            let (host, kind, to) = (&step.host, step.kind.word(), step.to.short());
            let from = previous(step.from);
            lines.push(format!(
                "    {host:<width$} {kind:<12} batch={}{from} current_hash={to}{version}{matched}",
                n + 1
            ));
        }
    }
    for host in &job.undecided {
        lines.push(format!("    {host:<width$} {:<12} (its hooks are to write what its templates read)", "undecided"));
    }
    for (host, hash) in job.skipped.iter().filter(|(host, _)| !job.undecided.contains(host)) {
        lines.push(format!("    {host:<width$} {:<12} hash={}", "skip", short(*hash)));
    }
}

/// The same as JSON.
pub fn json(plan: &Plan) -> Value {
    let jobs: Vec<Value> = plan
        .jobs
        .iter()
        .map(|job| {
            let mut allocations: Vec<Value> = settled(job)
                .map(|step| {
                    json!({ "worker_ip": step.host, "action": word(job, step), "previous_hash": step.from,
                        "current_hash": step.to, "current_version": step.current_version,
                        "new_version": step.new_version, "online": step.online,
                        "removed": matches!(step.rest, Rest::Remove { .. }) })
                })
                .collect();
            for (n, batch) in job.batches.iter().enumerate() {
                allocations.extend(batch.iter().map(|step| {
                    json!({ "worker_ip": step.host, "action": step.kind, "batch": n + 1, "previous_hash": step.from,
                        "current_hash": step.to, "current_version": step.current_version,
                        "new_version": step.new_version, "matched": step.matched })
                }));
            }
            let skip =
                |(host, hash): &(_, Option<BundleDigest>)| json!({ "worker_ip": host, "action": "skip", "hash": hash });
            let undecided = |host: &_| json!({ "worker_ip": host, "action": "undecided" });
            allocations.extend(job.undecided.iter().map(undecided));
            allocations.extend(job.skipped.iter().filter(|(host, _)| !job.undecided.contains(host)).map(skip));
            json!({ "job": job.job, "deployment_seq": job.seq, "required": job.is_required(),
                "post_deploy_only": job.post_deploy_only, "refused": job.refused, "allocations": allocations })
        })
        .collect();
    json!({ "required": plan.is_required(), "jobs": jobs, "notes": plan.notes })
}
