//! `maand dev`, the first thing that a new user runs.

use std::time::Duration;

use harness::poll;
use rustix::process::Signal;

use crate::support::bare;

#[test]
fn once_deploys_prints_and_leaves_nothing_running() {
    let bucket = bare();
    let output = bucket.maand(&["dev", "--once"]).expect(0);
    assert_eq!(output.stdout.matches("promoted").count(), 6, "{}", output.stdout);
    assert!(output.stdout.contains("http://127.0.0.2:"), "says where the sample job answers: {}", output.stdout);
    let left = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let cmdline = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
        cmdline.contains(bucket.dir().to_str()?).then_some(cmdline)
    });
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn an_existing_bucket_stays_until_interrupted_and_comes_back() {
    let bucket = bare();
    bucket.maand(&["init"]).expect(0);
    let hosts: Vec<String> = (2..4).map(|n| bucket.address(n).to_string()).collect();
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &serde_json::json!({"selectors": ["all"]}));
    for round in 0..2 {
        let mut dev = bucket.start("dev", &["dev", "."]);
        poll::until("maand dev to be ready", poll::LONG, || match dev.ended() {
            Some(status) => panic!("maand dev ended: {status}\n{}", dev.printed()),
            None if dev.printed().matches("Ctrl-C").count() > round => Ok(()),
            None => Err(dev.printed()),
        });
        dev.signal(Signal::INT);
        assert_eq!(dev.wait(Duration::from_secs(30)).code(), Some(0), "{}", dev.printed());
        assert!(bucket.rollouts().iter().all(|(_, _, word)| word == "promoted"));
    }
}
