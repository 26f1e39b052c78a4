//! The programs under test, and the two or three lines that most tests begin with.

use controller::bundle::store::Store;
use controller::catalog::{Catalog, bundles, read};
use controller::paths::BucketDir;
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

/// What the last build rendered at `JOB/HOST/PATH`.
pub fn rendered(bucket: &Bucket, place: &str) -> String {
    let mut parts = place.splitn(3, '/');
    let (job, host, path) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let mut catalog = Catalog::open(&bucket.path("data/maand.db")).unwrap();
    let snapshot = catalog.read(|tx| read::snapshot(tx)).unwrap();
    let allocation =
        snapshot.allocations.iter().find(|a| a.job.as_str() == job && a.host.as_str() == host).expect(place);
    let bundle = bundles::get(catalog.connection(), &allocation.bundle.unwrap()).unwrap().unwrap();
    let store = Store::open(&BucketDir::new(bucket.path(""))).unwrap();
    String::from_utf8(store.read(&bundle.get(path).expect(place).blob, 1 << 20).unwrap()).unwrap()
}
