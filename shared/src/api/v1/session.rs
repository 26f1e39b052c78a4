//! A start of an agent is numbered by the controller. Of two agents with one identity the later start counts: the other
//! is told so, and two that take turns are found out.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What an agent says when it starts, before anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// This start; the same again gets the same number: the answer was lost.
    pub start: Uuid,
    /// Starts of this agent, counted by itself: the number is not lower.
    pub counted: u64,
    /// The kernel's boot id.
    pub boot_id: Uuid,
    /// Digest of the machine's id; `None` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Made at random when the agent joined.
    pub instance: Uuid,
    /// The agent's program version.
    pub agent_version: String,
}

impl SessionRequest {
    /// Cuts what is longer than is kept.
    pub fn bound(&mut self) {
        let cut = |text: &mut String| text.truncate(text.floor_char_boundary(80));
        cut(&mut self.agent_version);
        if let Some(machine) = &mut self.machine {
            cut(machine);
        }
    }
}

/// The number that every later request bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionResponse {
    /// It.
    pub number: u64,
}
