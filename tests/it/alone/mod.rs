//! The agent left alone: what it begins without its controller, and what it does not.

mod boot;
mod drift;
#[cfg(feature = "failpoints")]
mod grants;
mod hold;
mod partition;

use harness::agents::Agent;
use harness::bucket::Bucket;

/// Sets `drift_check_seconds` of an agent, which is started anew.
fn check_often(agent: &mut Agent) {
    agent.kill();
    let path = agent.settings();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("drift_check_seconds = 1\n{text}")).unwrap();
    agent.start();
}

/// The `agent` column of a job's first allocation.
fn said(bucket: &Bucket, job: &str) -> String {
    let rows = bucket.cat("deployments");
    let row = rows.as_array().unwrap().iter().find(|row| row["job"] == job).cloned().unwrap();
    row["agent"].as_str().unwrap_or_default().to_owned()
}
