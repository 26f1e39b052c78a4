//! Health checks of the jobs that run here (`spec/behaviour.md` 8.1; probes run in the agent, see
//! `spec/decisions.md`). `schedule` is pure: when to check, and what the answers mean; `probe` and `exec` ask;
//! `watch` carries out.
//!
//! - After a start, restart or reload that ended well: at once, again every `interval_s` until all
//!   checks are good or `attempts` have failed; then every `every_s` (spread by a tenth) for as long as
//!   the job runs. While a make target runs, and when the job is stopped, nothing is checked.
//! - Where: the worker's host as workers.json names it, if that is (or resolves to) an address of this
//!   very machine, then 127.0.0.1. A check never leaves the machine, so that neither NAT nor a firewall
//!   between the worker and itself has a say. The first address that answers decides.
//! - `https` verifies the certificate: by `certs/ca.crt` of the job, where it has one, and by the
//!   system's roots. Certificates of the bucket name the host, 127.0.0.1 and localhost.
//! - Redirects are followed a few times, unless a redirect is what is expected; bodies are not read.
//!
//! Nothing of it is in the ledger: an agent that starts anew checks anew, after the action that the
//! ledger has.

pub mod exec;
pub mod probe;
pub mod schedule;
pub mod watch;

pub use watch::watch;
