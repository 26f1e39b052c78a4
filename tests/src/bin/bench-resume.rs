//! A large pack over a link that breaks again and again: the agent goes on where it was, and is heard meanwhile.
//!
//! ```text
//! cargo build --release -p controller -p agent
//! cargo run --release -p tests --bin bench-resume -- target/release [MEGABYTES] [EVERY] [RATE]
//! ```
//!
//! One agent fetches MEGABYTES (500) in files of 1 MB that do not compress, while every connection is cut whenever EVERY
//! (4) megabytes have gone down the link, at RATE (20) megabytes a second. Prints how often it was cut, bytes over
//! the link, time, reports that arrived meanwhile with the longest time between two, pings answered meanwhile with
//! the longest, and the agent's most resident memory.
#![expect(clippy::unwrap_used, reason = "a benchmark: a panic is how it fails")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::link::{Link, Way, noise};
use harness::poll;

const MB: usize = 1_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().unwrap_or_else(|| "target/release".into()));
    let mut number = |default: u64| arguments.next().map_or(default, |n| n.parse().expect("a number"));
    let (count, every, rate) = (number(500), number(4) * MB as u64, number(20) * MB as u64);
    let program = |name: &str| dir.join(name).canonicalize().expect("build the programs first").display().to_string();
    let bucket = Bucket::new(&program("maand"), &program("maand-agent"));
    let host = bucket.address(2).to_string();
    bucket.workers(std::slice::from_ref(&host), &["all"]);
    let manifest = r#"{"selectors": ["all"], "action_timeout_seconds": 3600}"#;
    bucket.write("workspace/jobs/large/manifest.json", manifest);
    bucket.write("workspace/jobs/large/Makefile", "start stop restart reload:\n\t@true\n");
    (0..count)
        .for_each(|n| std::fs::write(bucket.path(&format!("workspace/jobs/large/f{n:04}")), noise(n + 1, MB)).unwrap());
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let link = Link::to(&bucket);
    let mut agent = Agent::prepare(&bucket, &host, &[]);
    agent.enrol(&bucket).expect(0);
    link.carries(&agent);
    agent.start();
    agent.wait_online(&bucket);
    link.at_most(rate);
    link.cut_every(every);

    let (before, begin) = (link.bytes(Way::Down), Instant::now());
    let done = Arc::new(AtomicBool::new(false));
    let counting = count_reports(&bucket, done.clone());
    let mut deploy = bucket.start("deploy", &["deploy"]);
    let mut pings = Vec::new();
    let status = loop {
        if let Some(status) = deploy.ended() {
            break status;
        }
        let asked = Instant::now();
        if bucket.maand(&["agent", "ping", &host, "--timeout", "60"]).code == 0 && deploy.ended().is_none() {
            pings.push(asked.elapsed());
        }
        std::thread::sleep(Duration::from_secs(1));
    };
    let wall = begin.elapsed();
    done.store(true, Ordering::SeqCst);
    let (reports, gap) = counting.join().unwrap();
    let (bytes, size) = (link.bytes(Way::Down) - before, count * MB as u64);
    assert!(status.success(), "{}", deploy.printed());
    let right = |n: &u64| std::fs::read(agent.job_path("large", &format!("f{n:04}"))).unwrap() == noise(n + 1, MB);
    assert_eq!((0..count).filter(right).count() as u64, count, "files that are as they should be");
    let high = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let high = high.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    println!("{count} files, {} MB, cut {} times, at most {} MB/s", count, link.cuts(), rate / MB as u64);
    println!(
        "over the link: {:.1} MB, {:+.2} % of the files",
        bytes as f64 / 1e6,
        (bytes as f64 / size as f64 - 1.0) * 100.0
    );
    println!(
        "deployed in {:.1} s; reports meanwhile: {reports}, at most {:.1} s between two",
        wall.as_secs_f64(),
        gap.as_secs_f64()
    );
    let longest = pings.iter().max().copied().unwrap_or_default();
    println!("pings answered meanwhile: {}, the longest took {:.1} s", pings.len(), longest.as_secs_f64());
    println!("agent: at most {high} resident");
}

/// How many reports arrive until `done`, and the longest time between two.
fn count_reports(bucket: &Bucket, done: Arc<AtomicBool>) -> std::thread::JoinHandle<(u64, Duration)> {
    let catalog = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.busy_timeout(poll::LONG).unwrap();
    std::thread::spawn(move || {
        let number =
            || -> u64 { catalog.query_row("SELECT number FROM observed_worker", [], |row| row.get(0)).unwrap() };
        let (mut last, mut heard, mut reports, mut gap) = (number(), Instant::now(), 0, Duration::ZERO);
        while !done.load(Ordering::SeqCst) {
            let now = number();
            if now != last {
                reports += 1;
                gap = gap.max(heard.elapsed());
                (last, heard) = (now, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        (reports, gap.max(heard.elapsed()))
    })
}
