//! What rollouts cost the controller: a thousand agents that speak the wire and run nothing (`harness::light`).
//!
//! ```text
//! cargo build --release --workspace
//! cargo run --release --workspace --bin bench-rollout -- target/release [AGENTS] [JOBS]
//! ```
//!
//! Prints, for deploys of one job and of all of them, for a deploy that has nothing to do and for a dry run:
//! wall time, CPU of the deploying process and of `maand serve`, and the catalog's transactions.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::bucket::Bucket;
use harness::light::Lights;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().unwrap_or_else(|| "target/release".into()));
    let count: usize = arguments.next().map_or(1000, |n| n.parse().expect("a number of agents"));
    let jobs: usize = arguments.next().map_or(20, |n| n.parse().expect("a number of jobs"));
    let program = |name: &str| dir.join(name).canonicalize().expect("build the programs first").display().to_string();
    let bucket = Bucket::new(&program("maand"), &program("maand-agent"));
    let hosts: Vec<String> = (0..count).map(|n| format!("w{n:04}")).collect();
    bucket.workers(&hosts, &["all"]);
    job(&bucket, 0, 1);
    bucket.maand(&["build"]).expect(0);
    let serve = bucket.serve();
    let begin = Instant::now();
    let lights = Lights::join(&bucket, &hosts);
    println!("{count} agents joined in {:.1} s", begin.elapsed().as_secs_f64());
    let idle = |seq: u64| {
        let end = Instant::now() + Duration::from_secs(120);
        while (0..count).any(|n| lights.update_seq(n) != seq) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    std::thread::sleep(Duration::from_secs(2));
    let mut seq = 0;
    let mut measure = |name: &str, words: &[&str], allocations: usize| {
        let transactions = Transactions::begin(&bucket);
        let before = (children_cpu(), cpu(serve.pid()));
        let begin = Instant::now();
        bucket.maand(words).expect(0);
        let wall = begin.elapsed();
        seq += u64::from(words == ["deploy"]);
        let own = children_cpu() - before.0;
        idle(seq);
        let told = begin.elapsed().saturating_sub(Duration::from_millis(500));
        let (serve_cpu, transactions) = (cpu(serve.pid()) - before.1, transactions.end());
        print!(
            "{name:<34} wall {:>7.2} s (all told {:>6.2} s)  CPU {:>7.2} s, serve {serve_cpu:>6.2} s  {transactions:>6} transactions",
            wall.as_secs_f64(),
            told.as_secs_f64(),
            own
        );
        match allocations {
            0 => println!(),
            n => println!(
                "; an allocation: {:.2} transactions, {:.2} ms of CPU",
                transactions as f64 / n as f64,
                own * 1e3 / n as f64
            ),
        }
    };
    measure("first deploy, one batch", &["deploy"], count);
    job(&bucket, 0, 2);
    bucket.maand(&["build"]).expect(0);
    measure("update, batches of 50", &["deploy"], count);
    measure("nothing to do, 1 job", &["deploy"], 0);
    (1..jobs).for_each(|n| job(&bucket, n, 1));
    let begin = Instant::now();
    bucket.maand(&["build"]).expect(0);
    println!("build of {jobs} jobs: {:.2} s", begin.elapsed().as_secs_f64());
    measure(&format!("first deploy, {} more jobs", jobs - 1), &["deploy"], count * (jobs - 1));
    measure(&format!("nothing to do, {jobs} jobs"), &["deploy"], 0);
    measure(&format!("dry run, {jobs} jobs"), &["deploy", "--dry-run"], 0);
    measure("cat deployments", &["cat", "deployments", "--json"], 0);
    measure("rollout show", &["rollout", "show"], 0);
}

fn job(bucket: &Bucket, n: usize, version: u32) {
    let job = format!("workspace/jobs/job{n:02}");
    let manifest = r#"{"selectors": ["all"], "max_concurrent_upgrades": 50}"#;
    bucket.write(&format!("{job}/manifest.json"), manifest);
    bucket.write(&format!("{job}/Makefile"), "start stop restart reload:\n\t@true\n");
    bucket.write(&format!("{job}/conf/app"), &format!("{n} {version}\n"));
}

/// Counts commits in the catalog's write-ahead log: a reader that stays keeps it from being begun anew, but
/// for once when all of it was in the catalog already.
struct Transactions {
    reader: rusqlite::Connection,
    log: PathBuf,
    before: (Vec<u8>, usize),
}

impl Transactions {
    fn begin(bucket: &Bucket) -> Self {
        let reader = rusqlite::Connection::open(bucket.path("data/maand.db")).expect("the catalog");
        reader.execute_batch("BEGIN; SELECT count(*) FROM bucket;").expect("a reader");
        let log = bucket.path("data/maand.db-wal");
        let before = commits(&log);
        Self { reader, log, before }
    }

    fn end(self) -> usize {
        let (salt, count) = commits(&self.log);
        let count = if salt == self.before.0 { count.saturating_sub(self.before.1) } else { count };
        self.reader.execute_batch("COMMIT").expect("the reader's end");
        count
    }
}

/// Salt of a write-ahead log, and commits under it (sqlite.org/fileformat2.html, 4): frames that name a size.
fn commits(log: &Path) -> (Vec<u8>, usize) {
    let bytes = std::fs::read(log).unwrap_or_default();
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let (Some(page), Some(salt)) = (word(8), bytes.get(16..24)) else { return (Vec::new(), 0) };
    let frames = (32..bytes.len()).step_by(24 + page as usize);
    let own = frames.take_while(|at| bytes.get(at + 8..at + 16) == Some(salt));
    (salt.to_vec(), own.filter(|at| word(at + 4) != Some(0)).count())
}

/// User and system time of a process, seconds.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    fields(&stat, 11)
}

/// The same of ended children of this process: the deploys.
fn children_cpu() -> f64 {
    fields(&std::fs::read_to_string("/proc/self/stat").unwrap_or_default(), 13)
}

/// Two fields of proc(5)'s stat, counted behind the name, in seconds.
fn fields(stat: &str, first: usize) -> f64 {
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    (first..first + 2).filter_map(|at| fields.get(at)?.parse::<f64>().ok()).sum::<f64>() / 100.0
}
