//! Fifty agents on loopback go from v1 to v2 of a job of 30 files and 200 KB, durable and with `make`.
//!
//! ```text
//! cargo build --release -p controller -p agent
//! cargo run --release -p tests --bin bench-deploy -- target/release [AGENTS] [ROUNDS]
//! ```
//!
//! Prints wall time, CPU of every process and bytes on the wire (both ways, TLS included, as a proxy
//! between agents and controller counts them), then what an idle agent costs.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::agents::Agent;
use harness::bucket::Bucket;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().unwrap_or_else(|| "target/release".into()));
    let count: u8 = arguments.next().map_or(50, |n| n.parse().expect("a number of agents below 200"));
    let rounds: u32 = arguments.next().map_or(5, |n| n.parse().expect("a number of rounds"));
    let program = |name: &str| dir.join(name).canonicalize().expect("build the programs first").display().to_string();
    let bucket = Bucket::new(&program("maand"), &program("maand-agent"));
    let wire = Arc::new(AtomicU64::new(0));
    let proxy = proxy(SocketAddr::new(bucket.address(1).into(), bucket.port()), wire.clone());
    bucket.write(
        "maand.conf",
        &format!("listen = \"{}:{}\"\nadvertise = \"https://{proxy}\"\n", bucket.address(1), bucket.port()),
    );
    let hosts: Vec<String> = (0..count).map(|n| bucket.address(2 + n).to_string()).collect();
    bucket.workers(&hosts, &["all"]);
    let files = job(&bucket);
    bucket.maand(&["build"]).expect(0);
    let serve = bucket.serve();
    let mut agents: Vec<Agent> = hosts.iter().map(|host| Agent::join(&bucket, host)).collect();
    agents.iter().for_each(|agent| agent.wait_online(&bucket));

    println!("{count} agents, {} files, {} bytes, all in one batch", files.0, files.1);
    let mut deploy = |name: &str| {
        let before = (wire.load(Ordering::Relaxed), cpu(serve.pid()), agents_cpu(&mut agents));
        let begin = Instant::now();
        let children = children_cpu();
        bucket.maand(&["deploy"]).expect(0);
        let wall = begin.elapsed();
        let own = children_cpu() - children;
        let (serve_cpu, agent_cpu) = (cpu(serve.pid()) - before.1, agents_cpu(&mut agents) - before.2);
        let bytes = wire.load(Ordering::Relaxed) - before.0;
        println!(
            "{name:<14} wall {:>6.0} ms   CPU serve {:>5.0} ms, deploy {:>5.0} ms, agents and make {:>6.0} ms   wire {:>7.1} KB a worker",
            wall.as_secs_f64() * 1e3,
            serve_cpu * 1e3,
            own * 1e3,
            agent_cpu * 1e3,
            bytes as f64 / f64::from(count) / 1024.0
        );
    };
    deploy("cold");
    for round in 0..rounds {
        bucket.write("workspace/jobs/api/conf/f07", &content(1000 + u64::from(round), 2048));
        bucket.maand(&["build"]).expect(0);
        deploy(&format!("v{} to v{}", round + 1, round + 2));
    }
    deploy("no change");

    idle(&mut agents);
}

/// Resident memory and wake-ups of one agent over a minute in which nothing happens.
fn idle(agents: &mut [Agent]) {
    let pid = agents[0].process().pid();
    // By thread: one that ended meanwhile has no say.
    let wakeups = |pid: u32| -> BTreeMap<PathBuf, u64> {
        let mut threads = BTreeMap::new();
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("the agent runs").flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let value = |key: &str| -> u64 {
                let line = status.lines().find(|line| line.starts_with(key));
                line.and_then(|line| line.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0)
            };
            threads.insert(task.path(), value("voluntary_ctxt_switches"));
        }
        threads
    };
    std::thread::sleep(Duration::from_secs(15));
    let before = (wakeups(pid), cpu(pid));
    std::thread::sleep(Duration::from_secs(60));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rss = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or("VmRSS: ?")
        .trim_start_matches("VmRSS:")
        .trim()
        .to_owned();
    println!(
        "idle agent     resident {rss}, {} wake-ups and {:.1} ms of CPU in a minute",
        wakeups(pid).iter().map(|(thread, n)| n - before.0.get(thread).unwrap_or(&0)).sum::<u64>(),
        (cpu(pid) - before.1) * 1e3
    );
}

/// 30 files, 200 KB, with a Makefile whose targets do next to nothing. Number of files and bytes.
fn job(bucket: &Bucket) -> (usize, usize) {
    bucket.write("workspace/jobs/api/manifest.json", r#"{"selectors": ["all"], "max_concurrent_upgrades": 200}"#);
    bucket.write("workspace/jobs/api/Makefile", "start stop restart reload:\n\t@true\n");
    let mut bytes = 0;
    for n in 0..29u64 {
        let len = if n == 7 { 2048 } else { 7000 };
        bytes += len;
        bucket.write(&format!("workspace/jobs/api/conf/f{n:02}"), &content(n, len));
    }
    (30, bytes)
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

/// User and system time of a process and its ended children, seconds.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    // Fields 14 to 17 of proc(5), counted behind the name.
    (11..15).filter_map(|at| fields.get(at)?.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn agents_cpu(agents: &mut [Agent]) -> f64 {
    agents.iter_mut().map(|agent| cpu(agent.process().pid())).sum()
}

/// Ended children of this process: the deploys.
fn children_cpu() -> f64 {
    let own = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = own.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    (13..15).filter_map(|at| fields.get(at)?.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Forwards every connection to `to` and counts the bytes of both ways.
fn proxy(to: SocketAddr, wire: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind((to.ip(), 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(to) else { continue };
            drop((client.set_nodelay(true), server.set_nodelay(true)));
            let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else { continue };
            for (mut from, mut to) in [(client, server2), (server, client2)] {
                let wire = wire.clone();
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        wire.fetch_add(count as u64, Ordering::Relaxed);
                        if to.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                    drop(to.shutdown(Shutdown::Write));
                });
            }
        }
    });
    address
}
