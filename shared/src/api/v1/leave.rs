//! The end of an agent, by its own word. Who leaves is who the client certificate says.

use serde::{Deserialize, Serialize};

/// What an agent sends to leave. What it has stopped and removed is in the report that it sent before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveRequest {}
