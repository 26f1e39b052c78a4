//! What `--dry-run` prints: why each allocation gets its action (`spec/debugging-deploy.txt`).

use serde_json::{Value, json};
use shared::{BundleDigest, RelPath};

use super::Plan;

/// The reason of a job that is in sync.
pub const COMPLETE: &str = "deploy complete on all allocations";

fn short(digest: Option<BundleDigest>) -> String {
    digest.map_or_else(|| "-".to_owned(), |digest| digest.short())
}

/// Lines of text.
pub fn text(plan: &Plan) -> Vec<String> {
    let headline = match (plan.jobs.is_empty(), plan.is_required()) {
        (true, _) => "no jobs matched",
        (_, true) => "deployment required",
        (_, false) => "no deployment required",
    };
    let mut lines = vec![format!("deploy dry-run: {headline}")];
    let mut seq = None;
    for job in &plan.jobs {
        if seq != Some(job.seq) {
            seq = Some(job.seq);
            lines.push(String::new());
            lines.push(format!("deployment sequence {}:", job.seq));
        }
        if !job.is_required() {
            lines.push(format!("  job \"{}\": skip ({COMPLETE})", job.job));
            continue;
        }
        lines.push(format!("  job \"{}\": deploy required", job.job));
        for (n, batch) in job.batches.iter().enumerate() {
            for step in batch {
                let from = step.from.map_or_else(String::new, |from| format!(" previous_hash={}", from.short()));
                let version = if step.current_version == step.new_version || step.from.is_none() {
                    String::new()
                } else {
                    format!(" version={}->{}", step.current_version, step.new_version)
                };
                let matched: Vec<&str> = step.matched.iter().map(RelPath::as_str).collect();
                let matched =
                    if matched.is_empty() { String::new() } else { format!(" matched={}", matched.join(",")) };
                let (host, kind, to) = (&step.host, step.kind, step.to.short());
                lines.push(format!(
                    "    {host:<15} {kind:<8} batch={}{from} current_hash={to}{version}{matched}",
                    n + 1
                ));
            }
        }
        for (host, hash) in &job.skipped {
            lines.push(format!("    {host:<15} {:<8} hash={}", "skip", short(*hash)));
        }
    }
    lines
}

/// The same as JSON.
pub fn json(plan: &Plan) -> Value {
    let jobs: Vec<Value> = plan
        .jobs
        .iter()
        .map(|job| {
            let moves: Vec<Value> = job
                .batches
                .iter()
                .enumerate()
                .flat_map(|(n, batch)| batch.iter().map(move |step| (n, step)))
                .map(|(n, step)| {
                    json!({ "worker_ip": step.host, "action": step.kind, "batch": n + 1, "previous_hash": step.from,
                        "current_hash": step.to, "current_version": step.current_version, "new_version": step.new_version,
                        "matched": step.matched })
                })
                .collect();
            let skipped: Vec<Value> =
                job.skipped.iter().map(|(host, hash)| json!({ "worker_ip": host, "action": "skip", "hash": hash })).collect();
            let allocations = [moves, skipped].concat();
            json!({ "job": job.job, "deployment_seq": job.seq, "required": job.is_required(),
                "allocations": allocations })
        })
        .collect();
    json!({ "required": plan.is_required(), "jobs": jobs })
}
