//! Certificates of jobs: 13 and 15. Time is moved by the settings and by authorities of the past.

use std::collections::BTreeMap;

use controller::paths::BucketDir;
use controller::tls::ca::{self, Kind};
use harness::bucket::Bucket;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::{build, job, keys, must, now_ms, workspace};
use crate::support::{agents, hosts};

const DAY_MS: i64 = 86_400_000;

/// certs_ttl and certs_renewal_buffer.
fn days(bucket: &Bucket, ttl: u32, buffer: u32) {
    let conf = bucket.read("maand.conf");
    let others: String =
        conf.lines().filter(|line| !line.starts_with("certs_")).map(|line| format!("{line}\n")).collect();
    bucket.write("maand.conf", &format!("{others}certs_ttl = {ttl}\ncerts_renewal_buffer = {buffer}\n"));
}

/// Puts an authority in the place of the bucket's, made so many days ago.
fn authority_made(bucket: &Bucket, days_ago: i64) {
    let info: Value = serde_json::from_str(&bucket.maand(&["info", "--json"]).expect(0).stdout).unwrap();
    let id = info["bucket_id"].as_str().unwrap().parse().unwrap();
    for file in ["secrets/ca.crt", "secrets/ca.key"] {
        std::fs::remove_file(bucket.path(file)).unwrap();
    }
    let dir = BucketDir::new(bucket.path(""));
    assert!(ca::ensure(Kind::Jobs, &dir, id, now_ms() - days_ago * DAY_MS).unwrap());
}

/// `"job host/name"` and PEM of every certificate.
fn issued(bucket: &Bucket) -> BTreeMap<String, String> {
    let rows = bucket.cat("certs");
    let rows = rows.as_array().unwrap().iter().filter(|row| row["scope"] == "job");
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.map(|row| {
        let (job, host, name) = (text(row, "job"), text(row, "worker"), text(row, "cert"));
        let pem = must(bucket, &format!("maand/job/{job}/worker/{host}"), &format!("certs/{name}.crt"));
        (format!("{job} {host}/{name}"), pem)
    })
    .collect()
}

/// What changed from `before` to now.
fn renewed(bucket: &Bucket, before: &BTreeMap<String, String>) -> Vec<String> {
    issued(bucket).into_iter().filter(|(key, pem)| before.get(key) != Some(pem)).map(|(key, _)| key).collect()
}

/// The names that a certificate is good for.
fn names(pem: &str) -> Vec<String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap().value;
    let shown = |name: &x509_parser::extensions::GeneralName<'_>| match name {
        x509_parser::extensions::GeneralName::DNSName(name) => format!("DNS {name}"),
        x509_parser::extensions::GeneralName::IPAddress(bytes) => format!("IP {bytes:?}"),
        other => format!("{other:?}"),
    };
    let mut names: Vec<String> = names.general_names.iter().map(shown).collect();
    names.sort();
    names
}

#[test]
fn names_keys_and_one_for_all() {
    let certs = json!({"tls": {"subject": {"common_name": "api.internal"}}, "all": {"one": true}, "old": {"key": "rsa"},
        "rsa8": {"key": "rsa", "pkcs8": true}, "ec8": {"pkcs8": true}});
    let workers = json!([{"host": "10.1.2.3", "labels": ["api"]}, {"host": "db.example", "labels": ["api"]}]);
    let bucket = workspace(&workers, &[("api", json!({"certs": certs}))]);
    build(&bucket);
    let of = |host: &str, name: &str| must(&bucket, &format!("maand/job/api/worker/{host}"), &format!("certs/{name}"));
    assert_eq!(names(&of("10.1.2.3", "tls.crt")), ["DNS localhost", "IP [10, 1, 2, 3]", "IP [127, 0, 0, 1]"]);
    assert_eq!(names(&of("db.example", "tls.crt")), ["DNS db.example", "DNS localhost", "IP [127, 0, 0, 1]"]);
    let all = of("10.1.2.3", "all.crt");
    assert_eq!(all, of("db.example", "all.crt"));
    assert_eq!(of("10.1.2.3", "all.key"), of("db.example", "all.key"));
    assert_eq!(names(&all), ["DNS db.example", "DNS localhost", "IP [10, 1, 2, 3]", "IP [127, 0, 0, 1]"]);
    for (name, kind) in
        [("tls", "EC PRIVATE KEY"), ("old", "RSA PRIVATE KEY"), ("rsa8", "PRIVATE KEY"), ("ec8", "PRIVATE KEY")]
    {
        let key = of("db.example", &format!("{name}.key"));
        assert!(key.starts_with(&format!("-----BEGIN {kind}-----\n")), "{name}");
    }
    let rows = bucket.cat("certs");
    let row = |cert: &str| rows.as_array().unwrap().iter().find(|row| row["cert"] == cert).unwrap().clone();
    assert_eq!(
        (row("tls")["common_name"].as_str(), row("all")["common_name"].as_str()),
        (Some("api.internal"), Some("api"))
    );
    assert_eq!((row("tls")["status"].as_str(), row("tls")["days_left"].as_i64()), (Some("ok"), Some(59)));
    assert_eq!((row("ca")["scope"].as_str(), row("ca")["days_left"].as_i64()), (Some("ca"), Some(3649)));
    let hidden = bucket.maand(&["cat", "kv", "--jobs", "api"]).expect(0).stdout;
    assert!(!hidden.contains("PRIVATE KEY"), "keys are sealed: {hidden}");
}

#[test]
fn only_what_is_due_or_changed_is_issued() {
    let tls = json!({"certs": {"tls": {}, "other": {}}});
    let bucket = workspace(&json!([]), &[("api", tls), ("web", json!({"selectors": ["api"], "certs": {"tls": {}}}))]);
    bucket.workers(&["w1".to_owned(), "w2".to_owned()], &["api"]);
    build(&bucket);
    let first = issued(&bucket);
    assert_eq!(first.len(), 6);
    let again = bucket.maand(&["build", "--json"]).expect(0).stdout;
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap()["certificates_issued"], 0);
    assert_eq!(issued(&bucket), first, "an unchanged rebuild issues nothing");
    // A worker more: its own alone.
    bucket.workers(&["w1", "w2", "w3"].map(str::to_owned), &["api"]);
    build(&bucket);
    assert_eq!(renewed(&bucket, &first), ["api w3/other", "api w3/tls", "web w3/tls"]);
    // Another subject: that name of that job.
    let before = issued(&bucket);
    job(&bucket, "api", &json!({"certs": {"tls": {"subject": {"common_name": "x"}}, "other": {}}}));
    build(&bucket);
    assert_eq!(renewed(&bucket, &before), ["api w1/tls", "api w2/tls", "api w3/tls"]);
    // Longer than they last, with a window that they are in: all, once.
    let before = issued(&bucket);
    days(&bucket, 100, 60);
    let shown = bucket.maand(&["cat", "certs", "--jobs", "web", "--json"]).expect(0).stdout;
    assert_eq!(shown.matches("\"expiring\"").count(), 3, "{shown}");
    build(&bucket);
    assert_eq!(renewed(&bucket, &before).len(), 9, "inside the window");
    let before = issued(&bucket);
    build(&bucket);
    assert_eq!(issued(&bucket), before);
    // Taken out of the manifest: gone from the list and from the key-values.
    job(&bucket, "api", &json!({"certs": {"other": {}}}));
    build(&bucket);
    assert_eq!(issued(&bucket).keys().filter(|key| key.contains("api") && key.contains("tls")).count(), 0);
    assert!(!keys(&bucket, "maand/job/api/worker/w1").iter().any(|key| key.contains("tls")));
    assert_eq!(must(&bucket, "maand/job/api/worker/w1", "certs/other.crt"), before["api w1/other"]);
    job(&bucket, "api", &json!({}));
    build(&bucket);
    assert!(!keys(&bucket, "maand/job/api/worker/w1").iter().any(|key| key.starts_with("certs/")));
    // Ended: said so, and issued anew.
    let catalog = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.execute("UPDATE certificate SET not_after = ?1 WHERE host = 'w1'", [now_ms() - DAY_MS]).unwrap();
    let before = issued(&bucket);
    assert_eq!(bucket.cat("certs").as_array().unwrap().iter().filter(|row| row["status"] == "expired").count(), 1);
    build(&bucket);
    assert_eq!(renewed(&bucket, &before), ["web w1/tls"]);
}

#[test]
fn another_authority_issues_everything_anew() {
    let bucket = workspace(&json!([]), &[("api", json!({"certs": {"tls": {}, "all": {"one": true}}}))]);
    bucket.workers(&["w1".to_owned(), "w2".to_owned()], &["api"]);
    build(&bucket);
    let before = issued(&bucket);
    let ca = must(&bucket, "maand/worker", "certs/ca.crt");
    for file in ["ca.crt", "ca.key"] {
        std::fs::rename(bucket.path(&format!("secrets/{file}")), bucket.dir().join(file)).unwrap();
    }
    let made = bucket.maand(&["init"]).expect(0);
    assert!(made.stdout.contains("secrets/ca.crt"), "{}", made.stdout);
    build(&bucket);
    assert_eq!(renewed(&bucket, &before).len(), 4);
    assert_ne!(must(&bucket, "maand/worker", "certs/ca.crt"), ca);
    // Half of one is not taken for none.
    std::fs::remove_file(bucket.path("secrets/ca.key")).unwrap();
    let half = bucket.maand(&["init"]);
    assert!(half.code != 0 && half.stderr.contains("secrets/ca.key"), "{half:?}");
}

#[test]
fn an_authority_of_ones_own_is_used_and_what_is_none_is_refused() {
    let bucket = workspace(&super::one_worker(), &[("api", json!({"certs": {"tls": {}}}))]);
    let own = |ca: bool| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "our own");
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        if ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        bucket.write("secrets/ca.crt", &params.self_signed(&key).unwrap().pem());
        bucket.write("secrets/ca.key", &key.serialize_pem());
    };
    own(true);
    build(&bucket);
    assert_eq!(must(&bucket, "maand/worker", "certs/ca.crt"), bucket.read("secrets/ca.crt").trim());
    let pem = issued(&bucket).remove("api w1/tls").unwrap();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(leaf.issuer().to_string().contains("our own"), "{}", leaf.issuer());

    own(false);
    let refused = bucket.maand(&["build"]).expect(3);
    assert!(refused.stderr.contains("MD0012") && refused.stderr.contains("is no authority"), "{}", refused.stderr);
    own(true);
    bucket.write("secrets/ca.key", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    let refused = bucket.maand(&["build"]).expect(3);
    assert!(refused.stderr.contains("does not belong to the key in secrets/ca.key"), "{}", refused.stderr);
    assert_eq!(issued(&bucket)["api w1/tls"], pem, "nothing changed");
}

#[test]
fn an_authority_that_ends_is_warned_of_and_one_that_ended_builds_nothing() {
    let bucket = workspace(&super::one_worker(), &[("api", json!({"certs": {"tls": {}}}))]);
    authority_made(&bucket, 3645);
    let warned = build(&bucket);
    assert_eq!(warned.stderr.matches("warning:").count(), 1, "{}", warned.stderr);
    assert!(warned.stderr.contains("certificate authority ends soon"), "{}", warned.stderr);
    let rows = bucket.cat("certs");
    assert_eq!((rows[0]["status"].as_str(), rows[0]["days_left"].as_i64()), (Some("expiring"), Some(4)));
    assert_eq!(rows[1]["not_after"], rows[0]["not_after"], "nothing outlives its authority");
    let before = issued(&bucket);
    build(&bucket);
    assert_eq!(issued(&bucket), before, "another would end no later");

    authority_made(&bucket, 3651);
    job(&bucket, "api", &json!({"version": "2"}));
    let jobs = bucket.cat("jobs");
    let refused = bucket.maand(&["build"]).expect(3);
    for said in ["MD0037", "authority has ended", "secrets/ca.crt", "maand init"] {
        assert!(refused.stderr.contains(said), "{said} in {}", refused.stderr);
    }
    assert_eq!(bucket.cat("jobs"), jobs, "nothing was built");
    assert_eq!(bucket.cat("certs")[0]["status"], "expired");
}

#[test]
fn a_renewed_certificate_is_rolled_out_like_any_change() {
    let bucket = crate::support::bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["api"]);
    bucket.recording_job("api", &json!({"certs": {"tls": {}}}));
    bucket.write("workspace/jobs/api/cn.j2", "{{ get('maand/job/api/worker/' ~ worker_ip, 'certs/tls.crt') }}");
    build(&bucket);
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    let namespace = format!("maand/job/api/worker/{}", hosts[0]);
    let stored = must(&bucket, &namespace, "certs/tls.crt");
    assert_eq!(agents[0].read("api", "certs/tls.crt"), stored);
    assert_eq!(agents[0].read("api", "cn"), stored, "a template may read it");
    assert_eq!(agents[0].read("api", "certs/tls.key"), must(&bucket, &namespace, "certs/tls.key"));
    assert_eq!(agents[0].read("api", "certs/ca.crt"), bucket.read("secrets/ca.crt"));
    let mode = |file: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(agents[0].job_path("api", file)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("certs/tls.key"), mode("certs/tls.crt"), mode("")), (0o600, 0o644, 0o700));
    days(&bucket, 100, 60);
    build(&bucket);
    assert_eq!(bucket.rollouts()[0].2, "restart");
    bucket.maand(&["deploy"]).expect(0);
    assert_ne!(agents[0].read("api", "certs/tls.crt"), stored);
    assert_eq!(agents[0].read("api", "data/ran").lines().count(), 2, "start, restart");
}
