//! The programs under test, and the two or three lines that most tests begin with.

use harness::agents::Agent;
use harness::bucket::Bucket;

/// A bucket that `maand init` made.
pub fn bucket() -> Bucket {
    Bucket::new(env!("CARGO_BIN_EXE_maand-dup"), env!("CARGO_BIN_EXE_maand-agent-dup"))
}

/// A directory and addresses, before `maand init`.
pub fn bare() -> Bucket {
    Bucket::bare(env!("CARGO_BIN_EXE_maand-dup"), env!("CARGO_BIN_EXE_maand-agent-dup"))
}

/// Hosts 127.a.b.2 and up, of this test alone.
pub fn hosts(bucket: &Bucket, count: u8) -> Vec<String> {
    (0..count).map(|n| bucket.address(2 + n).to_string()).collect()
}

/// Joins and starts an agent for each host; `maand serve` must run.
pub fn agents(bucket: &Bucket, hosts: &[String]) -> Vec<Agent> {
    hosts.iter().map(|host| Agent::join(bucket, host)).collect()
}
