//! What the tests and benchmarks stand on: real programs in temporary directories, on loopback
//! addresses of their own, ended by pid.
//!
//! - [`programs`]: where the two programs are
//! - [`bucket`]: a bucket in a temporary directory, and `maand` run in it
//! - [`agents`]: agents as real processes
//! - [`light`]: agents by the hundred, in the process of the test
//! - [`link`]: the way between an agent and its controller, as bad as a test wants it
//! - [`faketime`]: programs that see another clock
//! - [`process`]: a child that is ended when its test ends
//! - [`poll`]: the one way to wait: on a condition, with a deadline, saying what was seen last
//! - [`namespace`]: workers in network namespaces
//! - [`outside`]: everything that parses bytes from outside, as functions of bytes
//! - [`booted`]: machines whose first process is systemd
//! - [`rig`]: an agent that is hit in the middle of its work
#![allow(clippy::unwrap_used, reason = "test code: a panic is how it fails")]

pub mod agents;
pub mod booted;
pub mod bucket;
pub mod faketime;
pub mod light;
pub mod link;
pub mod namespace;
pub mod outside;
pub mod poll;
pub mod process;
pub mod programs;
pub mod rendering;
pub mod rig;
