//! The one integration test binary.
#![allow(clippy::unwrap_used, reason = "test code: a panic is how it fails")]

mod support;

mod alone;
mod api;
mod architecture;
mod booted;
mod build;
mod by_hand;
mod canary;
mod crash;
mod day2;
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
mod hostile;
mod identity;
mod incremental;
mod join;
mod leave;
mod logs;
mod namespaces;
mod operations;
mod outlive;
mod outside;
mod packages;
mod promises;
mod recover;
mod rerender;
mod resume;
mod rollout;
mod rules;
mod schemas;
mod sim;
mod templates;
mod terminal;
mod undumpable;
mod why;
mod worker_facts;
