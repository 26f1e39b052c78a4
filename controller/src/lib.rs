//! The controller, in the order in which the data flows: a workspace is read, built into the
//! catalog, rendered into bundles, planned, rolled out; `serve` hands it to agents and takes their
//! reports; `cli` is the only part that talks to people.
//!
//! Layers (who may import whom) are in ARCHITECTURE.md and enforced by `tests/it/architecture.rs`.

pub mod failure;
pub mod model;

pub mod admission;
pub mod build;
pub mod gc;
pub mod plan;
pub mod recover;
pub mod render;
pub mod rollout;
pub mod why;
pub mod workspace;

pub mod backup;
pub mod bundle;
pub mod catalog;
pub mod clock;
pub mod compose;
pub mod config;
pub mod drive;
pub mod high_water;
pub mod hooks;
pub mod paths;
pub mod permissions;
pub mod regular;
pub mod renderer;
pub mod secrets;
pub mod serve;
pub mod service;
pub mod tally;
pub mod telemetry;
pub mod tls;

pub mod cli;

pub use cli::main;
