//! The one integration test binary.
#![allow(clippy::unwrap_used, reason = "test code: a panic is how it fails")]

mod support;

mod api;
mod architecture;
mod deploy;
mod dev;
mod faults;
mod gc;
mod health;
mod join;
mod namespaces;
mod recover;
mod rules;
mod sim;
mod why;
