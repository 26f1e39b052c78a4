//! A machine was started from an image of a worker: two agents have one identity.

use harness::agents::Agent;
use harness::poll;

use super::*;

/// Words that run a command as on another machine, of another id and boot; `None` where mount namespaces are not
/// permitted.
fn another_machine(bucket: &Bucket, id: char) -> Option<Vec<String>> {
    let dir = bucket.dir().join(format!("machine-{id}"));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("id"), format!("{}\n", String::from(id).repeat(32))).unwrap();
    let boot = String::from(id);
    let boot = [8, 4, 4, 4, 12].map(|count| boot.repeat(count)).join("-");
    std::fs::write(dir.join("boot"), format!("{boot}\n")).unwrap();
    let script = format!(
        "mount --bind {0}/id /etc/machine-id && mount --bind {0}/boot /proc/sys/kernel/random/boot_id && exec \"$@\"",
        dir.display()
    );
    let words: Vec<String> = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    let mut probe = std::process::Command::new(&words[0]);
    probe.args(&words[1..]).arg("true");
    let probed = harness::process::finish(probe, poll::LONG);
    if probed.code != 0 {
        assert!(std::env::var_os("MAAND_CI").is_none(), "mount namespaces are needed here: {}", probed.stderr);
        println!("skipped: mount namespaces are not permitted here: {}", probed.stderr);
        return None;
    }
    Some(words)
}

fn on(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn said(agent: &Agent, word: &str) {
    poll::until(word, poll::LONG, || {
        let said = status(agent);
        if said["refused"]["error"] == word { Ok(()) } else { Err(said.to_string()) }
    });
}

#[test]
fn a_copied_identity_does_not_run_until_it_is_adopted() {
    let (bucket, hosts) = prepared(1, &[]);
    let Some(one) = another_machine(&bucket, 'a') else { return };
    let Some(two) = another_machine(&bucket, 'b') else { return };
    let _serve = bucket.serve();
    let mut agent = Agent::prepare(&bucket, &hosts[0], &on(&one));
    agent.enrol(&bucket).expect(0);
    agent.start();
    agent.wait_online(&bucket);
    bucket.maand(&["deploy"]).expect(0);
    let clone = clone_of(&bucket, &hosts[0], "clone", &on(&two));
    let mut run = clone.command();
    run.arg("run");
    let refused = harness::process::finish(run, poll::LONG).expect(3);
    for word in ["MD0094", "--replace", "maand-agent adopt"] {
        assert!(refused.stderr.contains(word), "{word}: {}", refused.stderr);
    }
    bucket.maand(&["agent", "ping", &hosts[0]]).expect(0);
    // The same machine after its id was changed.
    agent.kill();
    let mut moved = clone;
    let mut adopt = moved.command();
    adopt.arg("adopt");
    harness::process::finish(adopt, poll::LONG).expect(0);
    moved.start();
    bucket.maand(&["agent", "ping", &hosts[0]]).expect(0);
    assert_eq!(row(&bucket, &hosts[0])["state"], "online");
}

#[test]
fn the_later_start_counts_and_two_that_take_turns_are_quarantined_by_name() {
    let (bucket, hosts) = prepared(1, &["pickup_timeout = 2"]);
    let host = hosts[0].as_str();
    let Some(one) = another_machine(&bucket, 'a') else { return };
    let Some(two) = another_machine(&bucket, 'b') else { return };
    let _serve = bucket.serve();
    let mut agent = Agent::prepare(&bucket, host, &on(&one));
    agent.enrol(&bucket).expect(0);
    agent.start();
    agent.wait_online(&bucket);
    bucket.maand(&["deploy"]).expect(0);
    let ran = agent.read("api", "data/ran");
    let mut clone = clone_of(&bucket, host, "clone", &on(&two));
    let mut adopt = clone.command();
    adopt.arg("adopt");
    harness::process::finish(adopt, poll::LONG).expect(0);
    clone.start();
    // The first one is told at once, although it waits in a request, and goes on running what runs.
    said(&agent, "superseded");
    let printed = agent.process().printed();
    assert!(printed.contains("another agent has started with this identity"), "{printed}");
    assert!(agent.process().ended().is_none());
    bucket.maand(&["agent", "ping", host]).expect(0);
    assert_eq!(row(&bucket, host)["alarm"], Value::Null, "once may be a move");

    agent.kill();
    agent.start();
    said(&clone, "superseded");
    clone.kill();
    clone.start();
    said(&clone, "quarantined");
    let row = row(&bucket, host);
    assert_eq!(row["state"], "quarantined", "{row}");
    let alarm = row["alarm"].as_str().unwrap();
    assert!(
        alarm.contains("two machines take turns") && alarm.contains("boot aaaaaaaa") && alarm.contains("boot bbbbbbbb"),
        "{alarm}"
    );
    let (so, remedy) = why(&bucket, host);
    assert!(so.contains("boot aaaaaaaa") && remedy.contains(&format!("maand agent resolve {host}")), "{so} / {remedy}");
    assert!(bucket.read("logs/maand.log").contains("worker_quarantined"));
    // No work for either; what runs is not touched.
    bucket.write("workspace/jobs/api/new.txt", "1");
    bucket.maand(&["build"]).expect(0);
    bucket.maand(&["deploy"]).expect(1);
    assert!(!agent.job_path("api", "new.txt").exists() && !clone.job_path("api", "new.txt").exists());
    assert_eq!(agent.read("api", "data/ran"), ran);

    // An operator decides: the first machine stays.
    clone.kill();
    bucket.maand(&["agent", "resolve", host]).expect(0);
    agent.kill();
    agent.start();
    agent.wait_online(&bucket);
    bucket.maand(&["deploy"]).expect(0);
    assert!(agent.job_path("api", "new.txt").exists());
    assert!(status(&agent)["refused"].is_null());
}
