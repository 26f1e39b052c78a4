//! Edge: which agents are connected, written seldom, so that an idle fleet costs no commits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use shared::WorkerId;

use super::State;
use crate::catalog::observed::{self, Contact};
use crate::clock;

/// An agent's last contact is written at most this often while it stays connected.
const TOUCH_MS: i64 = 20_000;

/// Which agents are connected, how often, and when that was written last.
#[derive(Debug, Default)]
pub(crate) struct Connected(Mutex<HashMap<WorkerId, Present>>);

#[derive(Debug, Default)]
struct Present {
    connections: u32,
    written_ms: i64,
}

impl Connected {
    /// How many agents.
    pub(crate) fn count(&self) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().filter(|present| present.connections > 0).count()
    }

    /// Whether the contact is to be written now; counts as written if so.
    fn due(&self, worker: WorkerId, now_ms: i64) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let present = all.entry(worker).or_default();
        let due = now_ms - present.written_ms >= TOUCH_MS;
        if due {
            present.written_ms = now_ms;
        }
        due
    }
}

/// An agent was heard of; written seldom.
pub(crate) async fn touch(state: &State, worker: WorkerId) {
    let now_ms = clock::now_ms();
    if state.connected.due(worker, now_ms) {
        let contact = Contact { last_seen_ms: now_ms, connected: true };
        drop(state.database.write(move |c| observed::touch(c, worker, contact)).await);
    }
}

/// One connection of an agent.
pub(crate) struct Presence {
    state: Arc<State>,
    worker: WorkerId,
}

impl Presence {
    pub(crate) fn new(state: Arc<State>, worker: WorkerId) -> Self {
        {
            let mut all = state.connected.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(worker).or_default().connections += 1;
        }
        Self { state, worker }
    }

    /// The connection has ended; with the last one the agent counts as away at once.
    pub(crate) async fn leave(self) {
        let last = {
            let mut all = self.state.connected.0.lock().unwrap_or_else(PoisonError::into_inner);
            let present = all.entry(self.worker).or_default();
            present.connections = present.connections.saturating_sub(1);
            let last = present.connections == 0;
            // Only what was written as present needs to be taken back.
            let known = present.written_ms != 0;
            if last {
                all.remove(&self.worker);
            }
            last && known
        };
        if last {
            let contact = Contact { last_seen_ms: clock::now_ms(), connected: false };
            let worker = self.worker;
            drop(self.state.database.write(move |c| observed::touch(c, worker, contact)).await);
        }
    }
}
