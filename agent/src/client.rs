//! Edge: HTTP to the controller, typed by `shared::api`. Every answer has a cap, every call a limit.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use reqwest::header::{ETAG, IF_RANGE, RANGE, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::BundleDigest;
use shared::api::v1::desired::{Envelope, Fence};
use shared::api::v1::error::ErrorBody;
use shared::api::v1::logs::LogBatch;
use shared::api::v1::renew::{RenewRequest, RenewResponse, Whoami};
use shared::api::v1::report::Report;
use shared::api::v1::session::{SessionRequest, SessionResponse};
use shared::api::v1::want::{BundleAnswer, WantList};
use shared::api::{self, v1};
use thiserror::Error;

use crate::clock;
use crate::heard::Heard;
use crate::receive::receive;

/// Time to connect, the handshake included.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence while an answer comes in.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);
/// Time for a small exchange.
const SHORT: Duration = Duration::from_secs(30);
/// Time for a bundle's list or a pack, its length aside.
const LONG: Duration = Duration::from_secs(3600);
/// Longest lease that is believed, milliseconds.
const LONGEST_LEASE_MS: u64 = 60_000;

/// Why a call came to nothing.
#[derive(Debug, Error)]
pub enum Failed {
    /// The controller said no.
    #[error("the controller answered {status} {error}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its stable word.
        error: String,
        /// For people.
        message: String,
    },
    /// It is not there, or went away.
    #[error("the controller cannot be reached")]
    Transport(#[source] reqwest::Error),
    /// More bytes than the answer may have.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// Not of the message's form.
    #[error("the answer is not of its form")]
    Form(#[source] serde_json::Error),
    /// It comes, but so slowly that trying anew is better.
    #[error("the answer comes too slowly: {0} bytes in {1} s")]
    TooSlow(u64, u64),
    /// Where the answer should go.
    #[error("the answer cannot be stored")]
    Store(#[source] std::io::Error),
}

/// A client with our limits.
pub fn http(tls: ClientConfig) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        // The controller closes what is idle; a timer of ours would wake the agent for nothing.
        .pool_idle_timeout(None)
        .pool_max_idle_per_host(3)
        .tcp_nodelay(true)
        .tcp_keepalive(None)
        .user_agent(concat!("maand-agent/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// POSTs JSON, reads JSON.
pub async fn post<T: DeserializeOwned>(
    http: &reqwest::Client,
    url: &str,
    body: &impl Serialize,
    limit: Duration,
) -> Result<T, Failed> {
    let body = serde_json::to_vec(body).map_err(Failed::Form)?;
    let request = http.post(url).header("content-type", "application/json").timeout(limit).body(body);
    let response = checked(request.send().await.map_err(Failed::Transport)?).await?;
    serde_json::from_slice(&read(response, v1::ENROL_CAP).await?).map_err(Failed::Form)
}

/// The answer, or the controller's refusal.
async fn checked(response: Response) -> Result<Response, Failed> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let said: Option<ErrorBody> =
        read(response, 8 << 10).await.ok().and_then(|body| serde_json::from_slice(&body).ok());
    let (error, message) = said.map_or_else(
        || ("unknown".to_owned(), "it did not say why".to_owned()),
        |said| (shared::text::clean(&said.error), shared::text::clean(&said.message)),
    );
    Err(Failed::Refused { status: status.as_u16(), error, message })
}

async fn read(mut response: Response, cap: usize) -> Result<Vec<u8>, Failed> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Failed::Transport)? {
        if body.len() + chunk.len() > cap {
            return Err(Failed::TooLong(cap));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl Failed {
    /// Whether the certificate that was shown is what is wrong: a refusal, or an alert of TLS.
    pub fn is_about_the_certificate(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 401 | 403),
            Self::Transport(error) => shared::diagnostic::chain(error).contains("received fatal alert"),
            _ => false,
        }
    }

    /// Whether TLS said that the certificate has ended.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self, Self::Transport(error) if shared::diagnostic::chain(error).contains("CertificateExpired"))
    }
}

/// The controller's clock in an answer.
fn clock_of(response: &Response) -> Option<i64> {
    response.headers().get(api::CLOCK_HEADER).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// What a poll brought.
#[derive(Debug)]
pub enum Polled {
    /// Something newer.
    Newer(Envelope),
    /// Nothing newer.
    Nothing {
        /// The controller asked for a pause.
        pause: Option<Duration>,
        /// How long after the request was sent its word is good that what the agent has is the newest,
        /// milliseconds; 0 when it does not give it.
        lease_ms: u64,
    },
}

/// An answer to a poll.
#[derive(Debug)]
pub struct Answer {
    /// What was said.
    pub polled: Polled,
    /// The controller's clock when it answered, milliseconds since 1970 UTC.
    pub clock_ms: Option<i64>,
}

/// A client of one controller, as one agent.
#[derive(Debug, Clone)]
pub struct Client {
    http: Arc<RwLock<reqwest::Client>>,
    base: String,
    session: Arc<Session>,
    heard: Arc<Heard>,
}

/// The number of this start, once the controller has given it.
#[derive(Debug)]
struct Session {
    /// What is said to get one; without it the number is given from the first.
    asks: Option<SessionRequest>,
    number: AtomicU64,
    opening: tokio::sync::Mutex<Option<Instant>>,
}

/// How long an agent leaves the worker to another one that started later with its identity, before it starts anew.
const SUPERSEDED: Duration = Duration::from_secs(120);

impl Client {
    /// `base` without a slash at its end.
    pub fn new(tls: ClientConfig, base: &str, session: u64) -> reqwest::Result<Self> {
        Self::with(tls, base, None, session)
    }

    /// The same for a start that the controller numbers: with the first request, and before it.
    pub fn starting(tls: ClientConfig, base: &str, asks: SessionRequest) -> reqwest::Result<Self> {
        Self::with(tls, base, Some(asks), 0)
    }

    fn with(tls: ClientConfig, base: &str, asks: Option<SessionRequest>, number: u64) -> reqwest::Result<Self> {
        let http = Arc::new(RwLock::new(http(tls)?));
        let session =
            Arc::new(Session { asks, number: AtomicU64::new(number), opening: tokio::sync::Mutex::default() });
        Ok(Self { http, base: base.to_owned(), session, heard: Arc::default() })
    }

    /// The number of this start, if there is one yet.
    fn session(&self) -> Option<u64> {
        Some(self.session.number.load(Ordering::SeqCst)).filter(|number| *number > 0)
    }

    /// The number of this start; asks for it unless it is there. Whatever carries it in its body has it from here.
    pub async fn numbered(&self) -> Result<u64, Failed> {
        let mut until = self.session.opening.lock().await;
        if let Some(number) = self.session() {
            return Ok(number);
        }
        if until.is_some_and(|until| clock::instant() < until) {
            return Err(Failed::Refused {
                status: 409,
                error: "superseded".to_owned(),
                message: "another agent has started with this identity since".to_owned(),
            });
        }
        *until = None;
        let Some(asks) = &self.session.asks else { return Ok(0) };
        let number = match self.exchange(self.post(v1::SESSION, asks, SHORT)?).await {
            Ok(answer) => {
                let body = read(answer, v1::ENROL_CAP).await?;
                serde_json::from_slice::<SessionResponse>(&body).map_err(Failed::Form)?.number
            }
            // A controller that is older than this counts nothing.
            Err(Failed::Refused { status: 404 | 405, .. }) => asks.counted,
            Err(error) => return Err(error),
        };
        self.session.number.store(number, Ordering::SeqCst);
        Ok(number)
    }

    /// Another one has taken over: nothing is asked for a while, then this start is numbered anew.
    async fn superseded(&self, number: u64) {
        let mut until = self.session.opening.lock().await;
        if self.session() == Some(number) {
            self.session.number.store(0, Ordering::SeqCst);
            *until = Some(clock::instant() + SUPERSEDED.mul_f64(1.0 + clock::random()));
        }
    }

    /// From now on as `tls` says, on new connections; requests that are under way end as they began.
    pub fn change(&self, tls: ClientConfig) -> reqwest::Result<()> {
        *self.http.write().unwrap_or_else(PoisonError::into_inner) = http(tls)?;
        Ok(())
    }

    /// What answers said.
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// Sends a request of this start.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Failed> {
        let number = self.numbered().await?;
        self.send_as(number, request).await
    }

    /// Sends a request of the start with this number.
    async fn send_as(&self, number: u64, request: reqwest::RequestBuilder) -> Result<Response, Failed> {
        let answered = self.exchange(request.header(api::SESSION_HEADER, number)).await;
        if matches!(&answered, Err(Failed::Refused { status: 409, error, .. }) if error == "superseded") {
            self.superseded(number).await;
        }
        if answered.is_ok() {
            self.heard.let_go();
        }
        answered
    }

    /// Sends a request; what its answer says beside is kept.
    async fn exchange(&self, request: reqwest::RequestBuilder) -> Result<Response, Failed> {
        let answered = match request.send().await {
            Ok(response) => {
                if let Some(clock_ms) = clock_of(&response) {
                    self.heard.clock(clock_ms);
                }
                if let Some(said) = response.headers().get(api::AUTHORITY_HEADER).and_then(|value| value.to_str().ok())
                {
                    self.heard.authorities(said);
                }
                checked(response).await
            }
            Err(error) => Err(Failed::Transport(error)),
        };
        self.heard.judged(answered.as_ref().err());
        answered
    }

    fn request(&self, method: Method, path: &str, limit: Duration) -> reqwest::RequestBuilder {
        self.http
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .request(method, format!("{}{path}", self.base))
            .header(api::PROTOCOL_HEADER, api::PROTOCOL)
            .timeout(limit)
    }

    fn post(&self, path: &str, body: &impl Serialize, limit: Duration) -> Result<reqwest::RequestBuilder, Failed> {
        let body = serde_json::to_vec(body).map_err(Failed::Form)?;
        Ok(self.request(Method::POST, path, limit).header("content-type", "application/json").body(body))
    }

    /// Asks for a desired state newer than `after`, waiting up to `wait` seconds.
    pub async fn desired(&self, after: Option<Fence>, wait: u64) -> Result<Answer, Failed> {
        let after = after.map(|fence| format!("after={fence}&")).unwrap_or_default();
        let path = format!("{}?{after}wait={wait}", v1::DESIRED);
        let response = self.send(self.request(Method::GET, &path, Duration::from_secs(wait) + SILENCE)).await?;
        let clock_ms = clock_of(&response);
        if response.status() == StatusCode::NO_CONTENT {
            let pause = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let pause = pause.map(|seconds: u64| Duration::from_secs(seconds.min(300)));
            // A controller that does not know of leases was asked the same before there were any.
            let lease_ms = match response.headers().get(api::LEASE_HEADER) {
                None => api::LEASE_MS,
                Some(value) => {
                    value.to_str().ok().and_then(|value| value.parse().ok()).unwrap_or(0).min(LONGEST_LEASE_MS)
                }
            };
            return Ok(Answer { polled: Polled::Nothing { pause, lease_ms }, clock_ms });
        }
        let envelope = serde_json::from_slice(&read(response, v1::DESIRED_CAP).await?).map_err(Failed::Form)?;
        Ok(Answer { polled: Polled::Newer(envelope), clock_ms })
    }

    /// A bundle's list.
    ///
    /// It goes through `scratch`, an empty file: as text it may be longer than what it stands for, and memory is
    /// for the latter alone.
    pub async fn bundle(
        &self,
        digest: &BundleDigest,
        base: Option<&BundleDigest>,
        mut scratch: File,
    ) -> Result<BundleAnswer, Failed> {
        let base = base.map(|base| format!("?base={base}")).unwrap_or_default();
        let path = format!("{}/{digest}{base}", v1::BUNDLES);
        let response = self.send(self.request(Method::GET, &path, LONG)).await?;
        receive(response, 0, v1::BUNDLE_CAP as u64, &mut scratch).await?;
        scratch.seek(SeekFrom::Start(0)).map_err(Failed::Store)?;
        serde_json::from_reader(BufReader::with_capacity(64 << 10, scratch)).map_err(Failed::Form)
    }

    /// Fetches a pack into `out`, whose first `have` bytes are there already and carry `etag`. Returns
    /// when the answer ended; on an error `out` has what came until then. The tag comes first.
    pub async fn pack(
        &self,
        want: &WantList,
        have: u64,
        etag: Option<&str>,
        cap: u64,
        mut began: impl FnMut(Option<String>, bool) -> std::io::Result<()>,
        out: &mut impl Write,
    ) -> Result<(), Failed> {
        let mut request = self.post(v1::PACKS, want, LONG)?;
        if let (1.., Some(etag)) = (have, etag) {
            request = request.header(RANGE, format!("bytes={have}-")).header(IF_RANGE, etag);
        }
        let response = self.send(request).await?;
        let tag = response.headers().get(ETAG).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
        began(tag, resumed).map_err(Failed::Store)?;
        receive(response, if resumed { have } else { 0 }, cap, out).await
    }

    /// Sends a report of the start that is [`numbered`](Self::numbered) in it; durable with the controller when
    /// this returns `Ok`.
    pub async fn report(&self, report: &Report) -> Result<(), Failed> {
        self.send_as(report.session, self.post(v1::REPORTS, report, SHORT)?).await.map(drop)
    }

    /// Ends this agent's own certificate.
    pub async fn leave(&self) -> Result<(), Failed> {
        self.send(self.post(v1::LEAVE, &v1::leave::LeaveRequest {}, SHORT)?).await.map(drop)
    }

    /// Sends output.
    pub async fn logs(&self, batch: &LogBatch) -> Result<(), Failed> {
        self.send(self.post(v1::LOGS, batch, SHORT)?).await.map(drop)
    }

    /// Asks who this is: whether the certificate is let in.
    /// `trusts` are pins of the authorities that are trusted here, hexadecimal, commas between.
    pub async fn whoami(&self, trusts: &str) -> Result<Whoami, Failed> {
        let response =
            self.exchange(self.request(Method::GET, &format!("{}?trusts={trusts}", v1::SELF), SHORT)).await?;
        serde_json::from_slice(&read(response, v1::ENROL_CAP).await?).map_err(Failed::Form)
    }

    /// Asks for a new certificate.
    pub async fn renew(&self, request: &RenewRequest) -> Result<RenewResponse, Failed> {
        let response = self.exchange(self.post(v1::RENEW, request, SHORT)?).await?;
        serde_json::from_slice(&read(response, v1::ENROL_CAP).await?).map_err(Failed::Form)
    }
}
