//! `maand job create`: what it makes works as it is.

use crate::support::{agents, bare, bucket, hosts};

#[test]
fn a_new_job_builds_and_deploys_as_it_is() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["plain", "web", "gpu"]);
    let made = bucket.maand(&["job", "create", "plain"]).expect(0);
    assert!(made.stdout.contains("workspace/jobs/plain") && made.stderr.contains("maand build"), "{made:?}");
    bucket.maand(&["job", "create", "picky", "--selectors", "web, gpu"]).expect(0);
    bucket.maand(&["job", "create", "elsewhere", "-s", "tape", "-s", "robot"]).expect(0);
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    let words: Vec<(String, String)> = bucket.rollouts().into_iter().map(|(job, _, word)| (job, word)).collect();
    assert_eq!(
        words,
        [("picky", "promoted"), ("plain", "promoted")].map(|(job, word)| (job.to_owned(), word.to_owned()))
    );
    for job in ["plain", "picky"] {
        assert!(!agents[0].read(job, "data/started").is_empty(), "{job} was started");
    }
    // An edit restarts it; out of the workspace it is stopped.
    bucket.write("workspace/jobs/plain/app.conf", "a = 1\n");
    bucket.maand(&["deploy", "--build"]).expect(0);
    assert!(bucket.rollouts().iter().all(|(_, _, word)| word == "promoted"));
    let selectors = bucket.cat("jobs");
    let of =
        |job: &str| selectors.as_array().unwrap().iter().find(|row| row["job"] == job).unwrap()["selectors"].clone();
    assert_eq!((of("plain"), of("picky")), (serde_json::json!(["plain"]), serde_json::json!(["gpu", "web"])));
}

#[test]
fn a_job_is_not_made_over_another_nor_outside_of_a_bucket() {
    let bucket = bucket();
    bucket.maand(&["job", "create", "api"]).expect(0);
    bucket.write("workspace/jobs/api/Makefile", "start:\n\t@true\n");
    let refused = bucket.maand(&["job", "create", "api"]).expect(2);
    assert!(refused.stderr.contains("job api is there already"), "{}", refused.stderr);
    assert_eq!(bucket.read("workspace/jobs/api/Makefile"), "start:\n\t@true\n");
    for arguments in [&["job", "create", "Api"][..], &["job", "create", "../x"], &["job", "create", "x", "-s", "GPU"]] {
        let refused = bucket.maand(arguments).expect(2);
        assert!(refused.stderr.contains("MD0024"), "{}", refused.stderr);
    }
    assert!(!bucket.path("workspace/jobs/x").exists());
    let bare = bare();
    bare.maand(&["job", "create", "api"]).expect(4);
    assert!(!bare.path("workspace").exists());
}
