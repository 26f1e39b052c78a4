//! Builds of a large bucket: a thousand workers, a hundred jobs of twenty files on each of them, half of
//! the jobs with a template and a certificate for each worker.
//!
//! ```text
//! cargo build --release --workspace
//! target/release/bench-build target/release [WORKERS] [JOBS] [FILES]
//! ```
//!
//! Prints for each command wall time, CPU (user and system, every thread), the most memory that was
//! resident and what it printed; for builds what was read, rendered and issued, and what the catalog and
//! the store weigh.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::bucket::Bucket;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().unwrap_or_else(|| "target/release".into()));
    let mut number = |default: usize| arguments.next().map_or(default, |n| n.parse().expect("a number"));
    let (workers, jobs, files) = (number(1000), number(100), number(20));
    let program = |name: &str| dir.join(name).canonicalize().expect("build the programs first").display().to_string();
    let bucket = Bucket::new(&program("maand"), &program("maand-agent"));
    let host = |n: usize| format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255);
    let mut hosts: Vec<String> = (1..=workers).map(host).collect();
    bucket.workers(&hosts, &["all"]);
    (0..jobs).for_each(|n| job(&bucket, n, files));
    println!("{workers} workers, {jobs} jobs of {files} files: {} allocations", workers * jobs);
    header();

    build(&bucket, "cold build");
    // What was written in the last two seconds is read again: its times may not tell of one more edit.
    std::thread::sleep(Duration::from_secs(3));
    build(&bucket, "nothing changed");
    bucket.write("workspace/jobs/job-000/conf/f07", &content(1 << 40, 2048));
    build(&bucket, "one file changed");
    bucket.write("workspace/jobs/job-000/conf/app.toml.j2", &format!("{}# more\n", template()));
    build(&bucket, "one template changed");
    bucket.write("workspace/jobs/job-002/vars.toml", "level = \"debug\"\n");
    build(&bucket, "one variable changed");
    hosts.push(host(workers + 1));
    bucket.workers(&hosts, &["all"]);
    build(&bucket, "one worker added");
    std::thread::sleep(Duration::from_secs(3));
    build(&bucket, "nothing changed");

    for arguments in [
        &["cat", "deployments"][..],
        &["cat", "deployments", "--jobs", "job-001"],
        &["cat", "deployments", "--json"],
        &["cat", "kv"],
        &["cat", "kv", "--jobs", "job-001"],
        &["cat", "kv", "get", "vars/job/job-001", "level"],
        &["cat", "workers"],
        &["deploy", "--dry-run"],
        &["info"],
        &["--help"],
    ] {
        show(&arguments.join(" "), &run(&bucket, arguments), "");
    }
}

/// What one run of a program took.
struct Taken {
    wall: Duration,
    /// Seconds.
    cpu: f64,
    /// KiB.
    peak: u64,
    printed: String,
}

fn header() {
    println!("{:<42} {:>9} {:>9} {:>9} {:>9}", "", "wall ms", "CPU ms", "peak MB", "out KB");
}

fn show(name: &str, taken: &Taken, more: &str) {
    println!(
        "{name:<42} {:>9.0} {:>9.1} {:>9.1} {:>9.1}{more}",
        taken.wall.as_secs_f64() * 1e3,
        taken.cpu * 1e3,
        taken.peak as f64 / 1024.0,
        taken.printed.len() as f64 / 1024.0
    );
}

fn build(bucket: &Bucket, name: &str) {
    let taken = run(bucket, &["build", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&taken.printed).expect("a summary");
    let catalog: u64 = ["", "-wal"].iter().map(|suffix| len(&bucket.path(&format!("data/maand.db{suffix}")))).sum();
    let (blobs, bytes) = tree(&bucket.path("data/store"));
    let more = format!(
        "   read {}, rendered {}, issued {}; catalog {:.1} MB, store {blobs} blobs, {:.1} MB",
        said["files_read"],
        said["rendered"],
        said["certificates_issued"],
        catalog as f64 / 1e6,
        bytes as f64 / 1e6
    );
    show(&format!("build, {name}"), &taken, &more);
}

fn run(bucket: &Bucket, arguments: &[&str]) -> Taken {
    let out = bucket.dir().join("out");
    let file = File::create(&out).expect("a file");
    let mut command = bucket.command(arguments);
    let begin = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(file).spawn().expect("maand starts");
    let (id, done) = (child.id(), AtomicBool::new(false));
    let (wall, cpu, peak) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            // The mark is gone when the process is: the last look at it counts.
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(high_water(id));
                std::thread::sleep(Duration::from_millis(1));
            }
            peak
        });
        // Ended and not yet collected: its times are there to be read.
        let ended = waitid(WaitId::Pid(Pid::from_child(&child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let wall = begin.elapsed();
        ended.expect("a child");
        done.store(true, Ordering::Relaxed);
        (wall, cpu(id), sampler.join().expect("the sampler"))
    });
    let status = child.wait().expect("a child");
    assert!(status.success(), "maand {arguments:?}: {status}");
    Taken { wall, cpu, peak, printed: std::fs::read_to_string(&out).expect("what it printed") }
}

/// KiB.
fn high_water(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Seconds of user and system time: to the nanosecond for one thread, to a clock tick for more.
fn cpu(pid: u32) -> f64 {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    // Fields 14 and 15 of proc(5), counted behind the name.
    let ticks = (11..13).filter_map(|at| fields.get(at)?.parse::<f64>().ok()).sum::<f64>() / 100.0;
    let first = read("schedstat").split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1e9;
    if ticks - first > 0.02 { ticks } else { first }
}

fn len(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Files below a directory, and their bytes.
fn tree(dir: &Path) -> (usize, u64) {
    std::fs::read_dir(dir).into_iter().flatten().flatten().fold((0, 0), |(count, bytes), entry| {
        let (more, longer) = match entry.file_type() {
            Ok(kind) if kind.is_dir() => tree(&entry.path()),
            _ => (1, len(&entry.path())),
        };
        (count + more, bytes + longer)
    })
}

/// A job of `files` files; every other one has a template and a certificate.
fn job(bucket: &Bucket, n: usize, files: usize) {
    let name = format!("job-{n:03}");
    let dir = format!("workspace/jobs/{name}");
    let rich = n.is_multiple_of(2);
    let mut manifest = serde_json::json!({
        "version": "1.0.0", "selectors": ["all"], "resources": {"ports": {format!("{name}-http"): {}}}
    });
    if rich {
        manifest["certs"] = serde_json::json!({"tls": {"subject": {"common_name": name}}});
        bucket.write(&format!("{dir}/conf/app.toml.j2"), &template());
    }
    bucket.write(&format!("{dir}/manifest.json"), &manifest.to_string());
    bucket.write(&format!("{dir}/Makefile"), "start stop restart reload:\n\t@true\n");
    bucket.write(&format!("{dir}/vars.toml"), "level = \"info\"\n");
    for file in 0..files.saturating_sub(3 + usize::from(rich)) {
        bucket.write(&format!("{dir}/conf/f{file:02}"), &content((n * 1000 + file) as u64, 2048));
    }
}

/// Reads a little of each: the worker, the job, the allocation, a variable.
fn template() -> String {
    "name = \"{{ job }}\"\nlisten = \"{{ worker_ip }}:{{ get('maand/bucket', job ~ '-http') }}\"\n\
     level = \"{{ get('vars/job/' ~ job, 'level') }}\"\n\
     index = {{ get('maand/job/' ~ job ~ '/worker/' ~ worker_ip, job ~ '_allocation_index') }}\n\
     labels = \"{{ get('maand/worker/' ~ worker_ip, 'labels') }}\"\n"
        .to_owned()
}

/// Text that compresses like configuration, different for each seed.
fn content(seed: u64, len: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = String::with_capacity(len + 40);
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.push_str(&format!("setting_{} = \"{:x}\"\n", state >> 58, state >> 30));
    }
    out.truncate(len);
    out
}
