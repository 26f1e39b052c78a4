//! The one integration test binary.
#![allow(clippy::unwrap_used, reason = "test code: a panic is how it fails")]

mod support;

mod api;
mod architecture;
mod build;
mod deploy;
mod dev;
mod docs;
mod faults;
mod help;
mod join;
mod namespaces;
mod rules;
mod sim;
