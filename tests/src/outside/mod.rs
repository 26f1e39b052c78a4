//! What comes from outside, and what must hold of whatever reads it: nothing panics, hangs or takes memory
//! without bound, what was accepted is in its bounds, and written again it is the same.
//!
//! Each function takes any bytes. `tests/fuzz` feeds them what a fuzzer makes, `tests/it/outside.rs` in every
//! run the seeds (`tests/fuzz/seeds/TARGET/`), what is made of them by small damage, and random bytes.

mod agent;
mod controller;
mod report;
mod template;
pub mod wire;
mod workspace;

/// One reader, by the name of its fuzz target.
pub type Target = (&'static str, fn(&[u8]));

/// Every one.
pub const TARGETS: &[Target] = &[
    ("bundle", wire::bundle),
    ("certificate", controller::certificate),
    ("desired", wire::desired),
    ("enrol", controller::enrol),
    ("hook_api", controller::hook_api),
    ("log_lines", controller::log_lines),
    ("logs", wire::logs),
    ("mountinfo", agent::mountinfo),
    ("pack", wire::pack),
    ("report", report::report),
    ("settings", workspace::settings),
    ("template", template::template),
    ("token", wire::token),
    ("want", wire::want),
    ("words", wire::words),
    ("workspace", workspace::workspace),
];

/// Runs the target of that name.
pub fn feed(target: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, read) = found.unwrap_or_else(|| panic!("there is no target {target}"));
    read(bytes);
}
