//! Points at which a test may kill the agent, as a power cut would: feature `failpoints`, and the
//! point's name in `MAAND_FAILPOINT`, or `name:3` for the third time that it is reached. Without the feature there is nothing of it in the program.
#![cfg_attr(feature = "failpoints", expect(clippy::disallowed_methods, reason = "edge: tests alone"))]

/// Every point, in the order of an apply.
pub const FAILPOINTS: &[&str] = &[
    "accept::before",
    "accept::after",
    "accept::granted",
    "fetch::after_list",
    "fetch::after_pack",
    "store::before_rename",
    "intent::before",
    "intent::after",
    "activate::between",
    "activate::after",
    "placed::after",
    "run::recorded",
    "run::spawned",
    "run::released",
    "run::after_exit",
    "result::after",
];

/// Those of an operation alone.
pub const OPERATION_FAILPOINTS: &[&str] = &["operation::recorded", "operation::after_exit", "operation::result"];

/// That of a start after a boot.
pub const BOOT_FAILPOINT: &str = "boot::recorded";

/// Dies here if a test wants it; or stands still, as a frozen machine does, where `MAAND_STOPPOINT` names the point.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    static STOPS: AtomicUsize = AtomicUsize::new(0);
    debug_assert!(
        FAILPOINTS.contains(&name) || OPERATION_FAILPOINTS.contains(&name) || name == BOOT_FAILPOINT,
        "{name} is not listed"
    );
    if std::env::var("MAAND_STOPPOINT").is_ok_and(|point| point == name) && STOPS.fetch_add(1, Ordering::SeqCst) == 0 {
        let _goes_on = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
        // The signal is the whole process's: another thread may take it, and this one run on until that has stopped all.
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    let Ok(wanted) = std::env::var("MAAND_FAILPOINT") else { return };
    // A point's own name has two colons, its number one.
    let (point, number) = match wanted.rsplit_once(':') {
        Some((point, number)) if !point.ends_with(':') => (point, number.parse().unwrap_or(1)),
        _ => (wanted.as_str(), 1),
    };
    if point == name && TIMES.fetch_add(1, Ordering::SeqCst) + 1 == number {
        let _ended = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_: &str) {}
