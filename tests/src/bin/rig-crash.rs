//! The crash rig: kills the agent at every mutating system call of an apply and at every named point, cuts the
//! power of its disk, fills it, makes it read-only, has calls fail, puts a hostile neighbour beside it; each time the agent starts again, and ten
//! invariants must hold (`tests/src/rig/oracle.rs`). Needs root.
//!
//! ```text
//! cargo run --package tests --features failpoints --bin rig-crash
//! cargo run --package tests --features failpoints --bin rig-crash -- --only kill,power --points 20 --seconds 60
//! ```
//!
//! Exit code 1 when an invariant did not hold, with a line for each that does it again.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use harness::rig::sweep::{Bounds, Kind, sweep};
use harness::rig::{ground, neighbour};

/// Hits the agent wherever it can be hit, and looks whether what is promised holds.
#[derive(Debug, Parser)]
struct Arguments {
    /// Kinds: kill, failpoints, power, full, readonly, errors, neighbour; all of them without
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    only: Vec<String>,
    /// Most points of each kind and scenario; all of them without
    #[arg(long, value_name = "N")]
    points: Option<usize>,
    /// Longest time for each kind
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    scenario: Vec<String>,
    /// This one point, as a violation names it; MAAND_RIG_SHOW=1 shows the agent's log with it
    #[arg(long, value_name = "SCENARIO:POINT")]
    point: Option<String>,
}

fn main() -> ExitCode {
    // Under that name it is the agent: one build has both.
    let name = std::env::args_os().next();
    if name.is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == "maand-agent")) {
        return agent::main();
    }
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == neighbour::WORD) {
        neighbour::misbehave(Path::new(&words.next().expect("a directory")));
    }
    let arguments = Arguments::parse();
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| arguments.only.is_empty() || arguments.only.iter().any(|word| word == kind.word()))
        .collect();
    if kinds.is_empty() {
        eprintln!("no such kind: {:?}", arguments.only);
        return ExitCode::from(2);
    }
    leave_on_interrupt();
    let scenarios = match &arguments.point {
        Some(point) => point.split(':').take(1).map(str::to_owned).collect(),
        None => arguments.scenario,
    };
    let limit = arguments.seconds.map(Duration::from_secs);
    let bounds = Bounds { points: arguments.points, limit, only: arguments.point, scenarios };
    let program = std::env::current_exe().expect("its own place");
    let tallies = match sweep(&program, &kinds, &bounds, |violation| println!("{violation}")) {
        Ok(tallies) => tallies,
        Err(why) => {
            eprintln!("the rig cannot be used here: {why}");
            return ExitCode::FAILURE;
        }
    };
    println!("{:<12} {:>8} {:>9} {:>8} {:>11}", "kind", "points", "left out", "seconds", "violations");
    for tally in &tallies {
        let (seconds, violations) = (tally.took.as_secs_f64(), tally.violations.len());
        let note = tally.skipped.as_ref().map(|why| format!("  skipped: {why}"));
        let note = note.or_else(|| Some(format!("  {}", tally.note.as_ref()?))).unwrap_or_default();
        println!("{:<12} {:>8} {:>9} {seconds:>8.1} {violations:>11}{note}", tally.kind, tally.points, tally.left_out);
    }
    let clean = tallies.iter().all(|tally| tally.violations.is_empty());
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ctrl-C, and TERM, take the mounts away first.
fn leave_on_interrupt() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut term =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("a handler");
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = term.recv() => {}
            }
        });
        ground::leave();
        std::process::exit(130);
    });
}
