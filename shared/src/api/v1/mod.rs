//! Version 1. `design/pull.md` has the table of calls; the caps are per body, in bytes.

pub mod bounded;
pub mod desired;
pub mod enrol;
pub mod error;
pub mod facts;
pub mod fit;
pub mod health;
pub mod leave;
pub mod logs;
pub mod operation;
pub mod renew;
pub mod report;
pub mod session;
pub mod want;

/// `POST`: join token and CSR for a certificate, or CSR and a proof with the key of a certificate that has ended; the
/// one call without a client certificate.
pub const ENROL: &str = "/v1/enrol";
/// `GET`: whose certificate this is.
pub const SELF: &str = "/v1/self";
/// `POST`: a start of the agent; its number is in every later request.
pub const SESSION: &str = "/v1/self/session";
/// `POST`: a new certificate before the old one ends.
pub const RENEW: &str = "/v1/self/renew";
/// `GET`: the worker's desired state, as a long poll.
pub const DESIRED: &str = "/v1/self/desired";
/// `GET {BUNDLES}/{digest}`: a bundle's list, or its difference from one that the agent has.
pub const BUNDLES: &str = "/v1/self/bundles";
/// `POST`: a want-list for a pack.
pub const PACKS: &str = "/v1/self/packs";
/// `POST`: the observed state.
pub const REPORTS: &str = "/v1/self/reports";
/// `POST`: output of actions and operations.
pub const LOGS: &str = "/v1/self/logs";
/// `POST`: this agent's certificates end.
pub const LEAVE: &str = "/v1/self/leave";

/// Cap of an enrolment's body.
pub const ENROL_CAP: usize = 16 << 10;
/// Cap of a report's body.
pub const REPORT_CAP: usize = 2 << 20;
/// Cap of a leave's body.
pub const LEAVE_CAP: usize = 1 << 10;
/// Cap of a chunk of output.
pub const LOGS_CAP: usize = 256 << 10;
/// Cap of a want-list's body (of a bundle's 50,000 digests).
pub const WANT_CAP: usize = 8 << 20;
/// Cap of a desired state's body, which an agent accepts: what its operations may have, and as much again for
/// its allocations, in base64.
pub const DESIRED_CAP: usize = 12 << 20;
/// Cap of a bundle's list, which an agent accepts: 50,000 files with the longest of paths.
pub const BUNDLE_CAP: usize = 24 << 20;
/// Most allocations of a worker.
pub const MAX_ALLOCATIONS: usize = 2000;
/// Longest wait that a long poll may ask for, in seconds.
pub const MAX_WAIT_S: u64 = 50;
