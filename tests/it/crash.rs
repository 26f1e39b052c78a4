//! A part of the crash rig (`tests/src/bin/rig-crash.rs`), small enough for every day: some points of each kind,
//! another part of them for each scenario.

use std::path::Path;
use std::time::Duration;

use harness::rig::sweep::{Bounds, Kind, sweep};

/// Most points of a kind and scenario.
const POINTS: usize = 3;
/// Longest time for a kind, after what is prepared for it.
const LIMIT: Duration = Duration::from_secs(10);

fn hit(kinds: &[Kind]) {
    let needed = std::env::var_os("MAAND_CI").is_some();
    if !rustix::process::geteuid().is_root() {
        assert!(!needed, "the crash rig needs root");
        return eprintln!("skipped: the crash rig needs root");
    }
    let bounds = Bounds { points: Some(POINTS), limit: Some(LIMIT), ..Bounds::default() };
    let program = Path::new(env!("CARGO_BIN_EXE_rig-crash"));
    let tallies = match sweep(program, kinds, &bounds, |violation| eprintln!("{violation}")) {
        Ok(tallies) => tallies,
        Err(why) if needed => panic!("the crash rig cannot be used: {why}"),
        Err(why) => return eprintln!("skipped: the crash rig cannot be used here: {why}"),
    };
    for tally in &tallies {
        match &tally.skipped {
            Some(why) => eprintln!("!! NOT TESTED: {}: {why}", tally.kind),
            None => assert!(tally.points > 0, "no {} point was reached", tally.kind),
        }
        assert_eq!(tally.violations, Vec::<String>::new(), "{}", tally.kind);
    }
}

#[test]
fn killed_anywhere_or_with_a_call_that_fails_an_agent_keeps_what_is_promised() {
    hit(&[Kind::Kill, Kind::Failpoints, Kind::Errors]);
}

#[test]
fn without_power_or_room_or_a_disk_that_can_be_written_an_agent_keeps_what_is_promised() {
    hit(&[Kind::Power, Kind::Full, Kind::Readonly]);
}

#[test]
fn a_hostile_neighbour_gets_an_agent_to_touch_nothing_outside_of_the_job() {
    hit(&[Kind::Neighbour]);
}
