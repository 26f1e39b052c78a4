//! Edge: what systemd is told of a controller's process: that it is ready, what it does, and that it gets on. Each
//! part of it that must come round says so when it does; the watchdog is fed only while all of them do. And the
//! port that systemd holds for it.
#![expect(clippy::disallowed_types, reason = "edge: the socket of the unit")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use shared::{Code, Diagnostic};

use crate::clock;
use crate::failure::{Exit, Failure};

/// How long a part may take to come round where no watchdog asks.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often systemd is told, if that is often enough.
const PACE: Duration = Duration::from_secs(2);

/// What this process tells of itself.
#[derive(Debug)]
pub struct Service {
    /// The watchdog's limit.
    limit: Option<Duration>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// When each part came round last.
    parts: BTreeMap<&'static str, Instant>,
    fed: Option<Instant>,
    status: String,
}

impl Default for Service {
    fn default() -> Self {
        Self { limit: sd_notify::watchdog_enabled(), told: Mutex::default() }
    }
}

impl Service {
    /// Everything that whoever waits for this process needs is there.
    pub fn ready(&self) {
        drop(sd_notify::notify(&[NotifyState::Ready]));
    }

    /// About to end.
    pub fn stopping(&self) {
        drop(sd_notify::notify(&[NotifyState::Stopping]));
    }

    /// What it does, in a line.
    pub fn status(&self, text: &str) {
        let text = shared::text::clean(text);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.status != text {
            drop(sd_notify::notify(&[NotifyState::Status(&text)]));
            told.status = text;
        }
    }

    /// A part came round, at some moment.
    pub fn came_round(&self, part: &'static str, when: Instant) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).parts.insert(part, when);
    }

    /// How often whoever feeds it shall come by.
    pub fn pace(&self) -> Duration {
        self.limit.map_or(PACE, |limit| PACE.min(limit / 8))
    }

    /// Feeds the watchdog, unless a part is late.
    pub fn feed(&self) {
        let now = clock::instant();
        if self.due(now) {
            drop(sd_notify::notify(&[NotifyState::Watchdog]));
        }
    }

    /// Whether it is time to feed, and nothing speaks against it.
    fn due(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = self.limit.map_or(PATIENCE, |limit| limit / 2);
        let late = told.parts.iter().find(|(_, when)| now.saturating_duration_since(**when) > patience);
        if let Some((part, _)) = late {
            tracing::error!(part, "stuck: the watchdog is not fed");
            return false;
        }
        let due = told.fed.is_none_or(|fed| now.saturating_duration_since(fed) >= patience / 4);
        if due {
            told.fed = Some(now);
        }
        due
    }
}

/// A port that is listened on already.
#[derive(Debug)]
pub struct Socket(TcpListener);

impl Socket {
    /// Where.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// To accept from; inside a runtime.
    pub fn listener(self) -> std::io::Result<tokio::net::TcpListener> {
        self.0.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(self.0)
    }
}

/// The port that systemd holds for this process, if it does. Asked once, before anything else is opened.
pub fn socket() -> Result<Option<Socket>, Failure> {
    let mut handed = ListenFd::from_env();
    let problem = |text: String| Diagnostic::new(Code::Listen, text).remedy("see maand-serve.socket");
    if handed.len() > 1 {
        let text = format!("systemd hands over {} sockets, and maand serve takes one", handed.len());
        return Err(Failure::new(Exit::Failed, problem(text)));
    }
    handed.take_tcp_listener(0).map(|taken| taken.map(Socket)).map_err(|error| {
        let text = "what systemd hands over is no socket that listens for TCP".to_owned();
        Failure::new(Exit::Failed, problem(text).cause(&error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_fed_in_time_and_only_while_every_part_comes_round() {
        let service = Service { limit: Some(Duration::from_secs(60)), told: Mutex::default() };
        let begin = clock::instant();
        let at = |seconds| begin + Duration::from_secs(seconds);
        service.came_round("catalog", at(0));
        service.came_round("wake", at(0));
        assert!(service.due(at(1)));
        assert!(!service.due(at(2)), "not more often than it needs");
        service.came_round("catalog", at(20));
        assert!(service.due(at(20)));
        service.came_round("catalog", at(40));
        assert!(!service.due(at(40)), "wake has not been round for 40 s");
        service.came_round("wake", at(40));
        assert!(service.due(at(41)));
    }
}
