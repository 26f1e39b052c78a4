//! Edge: asks. Every question has a time limit, only so many are open at once, and what is wrong comes
//! back as one line: which check, where, why.
#![expect(clippy::disallowed_methods, reason = "edge: connections, a job's certs/ca.crt")]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use shared::Host;
use shared::api::v1::health::{Check, HealthSpec, MAX_PROBLEM, Scheme};
use shared::text::clean;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::exec::{self, plain, shortened};
use crate::clock;

/// Most checks that are under way at once, of all jobs.
const AT_ONCE: usize = 8;
/// Most redirects that are followed.
const REDIRECTS: usize = 5;
/// How long the answer of a resolver is believed, the answer that there is none included.
const RESOLVED: Duration = Duration::from_secs(300);
/// Most clients that are kept: one for each authority that jobs bring along.
const CLIENTS: usize = 16;

/// A job as a check sees it.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its directory.
    pub dir: PathBuf,
    /// The worker's host in workers.json.
    pub host: Host,
    /// The environment of its make targets.
    pub env: BTreeMap<String, String>,
}

/// What questions are asked with.
#[derive(Debug)]
pub struct Prober {
    open: Semaphore,
    /// By the authority (PEM) and by whether redirects are followed.
    clients: Mutex<HashMap<(Vec<u8>, bool), reqwest::Client>>,
    resolved: Mutex<HashMap<Host, (Instant, Vec<IpAddr>)>>,
}

impl Default for Prober {
    fn default() -> Self {
        Self { open: Semaphore::new(AT_ONCE), clients: Mutex::default(), resolved: Mutex::default() }
    }
}

impl Prober {
    /// Asks all that `spec` asks, at the same time; what is wrong with the first check that is not good.
    pub async fn ask(self: Arc<Self>, spec: HealthSpec, place: Place) -> Option<String> {
        let limit = Duration::from_secs(spec.timeout_s);
        let place = Arc::new(place);
        let mut asked = JoinSet::new();
        for (n, check) in spec.checks.into_iter().enumerate() {
            let (prober, place) = (self.clone(), place.clone());
            asked.spawn(async move { (n, prober.one(&check, &place, limit).await) });
        }
        let mut wrong: Option<(usize, String)> = None;
        while let Some(answer) = asked.join_next().await {
            let (n, answer) = answer.unwrap_or_else(|error| (usize::MAX, Err(format!("it cannot be run: {error}"))));
            if let Err(why) = answer
                && wrong.as_ref().is_none_or(|(first, _)| n < *first)
            {
                wrong = Some((n, why));
            }
        }
        wrong.map(|(_, why)| {
            let mut line = clean(&why);
            line.truncate(line.floor_char_boundary(MAX_PROBLEM));
            line
        })
    }

    async fn one(&self, check: &Check, place: &Place, limit: Duration) -> Result<(), String> {
        let _permit = self.open.acquire().await;
        let answer = async {
            match check {
                Check::Tcp { port } => self.tcp(*port, place).await,
                Check::Http { port, path, scheme, expect_status } => {
                    self.http(*port, path, *scheme, *expect_status, place).await
                }
                Check::Exec { command } => exec::run(command, place, limit).await,
                Check::Unknown => {
                    Err("a check of a kind that this maand-agent does not know: install a newer one".to_owned())
                }
            }
        };
        // A command ends its processes itself when its time is over, which needs a moment more.
        let grace = if matches!(check, Check::Exec { .. }) { exec::ENDING } else { Duration::ZERO };
        match tokio::time::timeout(limit + grace, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{}: no answer within {} s", named(check), limit.as_secs())),
        }
    }

    async fn tcp(&self, port: u16, place: &Place) -> Result<(), String> {
        let addresses = self.addresses(&place.host).await;
        let mut first = None;
        for address in &addresses {
            match tokio::net::TcpStream::connect((*address, port)).await {
                Ok(_) => return Ok(()),
                Err(error) => first = first.or(Some(plain(&error))),
            }
        }
        Err(format!("tcp port {port}: {} at {}", first.unwrap_or_default(), listed(&addresses)))
    }

    async fn http(&self, port: u16, path: &str, scheme: Scheme, expected: u16, place: &Place) -> Result<(), String> {
        let follow = !(300..400).contains(&expected);
        // Also for http, which may redirect to https.
        let authority = tokio::fs::read(place.dir.join("certs/ca.crt")).await.unwrap_or_default();
        let what = format!("{} port {port} {path}", scheme.word());
        let client = self.client(authority, follow).map_err(|error| format!("{what}: {}", plain(&*error)))?;
        let addresses = self.addresses(&place.host).await;
        let mut first = None;
        for address in &addresses {
            let at = std::net::SocketAddr::new(*address, port);
            match client.get(format!("{}://{at}{path}", scheme.word())).send().await {
                Ok(answer) if answer.status().as_u16() == expected => return Ok(()),
                // The body is not read: it ends with the connection.
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    return Err(format!("{what}: answered {status}, not {expected}, at {address}"));
                }
                Err(error) => first = first.or(Some(plain(&error))),
            }
        }
        Err(format!("{what}: {} at {}", first.unwrap_or_default(), listed(&addresses)))
    }

    fn client(&self, authority: Vec<u8>, follow: bool) -> Result<reqwest::Client, Box<dyn Error + Send + Sync>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (authority, follow);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let builder = || {
            let limited = if follow { Policy::limited(REDIRECTS) } else { Policy::none() };
            reqwest::Client::builder()
                .no_proxy()
                .redirect(limited)
                // Each question is a connection of its own: an old one says nothing of who listens now.
                .pool_max_idle_per_host(0)
                .user_agent(concat!("maand-agent/", env!("CARGO_PKG_VERSION"), " health"))
        };
        let client = if key.0.is_empty() {
            // A machine may have no roots: then nothing that speaks TLS is trusted, and http goes on.
            builder().build().or_else(|_| builder().tls_certs_only([]).build())?
        } else {
            builder().tls_certs_merge(reqwest::Certificate::from_pem_bundle(&key.0)?).build()?
        };
        if clients.len() >= CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// The worker's own addresses, in the order in which they are asked.
    async fn addresses(&self, host: &Host) -> Vec<IpAddr> {
        let mut addresses = match host.as_str().parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolve(host).await,
        };
        addresses.retain(|address| own(*address));
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        if !addresses.contains(&loopback) {
            addresses.push(loopback);
        }
        addresses
    }

    async fn resolve(&self, host: &Host) -> Vec<IpAddr> {
        let now = clock::instant();
        let known = {
            let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            resolved.get(host).filter(|(at, _)| now.duration_since(*at) < RESOLVED).map(|(_, found)| found.clone())
        };
        if let Some(found) = known {
            return found;
        }
        // Believed before it is asked: a resolver that does not answer is not asked again at once.
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).insert(host.clone(), (now, Vec::new()));
        let found = tokio::net::lookup_host((host.as_str(), 0)).await;
        let found: Vec<IpAddr> = found.into_iter().flatten().map(|address| address.ip()).collect();
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).insert(host.clone(), (now, found.clone()));
        found
    }
}

/// Whether an address is one of this machine's: only then can a socket be bound to it.
fn own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

fn named(check: &Check) -> String {
    match check {
        Check::Tcp { port } => format!("tcp port {port}"),
        Check::Http { port, path, scheme, .. } => format!("{} port {port} {path}", scheme.word()),
        Check::Exec { command } => format!("exec {:?}", shortened(command)),
        Check::Unknown => "an unknown check".to_owned(),
    }
}

fn listed(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
#[allow(clippy::disallowed_types, reason = "tests listen")]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};

    fn place(dir: &std::path::Path, host: &str) -> Place {
        let env = [("PATH".to_owned(), std::env::var("PATH").unwrap()), ("JOB".to_owned(), "api".to_owned())];
        Place { dir: dir.to_owned(), host: host.parse().unwrap(), env: env.into() }
    }

    fn ask(checks: Vec<Check>, timeout_s: u64, place: Place) -> Option<String> {
        let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let spec = HealthSpec { checks, timeout_s, attempts: 1, interval_s: 1, every_s: 1, by_hooks: false };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Arc::new(Prober::default()).ask(spec, place))
    }

    fn http(port: u16, path: &str, expect_status: u16) -> Check {
        Check::Http { port, path: path.to_owned(), scheme: Scheme::Http, expect_status }
    }

    /// Answers GETs by path: /N with that status, /to?P with a redirect to P.
    fn answer(mut stream: impl Read + Write) {
        let mut asked = [0u8; 1024];
        let read = stream.read(&mut asked).unwrap_or(0);
        let asked = String::from_utf8_lossy(&asked[..read]).into_owned();
        let path = asked.split(' ').nth(1).unwrap_or("/500").to_owned();
        let answer = match path.strip_prefix("/to?") {
            Some(to) => format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"),
            None => format!("HTTP/1.1 {} X\r\ncontent-length: 999999999\r\n\r\nendless", &path[1..]),
        };
        let _sent = stream.write_all(answer.as_bytes());
    }

    fn listen(address: [u8; 4], serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
        let listener = TcpListener::bind(SocketAddr::from((address, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
        port
    }

    #[test]
    fn a_port_is_asked_at_the_workers_own_address_and_then_at_loopback() {
        let dir = tempfile::tempdir().unwrap();
        let (own, loopback) = (listen([127, 88, 1, 1], drop), listen([127, 0, 0, 1], drop));
        let tcp = |port| vec![Check::Tcp { port }];
        assert_eq!(ask(tcp(own), 5, place(dir.path(), "127.88.1.1")), None);
        assert_eq!(ask(tcp(loopback), 5, place(dir.path(), "127.88.1.1")), None);
        let wrong = ask(tcp(own), 5, place(dir.path(), "127.88.1.2")).unwrap();
        assert_eq!(wrong, format!("tcp port {own}: connection refused at 127.88.1.2 and 127.0.0.1"));
        // Of another machine, or nobody's name: loopback alone.
        for host in ["192.0.2.7", "no-such-host.invalid"] {
            let wrong = ask(tcp(own), 20, place(dir.path(), host)).unwrap();
            assert!(wrong.ends_with("refused at 127.0.0.1"), "{wrong}");
        }
        let first = ask(vec![Check::Unknown, Check::Tcp { port: own }], 5, place(dir.path(), "127.0.0.1")).unwrap();
        assert!(first.contains("install a newer one"), "the first in the manifest's order: {first}");
    }

    #[test]
    fn a_status_is_compared_after_redirects_and_no_body_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let port = listen([127, 0, 0, 1], answer);
        let get = |path: &str, status| ask(vec![http(port, path, status)], 10, place(dir.path(), "127.0.0.1"));
        assert_eq!(get("/200", 200), None);
        assert_eq!(get("/503", 503), None);
        assert_eq!(get("/to?/204", 204), None, "followed");
        assert_eq!(get("/to?/204", 302), None, "not followed where the redirect is what is expected");
        let wrong = get("/500", 200).unwrap();
        assert_eq!(wrong, format!("http port {port} /500: answered 500, not 200, at 127.0.0.1"));
        let wrong = get("/to?/to?/to?/to?/to?/to?/200", 200).unwrap();
        assert!(wrong.contains("redirects"), "{wrong}");
        let mute = listen([127, 0, 0, 1], std::mem::forget);
        let wrong = ask(vec![http(mute, "/", 200)], 1, place(dir.path(), "127.0.0.1")).unwrap();
        assert_eq!(wrong, format!("http port {mute} /: no answer within 1 s"));
    }

    #[test]
    fn a_certificate_counts_when_the_jobs_authority_signed_it() {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &Issuer::new(params, key)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], leaf_key.into())
            .unwrap();
        let config = Arc::new(config);
        let port = listen([127, 0, 0, 1], move |stream| {
            answer(rustls::StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), stream));
        });
        let check = || vec![Check::Http { port, path: "/200".into(), scheme: Scheme::Https, expect_status: 200 }];
        let wrong = ask(check(), 10, place(dir.path(), "127.0.0.1")).unwrap();
        assert!(wrong.contains("certificate"), "{wrong}");
        std::fs::create_dir(dir.path().join("certs")).unwrap();
        std::fs::write(dir.path().join("certs/ca.crt"), ca.pem()).unwrap();
        assert_eq!(ask(check(), 10, place(dir.path(), "127.0.0.1")), None);
    }
}
