//! What the controller says to whom: certificates that are not an agent's, things that are another
//! worker's, and what is too much.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::identity::Identity;
use agent::tls::{Trust, Verifier};
use harness::agents::Agent;
use harness::bucket::Bucket;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose as Usage, Issuer, KeyPair, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use shared::api::v1;
use shared::{BucketId, WorkerId, token};

use crate::support::{bucket, hosts};

pub(crate) type Shown = Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>;

pub(crate) fn bucket_id(bucket: &Bucket) -> BucketId {
    let info = bucket.maand(&["info", "--json"]).expect(0).stdout;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    info["bucket_id"].as_str().unwrap().parse().unwrap()
}

/// A client of `bucket`'s controller that shows any certificate, or none.
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    pub(crate) fn new(bucket: &Bucket, shown: Shown) -> Self {
        let roots = CertificateDer::pem_file_iter(bucket.path("secrets/agent-ca.crt")).unwrap();
        let trust = Trust::Roots {
            roots: roots.map(Result::unwrap).collect(),
            name: token::controller_name(bucket_id(bucket)),
        };
        let http = agent::client::http(Verifier::new(trust).client(shown).unwrap()).unwrap();
        let base = format!("https://{}:{}", bucket.address(1), bucket.port());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { http, base, runtime }
    }

    /// Status and body; `None` when the connection was refused.
    pub(crate) fn call(&self, path: &str, body: Option<String>, headers: &[(&str, &str)]) -> Option<(u16, Vec<u8>)> {
        let url = format!("{}{path}", self.base);
        self.runtime.block_on(async {
            let mut request = match body {
                Some(body) => self.http.post(url).header("content-type", "application/json").body(body),
                None => self.http.get(url),
            };
            for (key, value) in headers {
                request = request.header(*key, *value);
            }
            let response = request.timeout(Duration::from_secs(20)).send().await.ok()?;
            let status = response.status().as_u16();
            Some((status, response.bytes().await.ok()?.to_vec()))
        })
    }

    pub(crate) fn get(&self, path: &str) -> Option<u16> {
        self.call(path, None, &[]).map(|(status, _)| status)
    }
}

pub(crate) fn own(bucket: &Bucket, host: &str) -> Shown {
    let state = bucket.dir().join("agents").join(host).join("state");
    let loaded = Identity::new(&state, bucket_id(bucket)).load().unwrap();
    Some(loaded.newest().unwrap().shown())
}

/// A certificate that `ca` signed, with one URI and the usages.
fn signed(ca: &Path, uri: &str, usages: Vec<Usage>) -> Shown {
    let read = |extension: &str| std::fs::read_to_string(ca.with_extension(extension)).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("crt"), KeyPair::from_pem(&read("key")).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.extended_key_usages = usages;
    let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
    Some((vec![certificate], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))))
}

#[test]
fn only_an_agents_own_certificate_counts() {
    let (bucket, other) = (bucket(), bucket());
    let host = hosts(&bucket, 1).remove(0);
    for bucket in [&bucket, &other] {
        bucket.workers(std::slice::from_ref(&host), &["all"]);
        bucket.maand(&["build"]).expect(0);
    }
    let _serve = bucket.serve();
    let agent = Agent::prepare(&bucket, &host, &[]);
    agent.enrol(&bucket).expect(0);
    let config = std::fs::read_to_string(bucket.dir().join("agents").join(&host).join("agent.toml")).unwrap();
    let worker: WorkerId = config
        .lines()
        .find_map(|line| line.strip_prefix("worker_id = \""))
        .unwrap()
        .trim_end_matches('"')
        .parse()
        .unwrap();
    let uri = token::worker_uri(bucket_id(&bucket), worker);
    let (agents, jobs) = (bucket.path("secrets/agent-ca"), bucket.path("secrets/ca"));
    let strangers: [(&str, Shown, Option<u16>); 7] = [
        ("none at all", None, Some(401)),
        ("of the jobs' authority", signed(&jobs, &uri, vec![Usage::ClientAuth]), None),
        ("of another bucket", signed(&other.path("secrets/agent-ca"), &uri, vec![Usage::ClientAuth]), None),
        ("without any usage", signed(&agents, &uri, vec![]), Some(403)),
        ("for servers", signed(&agents, &uri, vec![Usage::ServerAuth]), None),
        (
            "naming another bucket",
            signed(&agents, &token::worker_uri(bucket_id(&other), worker), vec![Usage::ClientAuth]),
            Some(403),
        ),
        ("that was never issued here", signed(&agents, &uri, vec![Usage::ClientAuth]), Some(403)),
    ];
    for (what, shown, status) in strangers {
        assert_eq!(Client::new(&bucket, shown).get(v1::DESIRED), status, "a certificate {what}");
    }
    let good = Client::new(&bucket, own(&bucket, &host));
    assert_eq!(good.get(v1::DESIRED), Some(204));
    let revoke = "UPDATE agent_certificate SET revoked_at = 1";
    rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap().execute(revoke, []).unwrap();
    assert_eq!(good.get(v1::DESIRED), Some(403), "revoked, on a connection that is open already");
    let log = bucket.read("logs/maand.log");
    for word in ["handshake_refused", "no_certificate", "unknown_certificate", "revoked"] {
        assert!(log.contains(word), "{word}: {log}");
    }
}

#[test]
fn what_is_another_workers_does_not_exist_and_packs_can_be_gone_on_with() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 2);
    let workers = serde_json::json!([{"host": hosts[0], "labels": ["one"]}, {"host": hosts[1], "labels": ["two"]}]);
    bucket.write("workspace/workers.json", &workers.to_string());
    for label in ["one", "two"] {
        bucket.recording_job(label, &serde_json::json!({"selectors": [label]}));
        let noise: String = (0..4000u32).map(|n| format!("{label} {}\n", n.wrapping_mul(2_654_435_761))).collect();
        bucket.write(&format!("workspace/jobs/{label}/noise"), &noise);
    }
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    for host in &hosts {
        Agent::join(&bucket, host);
    }
    let _agents: Vec<Agent> = hosts
        .iter()
        .map(|host| {
            let mut agent = Agent::prepare(&bucket, host, &[]);
            agent.start();
            agent
        })
        .collect();
    bucket.maand(&["deploy"]).expect(0);
    let database = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    let text = |sql: &str| -> String { database.query_row(sql, [], |row| row.get(0)).unwrap() };
    let bundle = |job: &str| text(&format!("SELECT bundle FROM allocation WHERE job = '{job}'"));
    let blob = |job: &str| text(&format!("SELECT blob FROM job_file WHERE job = '{job}' AND path = 'noise'"));
    let client = Client::new(&bucket, own(&bucket, &hosts[0]));
    assert_eq!(client.get(&format!("{}/{}", v1::BUNDLES, bundle("one"))), Some(200));
    let foreign = client.call(&format!("{}/{}", v1::BUNDLES, bundle("two")), None, &[]).unwrap();
    let unknown = client.call(&format!("{}/sha256:{}", v1::BUNDLES, "0".repeat(64)), None, &[]).unwrap();
    let said = |body: &[u8]| serde_json::from_slice::<serde_json::Value>(body).unwrap()["message"].clone();
    assert_eq!((foreign.0, said(&foreign.1)), (404, said(&unknown.1)), "no telling the one from the other");
    assert!(bucket.read("logs/maand.log").contains("request_refused"));

    let want = |blob: String| Some(serde_json::json!({ "blobs": [blob] }).to_string());
    assert_eq!(client.call(v1::PACKS, want(blob("two")), &[]).unwrap().0, 404);
    let (status, whole) = client.call(v1::PACKS, want(blob("one")), &[]).unwrap();
    assert_eq!(status, 200);
    let tag = format!("\"{}\"", shared::pack::digest([blob("one").parse().unwrap()]).hex());
    let (status, rest) =
        client.call(v1::PACKS, want(blob("one")), &[("range", "bytes=1000-"), ("if-range", &tag)]).unwrap();
    assert_eq!((status, rest.as_slice()), (206, &whole[1000..]));
    let (status, again) =
        client.call(v1::PACKS, want(blob("one")), &[("range", "bytes=1000-"), ("if-range", "\"x\"")]).unwrap();
    assert_eq!((status, again), (200, whole), "the beginning of another pack is of no use");

    let huge = "x".repeat(v1::REPORT_CAP + 1);
    assert_eq!(client.call(v1::REPORTS, Some(huge), &[]).unwrap().0, 413);
    assert_eq!(client.call(v1::REPORTS, Some("{}".into()), &[]).unwrap().0, 422);
    assert_eq!(client.get("/v1/nothing"), Some(404));
}

#[test]
fn a_wrong_byte_in_the_store_never_reaches_a_job() {
    let bucket = bucket();
    bucket.setting("pickup_timeout = 5");
    let host = hosts(&bucket, 1).remove(0);
    bucket.workers(std::slice::from_ref(&host), &["all"]);
    bucket.recording_job("api", &serde_json::json!({"selectors": ["all"], "action_timeout_seconds": 300}));
    bucket.write("workspace/jobs/api/secret-of-success", "good content");
    bucket.maand(&["build"]).expect(0);
    let hex = shared::BlobDigest::of(b"good content").hex();
    let stored = bucket.path(&format!("data/store/blobs/{}/{hex}", &hex[..2]));
    std::fs::write(&stored, "evil content").unwrap();
    let _serve = bucket.serve();
    let agent = Agent::join(&bucket, &host);
    let mut deploy = bucket.start("deploy", &["deploy"]);
    let said = harness::poll::until("the agent to complain", harness::poll::LONG, || {
        let rows = bucket.cat("deployments");
        match rows[0]["agent"].as_str() {
            Some(said) if said.contains("other content") => Ok(said.to_owned()),
            other => Err(format!("{other:?} {}", deploy.printed())),
        }
    });
    assert!(said.contains("pack"), "{said}");
    assert_eq!(agent.read("api", "secret-of-success"), "");
    assert_eq!(agent.read("api", "data/ran"), "", "and nothing was run");
    // Mended, it goes on by itself: no pack that holds the bad byte was kept.
    std::fs::write(&stored, "good content").unwrap();
    assert_eq!(deploy.wait(Duration::from_secs(60)).code(), Some(0), "{}", deploy.printed());
    assert_eq!(agent.read("api", "secret-of-success"), "good content");
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let bucket = bucket();
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let mut silent = TcpStream::connect((bucket.address(1), bucket.port())).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    silent.write_all(&[22]).unwrap();
    let begin = Instant::now();
    let mut rest = Vec::new();
    drop(silent.read_to_end(&mut rest));
    assert!(begin.elapsed() < Duration::from_secs(25), "closed by the controller, not by this test's patience");
}

/// Numbers at their ends, in what an agent says: sums of them must not end the thread that all agents wait for.
#[test]
fn no_number_of_an_agent_stops_the_controller() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &serde_json::json!({"selectors": ["all"]}));
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let agent = Agent::prepare(&bucket, &hosts[0], &[]);
    agent.enrol(&bucket).expect(0);
    let client = Client::new(&bucket, own(&bucket, &hosts[0]));
    let report = |number: u64, clock_ms: i64| {
        serde_json::json!({"agent_version": "1", "session": 1, "number": number, "boot_id": uuid::Uuid::nil(),
            "clock_ms": clock_ms, "allocations": []})
        .to_string()
    };
    let chunk = |offset: u64| {
        let source =
            serde_json::json!({"kind": "action", "action_id": uuid::Uuid::nil(), "job": "api", "target": "start"});
        serde_json::json!({"chunks": [{"source": source, "run_id": uuid::Uuid::nil(), "stream": "stdout",
            "offset": offset, "bytes": "eAo="}]})
        .to_string()
    };
    let call = |path: &str, body: String| client.call(path, Some(body), &[]).unwrap().0;
    assert_eq!(call(v1::REPORTS, report(1, i64::MIN)), 200);
    assert_eq!(call(v1::REPORTS, report(2, i64::MAX)), 200);
    assert_eq!(call(v1::LOGS, chunk(u64::MAX)), 400);
    assert_eq!(call(v1::LOGS, chunk(u64::MAX - 1)), 400);
    assert_eq!(call(v1::LOGS, chunk(0)), 200);
    assert_eq!(call(v1::REPORTS, report(3, 0)), 200, "it goes on");
}
