//! The wire between agent and controller, by version. A published version is frozen: fields may be
//! added where a reader that does not know them may ignore them; nothing is renamed or reused.

pub mod v1;

/// Request header with the protocol's version as `1.<minor>`.
pub const PROTOCOL_HEADER: &str = "maand-protocol";
/// This program's protocol. A controller speaks to agents two minor versions older.
pub const PROTOCOL: &str = "1.0";
/// Request header with the number of the agent's session (a start of the process), as the controller gave it.
pub const SESSION_HEADER: &str = "maand-session";
/// Response header with the request's id, as in the controller's log.
pub const REQUEST_ID_HEADER: &str = "maand-request-id";
/// Response header with the controller's clock when it answered, milliseconds since 1970 UTC: what the
/// time limits of operations are measured by.
pub const CLOCK_HEADER: &str = "maand-clock-ms";
