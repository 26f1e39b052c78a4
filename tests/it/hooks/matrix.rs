//! Who may read and write which key-values (`spec/behaviour.md` 6.2 and 6.3), row by row; secrets, from the
//! hook that writes them to the file that is made of them.

use serde_json::json;
use shared::{BlobDigest, BundleDigest};

use super::{job, live, workers};

/// Asks for each line of the table, and prints it with the answer behind it.
const ASK: &str = r#"
import json, maand
for line in open('table'):
    words = line.split()
    if not words: continue
    method, path, namespace, key = words[0], words[1], words[2], words[3]
    body = {'namespace': namespace, 'key': key}
    if method == 'PUT': body['value'] = 'written'
    answer = maand._call(method, path, body)
    print(method, path, namespace, key, answer.status_code)
"#;

/// method, path, namespace, key, status.
const TABLE: &str = "
GET /kv maand/bucket bucket_id 200
GET /kv vars/bucket where 200
GET /kv maand/worker all_workers 200
GET /kv maand/worker/w1 worker_ip 200
GET /kv maand/worker/w1/tags rack 200
GET /kv maand/worker/w2 worker_ip 400
GET /kv maand/worker/w2/tags rack 400
GET /kv maand/job/api name 200
GET /kv maand/job/api deploy_order 200
GET /kv vars/bucket/job/api memory 200
GET /kv vars/job/api own 200
GET /kv secrets/job/api own 200
GET /kv maand/job/api/worker/w1 api_allocation_index 200
GET /kv maand/job/api/worker/w1 peer_workers 200
GET /kv maand/job/api/worker/w1 certs/tls.key 200
GET /kv maand/job/api/worker/w2 api_allocation_index 400
GET /kv maand/job/db name 200
GET /kv vars/job/db shared 200
GET /kv secrets/job/db password 200
GET /kv vars/bucket/job/db memory 400
GET /kv maand/job/db/worker/w1 db_allocation_index 400
GET /kv maand/job/other name 400
GET /kv vars/job/other k 400
GET /kv secrets/job/other k 400
GET /kv nonsense k 400
GET /kv vars/job/api missing 404
GET /kv secrets/job/api missing 404
PUT /kv maand/bucket k 400
PUT /kv vars/bucket k 400
PUT /kv maand/worker/w1 k 400
PUT /kv maand/job/api version 400
PUT /kv maand/job/api rollout_order 200
PUT /kv maand/job/api deploy_order 200
PUT /kv maand/job/db rollout_order 400
PUT /kv vars/bucket/job/api k 400
PUT /kv vars/job/api new 200
PUT /kv vars/job/db k 400
PUT /kv secrets/job/api k 400
PUT /kv maand/job/api/worker/w1 k 400
DELETE /kv vars/job/api new 200
DELETE /kv vars/job/api new 404
DELETE /kv vars/job/api never 404
DELETE /kv maand/job/api rollout_order 400
DELETE /kv secrets/job/api own 400
DELETE /kv vars/job/db shared 400
PUT /kv/secret secrets/job/api new 200
PUT /kv/secret vars/job/api k 400
PUT /kv/secret secrets/job/db k 400
DELETE /kv/secret secrets/job/api new 200
DELETE /kv/secret secrets/job/api new 404
DELETE /kv/secret vars/job/api own 400
DELETE /kv/secret secrets/job/db password 400
";

#[test]
fn every_row_of_the_matrix() {
    let bucket = workers(2);
    let tagged = |host: &str| json!({"host": host, "labels": ["all"], "tags": {"rack": "r1"}});
    bucket.write("workspace/workers.json", &json!([tagged("w1"), tagged("w2")]).to_string());
    bucket.write("workspace/bucket.conf", "where = \"here\"\n");
    bucket.write("workspace/bucket.jobs.conf", "[api]\nmemory = \"0\"\n[db]\nmemory = \"0\"\n");
    let cli = json!({"executed_on": ["cli"]});
    let seed = "import maand\nmaand.put_job_secret('password', 'x').raise_for_status()\n\
                maand.put_job_variable('shared', 'y').raise_for_status()\n";
    job(&bucket, "db", &[("hook_seed", cli.clone(), seed)]);
    job(&bucket, "other", &[]);
    bucket.write("workspace/jobs/other/vars.toml", "k = \"v\"\n");
    let demand = json!({"executed_on": ["cli"], "demands": {"job": "db", "hook": "hook_seed"}});
    let own = "import maand\nmaand.put_job_secret('own', 'x').raise_for_status()\n\
               maand.put_job_variable('own', 'y').raise_for_status()\n";
    job(&bucket, "api", &[("hook_ask", cli.clone(), ASK), ("hook_own", cli, own), ("hook_demand", demand, "pass\n")]);
    let mut manifest: serde_json::Value =
        serde_json::from_str(&bucket.read("workspace/jobs/api/manifest.json")).unwrap();
    manifest["certs"] = json!({"tls": {}});
    bucket.write("workspace/jobs/api/manifest.json", &manifest.to_string());
    bucket.write("workspace/jobs/api/_modules/table", TABLE);
    bucket.maand(&["build"]).expect(0);
    bucket.maand(&["hooks", "hook_seed"]).expect(0);
    bucket.maand(&["hooks", "hook_own"]).expect(0);
    let output = bucket.maand(&["hooks", "hook_ask", "--verbose"]).expect(0);
    let said: Vec<&str> = output.stderr.lines().filter_map(|line| line.strip_prefix("api@w1 | ")).collect();
    let want: Vec<&str> = TABLE.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(said[..want.len()], want);
    assert_eq!(live(&bucket, "maand/job/api").iter().find(|(key, _)| key == "rollout_order").unwrap().1, "written");
    assert!(live(&bucket, "maand/job/api").iter().all(|(key, _)| key != "deploy_order"), "an alias, no key");
    bucket.maand(&["build"]).expect(0);
    let order = live(&bucket, "maand/job/api").into_iter().find(|(key, _)| key == "rollout_order").unwrap();
    assert_eq!(order.1, "w1,w2", "every build sets it anew");
}

#[test]
fn a_request_that_is_none_is_refused_with_what_is_wrong() {
    let script = r#"
import maand
def show(answer): print(answer.status_code, answer.text.strip())
show(maand._call('GET', '/kv'))
show(maand._call('GET', '/kv?namespace=vars/bucket&key=%20'))
show(maand._call('PUT', '/kv', {'namespace': 'vars/job/api', 'key': 'k', 'value': ' '}))
show(maand._call('PUT', '/kv', {'namespace': 'vars/job/api', 'key': 'k' * 300, 'value': 'x'}))
show(maand._call('PUT', '/kv', ['no object']))
show(maand._call('PUT', '/kv', {'namespace': 'vars/job/api', 'key': 'k', 'value': 'x' * (2 << 20)}))
show(maand._call('GET', '/kv/keys'))
show(maand._call('GET', '/kv/keys', {}))
show(maand._call('GET', '/kv/keys', {'namespace': 'vars/bucket'}))
show(maand._call('POST', '/kv', {}))
show(maand._call('GET', '/nowhere', {}))
"#;
    let bucket = super::built(1, script);
    let output = bucket.maand(&["hooks", "hook_x", "--verbose"]).expect(0);
    let said: Vec<&str> =
        output.stderr.lines().filter_map(|line| line.strip_prefix("api@w1 | ")).map(str::trim).collect();
    assert_eq!(
        said[..11],
        [
            "400 the body is empty: send JSON",
            "400 key is missing or blank",
            "400 value is missing or blank",
            "400 key is longer than 256 bytes, or has control characters",
            "400 the body cannot be read: invalid type: sequence, expected a map at line 1 column 0",
            "413 the body is longer than 1 MiB, or broke off",
            "400 the body is empty: send JSON",
            r#"200 {"namespaces":{"secrets/job/api":[],"vars/job/api":[]}}"#,
            "400 keys are listed of vars/job/api and secrets/job/api, not \"vars/bucket\"",
            "405",
            "404 there is no such path: /demands, /kv, /kv/keys, /kv/secret, /make, /script, /semaphore/acquire, \
             /semaphore/release, /semaphore/status",
        ]
    );
}

#[test]
fn a_secret_goes_from_a_hook_to_a_template_and_is_shown_to_nobody_who_does_not_ask() {
    let bucket = workers(1);
    let cli = json!({"executed_on": ["cli"]});
    let script = "import maand\nmaand.put_job_secret('password', ' p4ss ').raise_for_status()\n\
                  assert maand.get_kv_value('secrets/job/api', 'password') == ' p4ss '\n";
    job(&bucket, "api", &[("hook_x", cli, script)]);
    bucket.maand(&["build"]).expect(0);
    bucket.maand(&["hooks", "hook_x"]).expect(0);
    assert_eq!(live(&bucket, "secrets/job/api"), [("password".to_owned(), "[encrypted]".to_owned())]);
    let get = ["cat", "kv", "get", "secrets/job/api", "password"];
    assert!(bucket.maand(&get).expect(0).stdout.contains("value: [encrypted]"));
    assert!(bucket.maand(&[&get[..], &["--reveal"]].concat()).expect(0).stdout.contains("value:  p4ss "));
    // The same again is no new version, though its sealed form would differ.
    bucket.maand(&["hooks", "hook_x"]).expect(0);
    assert!(bucket.maand(&get).expect(0).stdout.contains("version: 1"));

    bucket.write("workspace/jobs/api/app.conf.j2", "password={{ get_secret('password') }}");
    bucket.maand(&["build"]).expect(0);
    let catalog = controller::catalog::Catalog::open(&bucket.path("data/maand.db")).unwrap();
    let digest: String = catalog.connection().query_row("SELECT bundle FROM allocation", [], |row| row.get(0)).unwrap();
    let digest: BundleDigest = digest.parse().unwrap();
    let bundle = controller::catalog::bundles::get(catalog.connection(), &digest).unwrap().unwrap();
    let entry = bundle.get("app.conf").unwrap();
    assert_eq!((entry.blob, entry.private), (BlobDigest::of(b"password= p4ss "), true));
    for place in ["data/maand.db", "data/maand.db-wal", "logs/w1.log", "logs/maand.log"] {
        let bytes = std::fs::read(bucket.path(place)).unwrap_or_default();
        assert!(!bytes.windows(6).any(|window| window == b" p4ss "), "{place}");
    }
}
