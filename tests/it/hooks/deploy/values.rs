//! What hooks write in a deploy, and the templates that read it.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::Fleet;

#[test]
fn a_secret_of_a_pre_deploy_hook_is_in_the_files_of_the_same_deploy() {
    let mut fleet = Fleet::new(2);
    let script = "note(event, n(host))\nsecret = open(HOME + '/secret').read()\n\
                  maand.put_job_secret('token', secret).raise_for_status()\n\
                  maand.put_job_variable('leader', 'node-' + secret[0]).raise_for_status()\n";
    fleet.job("api", json!({}), &["pre_deploy"], script);
    fleet
        .bucket
        .write("workspace/jobs/api/conf/token.j2", "{{ get_secret('token') }} {{ get('vars/job/api', 'leader') }}");
    std::fs::write(fleet.flag("secret"), "s3cret").unwrap();
    fleet.up();

    // What a dry run's hooks write is thrown away, and none of it reaches a file of the bucket.
    let dry = fleet.bucket.maand(&["deploy", "--dry-run"]).expect(0);
    assert!(dry.stdout.contains("job \"api\": deploy required") && dry.stdout.contains("start"), "{}", dry.stdout);
    assert!(!dry.stdout.contains("undecided"), "{}", dry.stdout);
    assert_eq!(fleet.notes(), ["pre_deploy h0", "pre_deploy h1"]);
    assert_eq!(super::super::live(&fleet.bucket, "secrets/job/api"), []);
    assert_eq!(super::super::live(&fleet.bucket, "vars/job/api"), []);
    let without = fleet.bucket.maand(&["deploy", "--dry-run", "--no-hooks"]).expect(0);
    assert!(without.stdout.contains("undecided"), "{}", without.stdout);
    assert!(fleet.notes().is_empty());

    fleet.bucket.maand(&["deploy"]).expect(0);
    for agent in &fleet.agents {
        assert_eq!(agent.read("api", "conf/token"), "s3cret node-s");
        let mode = std::fs::metadata(agent.job_path("api", "conf/token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}: secrets are their owner's");
    }
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.ran("api"), ["start", "start"], "the same secret changes nothing");

    // Without a build: the hook itself brings another one.
    std::fs::write(fleet.flag("secret"), "other").unwrap();
    let dry = fleet.bucket.maand(&["deploy", "-n"]).expect(0).stdout;
    assert!(dry.contains("restart"), "{dry}");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.ran("api"), ["start restart", "start restart"]);
    assert_eq!(fleet.agents[1].read("api", "conf/token"), "other node-o");
    // The next build finds what was deployed.
    fleet.bucket.maand(&["build"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted"; 2]);
}

#[test]
fn a_job_reads_what_the_hooks_of_the_job_before_it_wrote_in_the_same_deploy() {
    let mut fleet = Fleet::new(1);
    let script = "maand.put_job_variable('url', 'db://' + open(HOME + '/port').read()).raise_for_status()\n";
    fleet.job_with(
        "db",
        json!({"version": "1.0.0"}),
        &[("hook_up", json!({"executed_on": ["post_deploy", "cli"]}), script)],
    );
    let demands = json!({"executed_on": ["cli"], "demands": {"job": "db", "hook": "hook_up"}});
    fleet.job_with("web", json!({"version": "1.0.0"}), &[("hook_y", demands, "")]);
    fleet.bucket.write("workspace/jobs/web/conf.j2", "{{ get('vars/job/db', 'url') }}");
    std::fs::write(fleet.flag("port"), "1").unwrap();
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.agents[0].read("web", "conf"), "db://1");
    assert_eq!(fleet.ran("web"), ["start"]);
    // db rolls and writes another value: web, which was in sync, follows in the same deploy.
    std::fs::write(fleet.flag("port"), "2").unwrap();
    fleet.edit("db", "x");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.agents[0].read("web", "conf"), "db://2");
    assert_eq!(
        (fleet.ran("db"), fleet.ran("web")),
        (vec!["start restart".to_owned()], vec!["start restart".to_owned()])
    );
    let after = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(after.contains("no deployment required"), "{after}");
}

#[test]
fn a_template_that_misses_what_no_hook_wrote_fails_its_job_with_its_place() {
    let mut fleet = Fleet::new(1);
    fleet.job("api", json!({}), &["pre_deploy"], "note('ran')\n");
    fleet.bucket.write("workspace/jobs/api/conf.j2", "\n{{ get('vars/job/api', 'gone') }}");
    fleet.bucket.recording_job("b", &json!({"selectors": ["all"]}));
    fleet.up();
    for words in [&["deploy", "-n"][..], &["deploy"]] {
        let failed = fleet.bucket.maand(words).expect(1);
        assert!(failed.stderr.contains("workspace/jobs/api/conf.j2:2"), "{}", failed.stderr);
        assert!(failed.stderr.contains("gone"), "{}", failed.stderr);
    }
    assert_eq!((fleet.words("api"), fleet.words("b")), (vec!["new".to_owned()], vec!["promoted".to_owned()]));
}
