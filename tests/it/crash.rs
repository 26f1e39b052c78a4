//! A part of the crash rig (`tests/src/bin/rig-crash.rs`), small enough for every day: some points of each kind,
//! another part of them for each scenario.

use std::path::Path;
use std::time::Duration;

use harness::poll;
use harness::process::Running;
use harness::rig::ground::Ground;
use harness::rig::sweep::{Bounds, Kind, sweep};

/// Most points of a kind and scenario.
const POINTS: usize = 3;
/// Longest time for a kind, after what is prepared for it.
const LIMIT: Duration = Duration::from_secs(10);

/// One rig at a time, whichever process has it: they share the machine's loop devices, and one of them makes mount namespaces
/// that have copies of all mounts.
fn alone() -> std::fs::File {
    let lock = std::fs::File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("crash.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    lock
}

fn hit(kinds: &[Kind]) {
    let _alone = alone();
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

#[test]
fn the_rigs_disk_is_put_back_though_somebody_elses_mount_namespace_has_a_copy_of_it() {
    let _alone = alone();
    let needed = std::env::var_os("MAAND_CI").is_some();
    let mut ground = match Ground::image() {
        Ok(ground) => ground,
        Err(why) if needed => panic!("no disk of the rig's own: {why}"),
        Err(why) => return eprintln!("skipped: no disk of the rig's own here: {why}"),
    };
    std::fs::write(ground.place().join("saved"), "1").unwrap();
    ground.save("one").unwrap();
    std::fs::write(ground.place().join("later"), "2").unwrap();
    let logs = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", "echo here; exec sleep 60"]);
    let mut other = Running::start("other", command, &logs.path().join("log"));
    poll::until("a namespace of its own", poll::LONG, || {
        if other.printed().contains("here") { Ok(()) } else { Err(other.printed()) }
    });
    ground.restore("one").unwrap();
    assert!(ground.place().join("saved").exists());
    assert!(!ground.place().join("later").exists(), "what came after it was saved is there again");
    // And once more, as after a power cut.
    std::fs::write(ground.place().join("later"), "2").unwrap();
    ground.again().unwrap();
    assert!(ground.place().join("later").exists(), "what was written before the disk was taken away is lost");
    assert!(other.ended().is_none(), "the namespace has to last: {}", other.printed());
}
