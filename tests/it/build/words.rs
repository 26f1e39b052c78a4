//! Older words: they work, with one warning a build.

use serde_json::json;

use super::{build, column, job, one_worker, refused, scripts, workspace};

#[test]
fn older_words_work_with_one_warning() {
    let workers = json!([{"host": "w1", "labels": ["api", "db"]}]);
    let bucket = workspace(&workers, &[]);
    let old = |extra: serde_json::Value| {
        let mut manifest = json!({"version": "1", "commands": {"command_x": {"executed_on": ["cli"]}}});
        manifest.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        manifest
    };
    job(&bucket, "db", &old(json!({"update_parallel_count": 2, "deploy_parallel_count": 1})));
    let demanding = json!({"commands": {"command_x": {"executed_on": ["cli"], "demands": {"job": "db", "command": "command_x"}}},
        "health_check": {"checks": [{"type": "ssh", "command": "true"}]}});
    job(&bucket, "api", &old(demanding));
    scripts(&bucket, "db", &["command_x"]);
    scripts(&bucket, "api", &["command_x"]);
    let built = build(&bucket);
    assert_eq!(built.stderr.matches("warning:").count(), 1, "{}", built.stderr);
    for word in [
        "commands is now hooks",
        "command_ is now hook_",
        "demands.command is now demands.hook",
        "update_parallel_count is now max_concurrent_upgrades",
        "deploy_parallel_count is now max_concurrent_starts",
    ] {
        assert!(built.stderr.contains(word), "{word} in {}", built.stderr);
    }
    let rows = column(&bucket, "hooks", &["job", "hook_name"], "demand_hook");
    assert_eq!(rows, [("api command_x".to_owned(), json!("command_x")), ("db command_x".to_owned(), json!(null))]);
    let hooks = bucket.maand(&["cat", "hooks"]).expect(0).stdout;
    assert_eq!(bucket.maand(&["cat", "job_commands"]).expect(0).stdout, hooks);
    job(&bucket, "db", &json!({"resources": {"ports": {"db": {}}}}));
    job(&bucket, "api", &json!({}));
    let built = build(&bucket);
    assert!(!built.stderr.contains("warning"), "{}", built.stderr);
    assert_eq!(bucket.maand(&["cat", "job_ports"]).expect(0).stdout, bucket.maand(&["cat", "ports"]).expect(0).stdout);
}

#[test]
fn the_older_key_of_the_rollout_order_reads_the_same() {
    let bucket = workspace(&one_worker(), &[("api", json!({"commands": {}}))]);
    bucket.write("workspace/jobs/api/order.j2", "{{ get('maand/job/api', 'deploy_order') }}\n");
    let built = build(&bucket);
    assert_eq!(built.stderr.matches("warning:").count(), 1, "{}", built.stderr);
    assert!(built.stderr.contains("deploy_order is now rollout_order"), "{}", built.stderr);
    assert!(built.stderr.contains("commands is now hooks"), "{}", built.stderr);
    assert_eq!(super::must(&bucket, "maand/job/api", "deploy_order"), "w1");
    assert_eq!(crate::support::rendered(&bucket, "api/w1/order"), "w1\n");
    bucket.write("workspace/jobs/api/order.j2", "{{ get_optional('vars/job/api', 'deploy_order') }}\n");
    bucket.write("workspace/jobs/api/manifest.json", "{}");
    let built = build(&bucket);
    assert!(!built.stderr.contains("warning"), "a key of that name elsewhere is another one: {}", built.stderr);
}

#[test]
fn settings_of_the_tool_that_used_ssh_say_what_replaces_them() {
    let bucket = workspace(&one_worker(), &[("api", json!({}))]);
    ["use_sudo = true", "ssh_user = \"agent\"", "ssh_key = \"worker.key\"", "ssh_port = 22"]
        .iter()
        .for_each(|line| bucket.setting(line));
    let built = build(&bucket);
    assert_eq!(built.stderr.matches("warning:").count(), 1, "{}", built.stderr);
    for word in ["use_sudo", "ssh_user", "ssh_key", "ssh_port", "maand agent token HOST", "advertise"] {
        assert!(built.stderr.contains(word), "{word} in {}", built.stderr);
    }
}

#[test]
fn go_templates_are_refused_with_the_way_out() {
    let bucket = workspace(&one_worker(), &[("api", json!({}))]);
    bucket.write("workspace/jobs/api/conf/app.toml.tpl", "ip = {{ .WorkerIP }}\n");
    refused(&bucket, &["MD0027", "workspace/jobs/api/conf/app.toml.tpl", "NAME.j2", "{{ worker_ip }}"]);
    std::fs::remove_file(bucket.path("workspace/jobs/api/Makefile")).unwrap();
    std::fs::rename(
        bucket.path("workspace/jobs/api/conf/app.toml.tpl"),
        bucket.path("workspace/jobs/api/Makefile.tpl"),
    )
    .unwrap();
    refused(&bucket, &["MD0027", "workspace/jobs/api/Makefile.tpl"]);
    std::fs::rename(bucket.path("workspace/jobs/api/Makefile.tpl"), bucket.path("workspace/jobs/api/Makefile.j2"))
        .unwrap();
    bucket.write("workspace/jobs/api/Makefile.j2", "start stop restart reload:\n\t@echo {{ worker_ip }}\n");
    build(&bucket);
}
