//! "Template / KV errors during stage".

use serde_json::json;

use super::{Shop, says};

#[test]
fn a_key_that_is_missing_a_secret_that_is_missing_and_a_namespace_of_another() {
    let shop = Shop::deployed();
    says(&shop.run(&["cat", "kv", "--jobs", "api"], 0), &["NAMESPACE", "vars/job/api", "mykey", "shop"]);
    says(
        &shop.run(&["cat", "kv", "get", "vars/job/api", "mykey"], 0),
        &["namespace: vars/job/api\n", "key: mykey\n", "value: shop\n"],
    );
    let missing = shop.run(&["cat", "kv", "get", "vars/job/api", "mykez"], 2);
    says(&missing, &["there is no key \"mykez\"", "maand cat kv"]);

    // vault has no hook that could write it before a deploy: build says so, with file and line.
    let spelled = "first\nsecret={{ getSecret(\"token\") }} size={{ get(\"vars/job/notes\", \"size\") }}\n";
    shop.job("notes", json!({"selectors": ["spare"]}));
    shop.bucket.write("workspace/jobs/notes/notes.conf.j2", spelled);
    let wrong = shop.run(&["build"], 3);
    says(
        &wrong,
        &[
            "error[MD0042]: template reads a key that does not exist: \"token\" in secrets/job/notes",
            "at workspace/jobs/notes/notes.conf.j2:2",
            "write it in a hook (put_job_secret)",
        ],
    );
    // A hook that writes it, post_build: the same build is good.
    shop.hook("notes", "hook_token", json!({"executed_on": ["post_build"]}),
        "maand.put_job_secret('token', 's3cret').raise_for_status()\nmaand.put_job_variable('size', '5').raise_for_status()\n");
    shop.run(&["build"], 0);
    shop.run(&["deploy"], 0);
    assert_eq!(shop.agents[2].read("notes", "notes.conf"), "first\nsecret=s3cret size=5\n");

    // One that writes it in pre_deploy: known when the job deploys.
    shop.job("later", json!({"selectors": ["spare"]}));
    shop.bucket.write("workspace/jobs/later/later.conf.j2", "{{ get(\"vars/job/later\", \"made\") }}\n");
    shop.hook(
        "later",
        "hook_make",
        json!({"executed_on": ["pre_deploy"]}),
        "fail_at('make')\nmaand.put_job_variable('made', 'here').raise_for_status()\n",
    );
    says(&shop.run(&["build"], 0), &["warning: job later: ", "a hook is to write it"]);
    shop.run(&["deploy"], 0);
    assert_eq!(shop.agents[2].read("later", "later.conf"), "here\n");
    // One that writes it by hand: maand hooks, then build and deploy.
    shop.job("byhand", json!({"selectors": ["spare"]}));
    shop.bucket.write("workspace/jobs/byhand/key.j2", "{{ get(\"vars/job/byhand\", \"made\") }}\n");
    shop.hook(
        "byhand",
        "hook_make",
        json!({"executed_on": ["cli"]}),
        "maand.put_job_variable('made', 'by hand').raise_for_status()\n",
    );
    says(&shop.run(&["build"], 0), &["a hook is to write it"]);
    let failed = shop.run(&["deploy"], 1);
    says(
        &failed,
        &["deploy failed: byhand\n", "MD0042", "\"made\" in vars/job/byhand", "workspace/jobs/byhand/key.j2:1"],
    );
    shop.run(&["hooks", "hook_make", "byhand"], 0);
    shop.run(&["build"], 0);
    shop.run(&["deploy"], 0);
    assert_eq!(shop.agents[2].read("byhand", "key"), "by hand\n");

    // Allowed namespaces only.
    shop.bucket.write("workspace/jobs/byhand/key.j2", "{{ get(\"vars/job/api\", \"mykey\") }}\n");
    let wrong = shop.run(&["build"], 3);
    says(
        &wrong,
        &[
            "error[MD0043]: template reads a namespace that it may not read: vars/job/api",
            "at workspace/jobs/byhand/key.j2:1",
            "it may read maand/bucket",
        ],
    );
}
