//! The controller's nouns. They know nothing of files, rows or messages.

pub mod allocation;
pub mod catalog;
pub mod job;
pub mod kv;
pub mod units;
pub mod worker;

pub use allocation::{Allocation, Promoted};
pub use catalog::Snapshot;
pub use job::{FileKind, Job, JobFile, JobSpec};
pub use worker::Worker;
