//! Edge: what systemd is told of this agent: that it is ready, what it does, and that it gets on. The watchdog is
//! fed by the loops themselves: each says by when it is back, and one that is not keeps the feeding from
//! happening. A make target of an hour holds none of them up.
#![expect(clippy::disallowed_methods, reason = "edge: gives back what a unit's settings changed for its processes")]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::sync::Notify;

use crate::clock;
use crate::report::Transient;
use crate::state::ledger::Ledger;

/// Time beyond a wait's own limit for what is done after it: a commit on a slow disk, a write.
const MARGIN: Duration = Duration::from_secs(30);
/// How often at most the status line moves.
const PACE: Duration = Duration::from_millis(250);

/// A loop that must come round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// Asks the controller for the desired state.
    Poll,
    /// Tells the controller what is.
    Report,
}

/// What the agent's loops say of themselves.
#[derive(Debug, Default)]
pub struct Service {
    due: Mutex<[Option<Instant>; 2]>,
    /// What is wrong with the way to the controller.
    away: Mutex<Option<String>>,
    moved: Notify,
}

impl Service {
    /// `who` waits for at most `limit` and is back then.
    pub fn back_within(&self, who: Loop, limit: Duration) {
        self.set(who, Some(clock::instant() + limit + MARGIN));
    }

    /// `who` waits for something that may never come.
    pub fn rests(&self, who: Loop) {
        self.set(who, None);
    }

    fn set(&self, who: Loop, due: Option<Instant>) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)[who as usize] = due;
    }

    /// The controller answers, or why it does not.
    pub fn controller(&self, trouble: Option<&str>) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        if away.as_deref() != trouble {
            *away = trouble.map(str::to_owned);
            self.moved.notify_one();
        }
    }

    /// Which loop is overdue.
    fn stuck(&self, now: Instant) -> Option<Loop> {
        let due = *self.due.lock().unwrap_or_else(PoisonError::into_inner);
        [Loop::Poll, Loop::Report].into_iter().find(|who| due[*who as usize].is_some_and(|due| due < now))
    }

    /// The status line.
    fn status(&self, accepted: Option<u64>, jobs: usize, doing: &[String]) -> String {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut parts = vec![match accepted {
            Some(update_seq) => format!("update_seq {update_seq}, {jobs} jobs"),
            None => "nothing deployed yet".to_owned(),
        }];
        if !doing.is_empty() {
            parts.push(doing.join(", "));
        }
        if let Some(why) = away {
            parts.push(format!("what runs goes on without the controller: {why}"));
        }
        shared::text::clean(&parts.join("; ")).chars().take(400).collect()
    }

    /// Ready: the lock and the ledger are had, and what a crash cut off is taken up.
    pub fn ready(&self) {
        drop(sd_notify::notify(&[NotifyState::Ready]));
    }

    /// About to end.
    pub fn stopping(&self) {
        drop(sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status("ending; jobs go on")]));
    }

    /// Feeds the watchdog and keeps the status line, for as long as it is polled.
    pub async fn tell(&self, ledger: &Ledger, transient: &Transient) {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return std::future::pending().await;
        }
        let watchdog = sd_notify::watchdog_enabled();
        let feed = watchdog.map_or(Duration::from_secs(3600), |limit| limit / 3);
        let mut said = String::new();
        loop {
            // A ledger that cannot be read is no progress either.
            let known = ledger.last().and_then(|last| Ok((last, ledger.rows()?)));
            match (self.stuck(clock::instant()), known) {
                (Some(who), _) => tracing::error!(?who, "stuck: the watchdog is not fed"),
                (None, Err(error)) => {
                    tracing::error!(error = shared::diagnostic::chain(&error), "stuck: the watchdog is not fed");
                }
                (None, Ok((last, rows))) => {
                    let jobs = rows.iter().filter(|row| !row.purged).count();
                    let seq = last.map(|last| last.accepted.fence.update_seq);
                    let status = self.status(seq, jobs, &transient.at_work());
                    if status != said {
                        drop(sd_notify::notify(&[NotifyState::Status(&status)]));
                        said = status;
                    }
                    drop(sd_notify::notify(&[NotifyState::Watchdog]));
                }
            }
            tokio::time::sleep(PACE.min(feed)).await;
            tokio::select! {
                () = tokio::time::sleep(feed.saturating_sub(PACE)) => {}
                () = self.moved.notified() => {}
                () = transient.moved.notified() => {}
            }
        }
    }
}

/// Gives a job what it would have without the agent's unit around it: the usual limits and the usual place when
/// memory is short.
pub fn shed() {
    let core = getrlimit(Resource::Core);
    let _raised = setrlimit(Resource::Core, Rlimit { current: core.maximum, maximum: core.maximum });
    // Only ever towards 0: a job that an operator wants kept says so itself.
    if std::fs::read_to_string("/proc/self/oom_score_adj").is_ok_and(|text| text.trim().starts_with('-')) {
        drop(std::fs::write("/proc/self/oom_score_adj", "0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_is_not_back_in_time_is_stuck_and_one_that_rests_is_not() {
        let service = Service::default();
        let now = clock::instant();
        assert_eq!(service.stuck(now), None);
        service.back_within(Loop::Report, Duration::from_secs(5));
        assert_eq!(service.stuck(now + Duration::from_secs(20)), None, "what follows the wait has its time too");
        assert_eq!(service.stuck(now + Duration::from_secs(40)), Some(Loop::Report));
        service.rests(Loop::Report);
        assert_eq!(service.stuck(now + Duration::from_secs(40)), None);
    }

    #[test]
    fn the_status_says_what_it_does_and_what_is_wrong() {
        let service = Service::default();
        assert_eq!(service.status(None, 0, &[]), "nothing deployed yet");
        assert_eq!(service.status(Some(7), 2, &["api: running".into()]), "update_seq 7, 2 jobs; api: running");
        service.controller(Some("the controller cannot be reached"));
        assert_eq!(
            service.status(Some(7), 2, &[]),
            "update_seq 7, 2 jobs; what runs goes on without the controller: the controller cannot be reached"
        );
        service.controller(None);
        assert_eq!(service.status(Some(7), 2, &[]), "update_seq 7, 2 jobs");
    }
}
