//! "Worker-side inspection", "Staging directory" and "Logging".

use std::os::unix::fs::PermissionsExt;

use harness::poll;
use harness::process::finish;
use serde_json::Value;

use super::{DEPLOY, Shop, says};

#[test]
fn the_paths_on_a_worker_and_the_two_commands_that_look_at_them() {
    let shop = Shop::deployed();
    let (info, agent, host) = (shop.info(), &shop.agents[0], shop.hosts[0].as_str());
    let id = info["bucket_id"].as_str().unwrap();
    let root = agent.root().join(id);
    for path in ["worker.json", "jobs.json", "jobs/api/Makefile", "jobs/api/data/", "jobs/api/logs/", "bin/runner.py"] {
        assert!(root.join(path).exists(), "{path}");
    }
    let jobs: Value = serde_json::from_str(&std::fs::read_to_string(root.join("jobs.json")).unwrap()).unwrap();
    let mut names: Vec<&str> = jobs.as_array().unwrap().iter().map(|row| row["job"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["api", "vault"], "{jobs}");

    // Without a login there, and compared with maand info.
    let cat = format!("cat {}/worker.json", root.display());
    let output = shop.bucket.maand(&["run_command", &cat, "--workers", host]).expect(0).stdout;
    let text: String = output.lines().map(|line| line.strip_prefix(&format!("{host} | ")).unwrap()).collect();
    let worker: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&worker["update_seq"], &worker["bucket_id"], &worker["worker_ip"]),
        (&info["update_seq"], &info["bucket_id"], &host.into())
    );
    let list = format!("ls -la {}/jobs/api/", root.display());
    says(&shop.run(&["run_command", &list, "--workers", host], 0), &["Makefile", "app.conf", "data", "logs"]);

    // The agent's own local commands, with the controller away, and the older runner.py.
    let mut shop = shop;
    shop.serve = None;
    let local = |words: &[&str]| {
        let mut command = shop.agents[0].command();
        command.args(words);
        let output = finish(command, poll::LONG).expect(0);
        output.stdout + &output.stderr
    };
    says(&local(&["status"]), &["api", "vault"]);
    says(&local(&["make", "api", "status"]), &["api status "]);
    says(&local(&["logs", "api"]), &["api start 0.0.0 1.0.0"]);
    let mut runner = std::process::Command::new("python3");
    runner.arg(root.join("bin/runner.py")).args([id, "status", "--jobs", "vault"]);
    says(&finish(runner, poll::LONG).expect(0).stdout, &["vault status "]);
}

#[test]
fn the_staging_directory_is_there_while_a_deploy_lasts_and_gone_after_it() {
    let shop = Shop::up();
    for fails in [false, true] {
        shop.raise("hold.vault");
        if fails {
            shop.raise("fail.vault");
            shop.edit("vault", "2");
            shop.run(&["build"], 0);
        }
        let mut deploy = shop.bucket.start("deploy", &["deploy"]);
        let worker = format!("tmp/workers/{}", shop.hosts[0]);
        let tree = shop.bucket.path(&format!("{worker}/jobs/vault"));
        poll::until("the rendered trees", poll::LONG, || {
            if tree.join("Makefile").exists() { Ok(()) } else { Err(deploy.printed()) }
        });
        assert_eq!(tree.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let told: Value = serde_json::from_str(&shop.bucket.read(&format!("{worker}/worker.json"))).unwrap();
        assert_eq!(
            (&told["update_seq"], &told["worker_ip"]),
            (&shop.info()["update_seq"], &shop.hosts[0].as_str().into())
        );
        shop.lower("hold.vault");
        assert_eq!(deploy.wait(DEPLOY).code(), Some(i32::from(fails)), "{}", deploy.printed());
        assert!(!shop.bucket.path("tmp/workers").exists(), "it goes with the command, well or not");
    }
    shop.lower("fail.vault");
    // On demand it stays, and a deploy leaves it as it is.
    shop.run(&["stage", "--jobs", "vault", "--workers", &shop.hosts[0]], 0);
    let staged = shop.bucket.path(&format!("tmp/workers/{}", shop.hosts[0]));
    shop.raise("hold.vault");
    let mut deploy = shop.bucket.start("deploy", &["deploy"]);
    poll::until(
        "the target",
        poll::LONG,
        || {
            if shop.ran(0, "vault").len() == 3 { Ok(()) } else { Err(deploy.printed()) }
        },
    );
    shop.lower("hold.vault");
    assert_eq!(deploy.wait(DEPLOY).code(), Some(0), "{}", deploy.printed());
    assert!(staged.join("worker.json").is_file() && staged.join("jobs/vault/Makefile").is_file());
}

#[test]
fn the_three_places_of_the_logs_and_the_two_commands_that_show_them() {
    let shop = Shop::deployed();
    shop.run(&["deploy"], 0);
    let (first, second) = (shop.hosts[0].as_str(), shop.hosts[1].as_str());
    let of_worker = shop.bucket.read(&format!("logs/{second}.log"));
    says(
        &of_worker,
        &[
            "event=command_begin",
            "job=postgres",
            "phase=rollout",
            "action=start",
            "cmd=\"make -s -C jobs/postgres start\"",
        ],
    );
    says(&shop.bucket.read("logs/maand.log"), &["event=deploy_skip", "maand=deploy"]);
    let run = of_worker.lines().find_map(|line| line.split(" run=").nth(1)?.split(' ').next()).unwrap();
    says(
        &std::fs::read_to_string(shop.bucket.path(&format!("logs/runs/{run}/{second}.log"))).unwrap(),
        &["job=postgres"],
    );

    let shown = shop.run(&["logs", "show", "--worker", second, "--job", "postgres", "--format", "human"], 0);
    says(
        &shown,
        &[&format!(
            "rollout start postgres@{second}\n$ make -s -C jobs/postgres start\n| postgres start 0.0.0 1.0.0\nok exit=0 "
        )],
    );
    assert!(!shown.contains(first) && !shown.contains("api"), "{shown}");
    let skipped = shop.run(&["logs", "show", "--event", "deploy_skip", "--format", "human"], 0);
    for job in ["vault", "postgres", "api"] {
        says(&skipped, &[&format!("deploy_skip {job}: deploy complete on all allocations")]);
    }
    // The phase that was rsync is fetch.
    shop.edit("postgres", "2");
    shop.run(&["build"], 0);
    shop.run(&["deploy", "--sync-only"], 0);
    says(
        &shop.run(&["logs", "show", "--worker", second, "--phase", "fetch", "--format", "human"], 0),
        &["fetch sync postgres@"],
    );
}
