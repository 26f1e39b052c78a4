//! What the controller's answers said beside what was asked: its clock, its authorities, and whether this agent is
//! still let in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::client::Failed;
use crate::clock;

/// Why the controller lets this agent in no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its word.
    pub error: String,
    /// For people.
    pub message: String,
}

/// Refusals that mean that another agent works under this identity.
const HELD: [&str; 2] = ["superseded", "quarantined"];

impl Refusal {
    fn is_held(&self) -> bool {
        HELD.contains(&self.error.as_str())
    }
}

/// What answers said beside what was asked.
#[derive(Debug, Default)]
pub struct Heard {
    offset_ms: Mutex<Option<i64>>,
    is_ended: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
    authority: Mutex<Option<String>>,
    news: Notify,
}

impl Heard {
    /// The controller's clock less ours, milliseconds, as of its last answer.
    pub fn offset_ms(&self) -> Option<i64> {
        *self.offset_ms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether TLS said that our certificate has ended.
    pub fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::SeqCst)
    }

    /// Another certificate is shown, or one was let in: what was said of it before holds no more.
    pub fn certificate_changed(&self) {
        self.is_ended.store(false, Ordering::SeqCst);
    }

    /// Why the last request was not let in.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another agent works under this identity: this one changes nothing.
    pub fn is_held(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.is_held())
    }

    /// A request of this start was answered: nobody else is at work.
    pub(crate) fn let_go(&self) {
        let mut held = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if held.take().is_some() {
            drop(held);
            self.news.notify_one();
        }
    }

    /// Until something of it changes.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// An answer, or that there is none.
    pub fn judged(&self, failed: Option<&Failed>) {
        let refusal = match failed {
            Some(Failed::Refused { status: 401 | 403, error, message }) => {
                Some(Refusal { error: error.clone(), message: message.clone() })
            }
            Some(Failed::Refused { status: 409, error, message }) if HELD.contains(&error.as_str()) => {
                Some(Refusal { error: error.clone(), message: message.clone() })
            }
            Some(failed) => {
                if failed.is_ended() && !self.is_ended.swap(true, Ordering::SeqCst) {
                    self.news.notify_one();
                }
                return;
            }
            None => {
                self.certificate_changed();
                // That the certificate is let in does not mean that nobody else uses it.
                self.refusal().filter(Refusal::is_held)
            }
        };
        let mut held = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if *held != refusal {
            *held = refusal;
            drop(held);
            self.news.notify_one();
        }
    }

    /// What the controller said last of which authorities count.
    pub fn authority(&self) -> Option<String> {
        self.authority.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn authorities(&self, said: &str) {
        let mut held = self.authority.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_deref() != Some(said) {
            *held = Some(said.chars().take(64).collect());
            drop(held);
            self.news.notify_one();
        }
    }

    pub(crate) fn clock(&self, clock_ms: i64) {
        let now = clock_ms.saturating_sub(clock::now_ms());
        let before = self.offset_ms.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        // The first, and a step: not what a slow answer adds.
        if before.is_none_or(|before| (before - now).abs() > 5_000) {
            self.news.notify_one();
        }
    }
}
