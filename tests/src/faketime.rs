//! The library of `faketime(1)`, which shows a program another clock. Loaded alone: the program itself would stand between
//! a test and what it started, and leave that behind when it is killed.

use std::process::Command;

/// What a program is to preload, `threads` where it has several; `None`, with a word, where it is not installed.
///
/// # Panics
/// When it does not say, or with `MAAND_CI` set, when it is not installed.
pub fn library(threads: bool) -> Option<String> {
    let mut command = Command::new("faketime");
    command.args(threads.then_some("-m")).args(["-f", "+0s", "printenv", "LD_PRELOAD"]);
    let asked = match command.output() {
        Ok(asked) => asked,
        Err(error) => {
            assert!(std::env::var_os("MAAND_CI").is_none(), "faketime is needed here: {error}");
            println!("skipped: faketime is not installed");
            return None;
        }
    };
    let library = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    assert!(asked.status.success() && !library.is_empty(), "{}", String::from_utf8_lossy(&asked.stderr));
    Some(library)
}

/// Takes away what the library keeps for process `pid`, and leaves when that is killed: a later process of that number
/// would be refused.
pub fn forget(pid: u32) {
    for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
        drop(std::fs::remove_file(std::path::Path::new("/dev/shm").join(name)));
    }
}
