//! The one integration test binary.
#![allow(clippy::unwrap_used, reason = "test code: a panic is how it fails")]

mod support;

mod api;
mod architecture;
mod booted;
mod build;
mod crash;
mod deploy;
mod dev;
mod docs;
mod edits;
mod faults;
mod gc;
mod guide;
mod health;
mod help;
mod hooks;
mod identity;
mod incremental;
mod join;
mod logs;
mod namespaces;
mod operations;
mod outlive;
mod packages;
mod recover;
mod rerender;
mod rollout;
mod rules;
mod sim;
mod why;
mod worker_facts;
