//! A controller that has the bucket's authority and answers what it is told to: bytes, not messages.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::bucket::Bucket;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use shared::api::v1;
use shared::token;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::api::bucket_id;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub body: Vec<u8>,
}

/// What is sent back.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A whole answer.
    Whole(u16, Vec<u8>),
    /// These bytes after a head that says `length`, and then the end of the connection.
    Cut(u64, Vec<u8>),
    /// The same bytes again and again, as one body without end.
    Endless(Vec<u8>),
    /// One byte of a body every 200 ms, without end.
    Trickle,
    /// Nothing newer, after a moment.
    Nothing,
}

type Answers = Box<dyn Fn(&Asked) -> Answer + Send>;

#[derive(Default)]
struct Mind {
    answers: Mutex<Option<Answers>>,
    asked: Mutex<Vec<Asked>>,
    /// The next poll is answered in good order: an agent that was refused waits longer each time.
    is_fresh: AtomicBool,
}

/// The server; it ends when this is dropped.
pub struct Evil {
    mind: Arc<Mind>,
    _runtime: tokio::runtime::Runtime,
}

impl Evil {
    /// Listens where the bucket's own controller did.
    pub fn listen(bucket: &Bucket) -> Self {
        let ca = bucket.path("secrets/agent-ca");
        let read = |extension: &str| std::fs::read_to_string(ca.with_extension(extension)).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read("crt"), KeyPair::from_pem(&read("key")).unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let name = token::controller_name(bucket_id(bucket));
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let chain = vec![params.signed_by(&key, &issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let address: SocketAddr = (bucket.address(1), bucket.port()).into();
        let listener = harness::poll::until("the port to be free", harness::poll::LONG, || TcpListener::bind(address));
        listener.set_nonblocking(true).unwrap();
        let mind = Arc::new(Mind::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let held = mind.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, mind) = (acceptor.clone(), held.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        // Ends with an error whenever the agent has had enough.
                        drop(serve(stream, &mind).await);
                    }
                });
            }
        });
        Self { mind, _runtime: runtime }
    }

    /// From now on it answers this.
    pub fn answer(&self, answers: impl Fn(&Asked) -> Answer + Send + 'static) {
        *self.mind.answers.lock().unwrap() = Some(Box::new(answers));
        self.mind.asked.lock().unwrap().clear();
        self.mind.is_fresh.store(true, Ordering::SeqCst);
    }

    /// Bodies of the requests to `path` since then.
    pub fn bodies(&self, path: &str) -> Vec<Vec<u8>> {
        let asked = self.mind.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.path.starts_with(path)).map(|asked| asked.body.clone()).collect()
    }
}

async fn serve(mut stream: TlsStream<TcpStream>, mind: &Mind) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().to_owned()));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while buffer.len() < end + length {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let asked = Asked { path, body: buffer[end..end + length].to_vec() };
        buffer.drain(..end + length);
        let answers_well = asked.path.starts_with(v1::DESIRED) && mind.is_fresh.swap(false, Ordering::SeqCst);
        let answer = mind.answers.lock().unwrap().as_ref().map_or(Answer::Nothing, |answers| answers(&asked));
        mind.asked.lock().unwrap().push(asked);
        say(&mut stream, if answers_well { Answer::Nothing } else { answer }).await?;
    }
}

async fn say(stream: &mut TlsStream<TcpStream>, answer: Answer) -> std::io::Result<()> {
    let head = |status: u16, length: u64| format!("HTTP/1.1 {status} x\r\n{}content-length: {length}\r\n\r\n", clock());
    match answer {
        Answer::Whole(status, body) => {
            stream.write_all(head(status, body.len() as u64).as_bytes()).await?;
            stream.write_all(&body).await?;
        }
        Answer::Cut(length, body) => {
            stream.write_all(head(200, length).as_bytes()).await?;
            stream.write_all(&body).await?;
            stream.shutdown().await?;
        }
        Answer::Endless(body) => {
            stream.write_all(head(200, u64::MAX / 2).as_bytes()).await?;
            loop {
                stream.write_all(&body).await?;
            }
        }
        Answer::Trickle => {
            stream.write_all(head(200, u64::MAX / 2).as_bytes()).await?;
            loop {
                stream.write_all(b" ").await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Answer::Nothing => {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.write_all(format!("HTTP/1.1 204 x\r\n{}\r\n", clock()).as_bytes()).await?;
        }
    }
    stream.flush().await
}

/// The header that tells agents the controller's clock.
fn clock() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    format!("{}: {now}\r\n", shared::api::CLOCK_HEADER)
}
