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
/// Response header, to agents: short for the authorities that are trusted and the one that issues. An agent that sees
/// another one than before asks who it is (`v1::SELF`).
pub const AUTHORITY_HEADER: &str = "maand-authority";
/// Response header with the controller's clock when it answered, milliseconds since 1970 UTC: what the
/// time limits of operations are measured by.
pub const CLOCK_HEADER: &str = "maand-clock-ms";
/// Response header of a poll that brought nothing: for how many milliseconds after the request was sent the agent
/// may begin what it was told last; 0 when the controller does not stand by that. See [`LEASE_MS`].
pub const LEASE_HEADER: &str = "maand-lease-ms";
/// How long a controller's word that a desired state is its newest is good, milliseconds.
///
/// An agent begins an action at a time `t` only when the controller confirmed its state in the answer to a
/// request sent at `s`, and `t < s + LEASE_MS` on its own steady clock. The answer was made at `c >= s`, and
/// before the take-back at `w` was committed, or it would have been another: so `t < w + LEASE_MS`. A driver
/// counts a release that it took back as never begun only at `w + GONE_MS`, which is more, because two machines'
/// clocks do not run at the very same speed.
pub const LEASE_MS: u64 = 5_000;
/// How long after a release was taken back its agent may still begin it, milliseconds; see [`LEASE_MS`].
pub const GONE_MS: i64 = 6_000;
