//! What an agent can be asked to do when an allocation's bundle is in place.

use serde::{Deserialize, Serialize};

/// A lifecycle action. `spec/behaviour.md` 4.6.2, `design/pull.md` "Desired state".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// First deploy on this worker, or again after a drain: `make start`.
    Start,
    /// Full recreate: `make restart`.
    Restart,
    /// Soft apply: `make reload`.
    Reload,
    /// Files only; nothing runs.
    Sync,
    /// Drain or removal: `make stop`.
    Stop,
}

impl ActionKind {
    /// The Makefile target, when the action runs one.
    pub const fn make_target(self) -> Option<&'static str> {
        match self {
            Self::Start => Some("start"),
            Self::Restart => Some("restart"),
            Self::Reload => Some("reload"),
            Self::Stop => Some("stop"),
            Self::Sync => None,
        }
    }

    /// Whether the job's processes live on, so that what they have mounted must keep its inode.
    pub const fn keeps_process(self) -> bool {
        matches!(self, Self::Reload | Self::Sync)
    }

    /// The word that operators see.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Sync => "sync",
            Self::Stop => "stop",
        }
    }
}

impl std::fmt::Display for ActionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.word())
    }
}

/// Version that runs now, in a make target's environment.
pub const ENV_CURRENT_VERSION: &str = "CURRENT_VERSION";
/// Version that is being deployed, in a make target's environment.
pub const ENV_NEW_VERSION: &str = "NEW_VERSION";
