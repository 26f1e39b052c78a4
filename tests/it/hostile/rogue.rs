//! An agent that has a valid certificate and means harm, and whoever has none: neither gets what is not
//! its own, nor keeps the controller from the others.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::tls::{Trust, Verifier};
use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::process::Running;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use shared::api::v1;
use shared::token;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::api::{Client, bucket_id, own};
use crate::support::{bucket, hosts};

/// A bucket of two workers with one job, deployed; the first is honest, the second has only its identity.
struct Stage {
    bucket: Bucket,
    serve: Running,
    hosts: Vec<String>,
    _honest: Agent,
}

impl Stage {
    fn new() -> Self {
        let bucket = bucket();
        let hosts = hosts(&bucket, 2);
        bucket.workers(&hosts, &["all"]);
        bucket.recording_job("api", &serde_json::json!({"selectors": ["all"], "max_unreachable": 1}));
        bucket.setting("pickup_timeout = 1");
        bucket.maand(&["build"]).expect(0);
        let serve = bucket.serve();
        let honest = Agent::join(&bucket, &hosts[0]);
        Agent::prepare(&bucket, &hosts[1], &[]).enrol(&bucket).expect(0);
        bucket.maand(&["deploy"]).expect(0);
        Self { bucket, serve, hosts, _honest: honest }
    }

    /// The honest agent does what it is told, with a deadline.
    fn serves_the_honest(&self, while_what: &str) {
        let begin = Instant::now();
        let done = self.bucket.maand(&["run_command", "echo here", "--workers", &self.hosts[0]]).expect(0);
        assert!(done.stdout.contains("here"), "while {while_what}: {}", done.stdout);
        println!("{while_what}: the honest agent answers after {} ms", begin.elapsed().as_millis());
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.serve.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn controller(&self) -> SocketAddr {
        (self.bucket.address(1), self.bucket.port()).into()
    }

    /// A connection to the controller from any address of this test's.
    async fn dial(&self, from: Ipv4Addr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        socket.connect(self.controller()).await
    }

    fn connector(&self, has_identity: bool) -> (TlsConnector, ServerName<'static>) {
        let roots = CertificateDer::pem_file_iter(self.bucket.path("secrets/agent-ca.crt")).unwrap();
        let name = token::controller_name(bucket_id(&self.bucket));
        let trust = Trust::Roots { roots: roots.map(Result::unwrap).collect(), name: name.clone() };
        let shown = if has_identity { own(&self.bucket, &self.hosts[1]) } else { None };
        let config = Verifier::new(trust).client(shown).unwrap();
        (TlsConnector::from(Arc::new(config)), ServerName::try_from(name).unwrap())
    }

    async fn shake(&self, has_identity: bool) -> std::io::Result<TlsStream<TcpStream>> {
        let (connector, name) = self.connector(has_identity);
        connector.connect(name, self.dial(self.bucket.address(77)).await?).await
    }
}

/// Whether the other side has ended the connection, as far as one can see within `patience`.
async fn is_ended(stream: &mut (impl AsyncReadExt + Unpin), patience: Duration) -> bool {
    matches!(tokio::time::timeout(patience, stream.read(&mut [0; 64])).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_leave_room_for_the_others() {
    let stage = Stage::new();
    let before = stage.resident_kib();
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..10_000 {
        match stage.dial(stage.bucket.address(77)).await {
            Ok(stream) => held.push(stream),
            Err(_) => refused += 1,
        }
    }
    stage.serves_the_honest("10,000 silent connections come from another address");
    let grown = stage.resident_kib().saturating_sub(before);
    println!("connections held: {}, refused by the system: {refused}; the controller grew by {grown} KiB", held.len());
    assert!(grown < 64 << 10, "{grown} KiB for connections that said nothing");
    let mut closed = 0;
    for stream in &mut held {
        closed += usize::from(is_ended(stream, Duration::from_secs(20)).await);
    }
    assert_eq!(closed, held.len(), "each of them is closed at once or after its time for a handshake");
    let log = stage.bucket.read("logs/maand.log");
    let lines = log.lines().filter(|line| line.contains("handshake_refused")).count();
    println!("lines in the log for them: {lines}");
    assert!(lines < 100, "{lines} lines: the log is not to be filled");
    assert!(log.contains("more refusals of this address are not logged"), "what is left out is counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_and_the_nameless_have_few_connections() {
    let stage = Stage::new();
    let mut own = Vec::new();
    for _ in 0..60 {
        own.push(stage.shake(true).await.unwrap());
    }
    let mut nameless = Vec::new();
    for _ in 0..100 {
        // Over the bound the handshake may end before this side has seen that it was refused.
        if let Ok(stream) = stage.shake(false).await {
            nameless.push(stream);
        }
    }
    stage.serves_the_honest("a rogue agent holds what it may");
    let mut open = [0, 0];
    for (kind, streams) in [own, nameless].iter_mut().enumerate() {
        for stream in streams {
            open[kind] += usize::from(!is_ended(stream, Duration::from_millis(50)).await);
        }
    }
    println!("of 60 connections of one worker {} stay, of 100 without a certificate {}", open[0], open[1]);
    assert!(open[0] > 0 && open[0] <= 16, "{open:?}");
    assert!(open[1] > 0 && open[1] <= 64, "{open:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_is_cut_off() {
    let stage = Stage::new();
    let patience = Duration::from_secs(100);
    let one_by_one = |bytes: Vec<u8>| {
        let shaken = stage.shake(true);
        async move {
            let mut stream = shaken.await.unwrap();
            let begin = Instant::now();
            let (mut reader, mut writer) = tokio::io::split(&mut stream);
            let writing = async {
                for byte in bytes {
                    if writer.write_all(&[byte]).await.is_err() || writer.flush().await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                std::future::pending::<()>().await;
            };
            let mut answer = Vec::new();
            let reading = async {
                let mut buffer = [0; 1024];
                while let Ok(1..) = reader.read(&mut buffer).await.inspect(|&count| answer.extend(&buffer[..count])) {}
            };
            tokio::select! { () = writing => {}, () = reading => {}, () = tokio::time::sleep(patience) => {} }
            (begin.elapsed(), String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
        }
    };
    let head = format!("GET {} HTTP/1.1\r\nhost: x\r\n{}", v1::DESIRED, "x-a: b\r\n".repeat(100));
    let length = v1::REPORT_CAP - 1;
    let body = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n",
        v1::REPORTS
    );
    let slow_body = async {
        let mut stream = stage.shake(true).await.unwrap();
        let begin = Instant::now();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        let read = tokio::time::timeout(patience, stream.read_exact(&mut answer)).await;
        assert!(read.is_ok(), "no end to a body that does not come");
        (begin.elapsed(), String::from_utf8_lossy(&answer).into_owned())
    };
    let silent = async {
        let mut stream = stage.shake(true).await.unwrap();
        let begin = Instant::now();
        assert!(is_ended(&mut stream, patience).await);
        begin.elapsed()
    };
    let (head, body, silent) = tokio::join!(one_by_one(head.into_bytes()), slow_body, silent);
    println!("a head that comes byte by byte: cut after {:?} ({})", head.0, head.1);
    println!("a body that does not come: {:?} ({})", body.0, body.1);
    println!("nothing after the handshake: cut after {silent:?}");
    assert!(head.0 < Duration::from_secs(60), "{head:?}");
    assert!(body.0 < Duration::from_secs(90) && body.1.contains("408"), "{body:?}");
    assert!(silent < Duration::from_secs(60), "{silent:?}");
    stage.serves_the_honest("slow ones were cut off");
}

#[test]
fn a_flood_is_told_to_come_back_and_huge_reports_are_refused() {
    let stage = Stage::new();
    let before = stage.resident_kib();
    let rogue = Client::new(&stage.bucket, own(&stage.bucket, &stage.hosts[1]));
    let mut answers = std::collections::BTreeMap::<u16, u32>::new();
    for _ in 0..600 {
        *answers.entry(rogue.get("/v1/self/bundles/nonsense").unwrap()).or_default() += 1;
    }
    println!("600 requests of one worker in a row: {answers:?}");
    assert_eq!(answers.keys().copied().filter(|status| ![400, 404, 429].contains(status)).count(), 0, "{answers:?}");
    stage.serves_the_honest("a rogue agent floods");
    let log = stage.bucket.read("logs/maand.log");
    assert!(log.lines().filter(|line| line.contains("request_refused")).count() < 100, "the log is not to be filled");

    let report = |allocations: &str| {
        format!(
            r#"{{"agent_version":"1","session":9,"number":1,"boot_id":"{}","clock_ms":0,"allocations":[{allocations}],"operations":[]}}"#,
            uuid::Uuid::nil()
        )
    };
    let foreign = |n: u128| {
        format!(
            r#"{{"alloc_id":"{}","job":"api","bundle":null,"phase":"idle","process":"started","drift":[],"unmanaged":[]}}"#,
            uuid::Uuid::from_u128(n)
        )
    };
    let many: Vec<String> = (0..2100).map(foreign).collect();
    let cases = [
        ("two megabytes and a byte", "x".repeat(v1::REPORT_CAP + 1), 413),
        ("nested a thousand deep", format!("{}{}", "[".repeat(1000), "]".repeat(1000)), 422),
        ("more allocations than a worker can have", report(&many.join(",")), 400),
        ("an allocation of somebody else", report(&foreign(7)), 200),
    ];
    for (what, body, status) in cases {
        let answer = harness::poll::until("the flood to be forgotten", harness::poll::LONG, || {
            match rogue.call(v1::REPORTS, Some(body.clone()), &[]).map(|(status, _)| status) {
                Some(429) => Err(429),
                // Refused before all of it was taken, and the connection ended with it.
                None => Err(0),
                other => Ok(other),
            }
        });
        assert_eq!(answer, Some(status), "{what}");
    }
    assert!(stage.bucket.read("logs/maand.log").contains("report_foreign"), "and the operator hears of it");
    let grown = stage.resident_kib().saturating_sub(before);
    println!("the controller grew by {grown} KiB");
    assert!(grown < 64 << 10, "{grown} KiB");
}

#[test]
fn output_goes_where_it_belongs_and_not_without_end() {
    let stage = Stage::new();
    let rogue = Client::new(&stage.bucket, own(&stage.bucket, &stage.hosts[1]));
    let runs = || std::fs::read_dir(stage.bucket.path("logs/runs")).unwrap().count();
    let before = runs();
    let chunk = |n: u128, offset: u64, bytes: &str| {
        let id = uuid::Uuid::from_u128(n);
        serde_json::json!({"chunks": [{
            "source": {"kind": "action", "action_id": id, "job": "api", "target": "start"},
            "run_id": id, "stream": "stdout", "offset": offset, "bytes": bytes,
        }]})
        .to_string()
    };
    for n in 0..50 {
        let (status, body) = rogue.call(v1::LOGS, Some(chunk(n, 0, "Zm9yZ2VkCg==")), &[]).unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }
    assert_eq!(runs(), before, "a run that nobody began has no directory");
    for offset in [u64::MAX, u64::MAX - 3, 1 << 62] {
        assert_eq!(rogue.call(v1::LOGS, Some(chunk(1, offset, "Zm9yZ2VkCg==")), &[]).unwrap().0, 400, "{offset}");
    }
    let long = data_encoding::BASE64.encode(&[b'x'; 180 << 10]);
    let mut sent = 0u64;
    let mut n = 1000;
    let last = loop {
        n += 1;
        // A refusal may come before all of the body was taken, and the connection end with it.
        match rogue.call(v1::LOGS, Some(chunk(n, 0, &long)), &[]).map_or(429, |(status, _)| status) {
            200 => sent += 180 << 10,
            other => break other,
        }
        assert!(sent < 200 << 20, "no end");
    };
    println!("output of one worker in a row: {} MiB, then {last}", sent >> 20);
    assert_eq!(last, 429);
    stage.serves_the_honest("a rogue agent floods the logs");
}

#[test]
fn packs_of_one_worker_are_few_at_once() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 2);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &serde_json::json!({"selectors": ["all"], "max_unreachable": 1}));
    // What does not compress: the answer has to be longer than what sockets hold.
    let mut state = 7u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    })
    .take(24 << 20)
    .collect();
    std::fs::write(bucket.path("workspace/jobs/api/noise"), noise).unwrap();
    bucket.setting("pickup_timeout = 1");
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let _honest = Agent::join(&bucket, &hosts[0]);
    Agent::prepare(&bucket, &hosts[1], &[]).enrol(&bucket).expect(0);
    bucket.maand(&["deploy"]).expect(0);
    let database = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    let sql = "SELECT blob FROM job_file WHERE job = 'api' AND path = 'noise'";
    let blob: String = database.query_row(sql, [], |row| row.get(0)).unwrap();
    let want = serde_json::json!({ "blobs": [blob] }).to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let name = token::controller_name(bucket_id(&bucket));
    let roots = CertificateDer::pem_file_iter(bucket.path("secrets/agent-ca.crt")).unwrap();
    let trust = Trust::Roots { roots: roots.map(Result::unwrap).collect(), name };
    let http = agent::client::http(Verifier::new(trust).client(own(&bucket, &hosts[1])).unwrap()).unwrap();
    let url = format!("https://{}:{}{}", bucket.address(1), bucket.port(), v1::PACKS);
    let statuses = runtime.block_on(async {
        let mut answers = Vec::new();
        for _ in 0..8 {
            let request = http.post(&url).header("content-type", "application/json").body(want.clone());
            // Held with its body unread.
            answers.push(request.send().await.unwrap());
        }
        answers.iter().map(|answer| answer.status().as_u16()).collect::<Vec<_>>()
    });
    println!("eight packs at once: {statuses:?}");
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429, 429, 429]);
}
