//! The controller's nouns. They know nothing of files, rows or messages.

pub mod allocation;
pub mod catalog;
pub mod cert;
mod disguise;
pub mod fingerprint;
pub mod glob;
pub mod health;
pub mod hook;
pub mod job;
pub mod kv;
pub mod redactor;
pub mod units;
pub mod worker;

pub use allocation::{Allocation, Deferral, PostDeploy, Promoted, Rolled};
pub use catalog::Snapshot;
pub use fingerprint::Fingerprint;
pub use glob::Glob;
pub use health::{HealthCheck, Probe};
pub use hook::{Demand, Hook, HookEvent};
pub use job::{Amount, Budget, FileKind, Job, JobFile, JobSpec, RestartPolicy};
pub use redactor::Redactor;
pub use worker::Worker;
