//! `cargo dev`: builds both programs in release, so that `maand dev` finds `maand-agent` beside itself.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Builds, then becomes `maand dev` with `arguments`.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--release", "--package", "controller", "--package", "agent", "--bins"];
    match Command::new(&cargo).args(build).status() {
        Ok(status) if status.success() => {}
        Ok(_) => return ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: cannot run cargo to build maand: {error}");
            return ExitCode::FAILURE;
        }
    }
    let start = ["run", "--quiet", "--release", "--package", "controller", "--bin", "maand", "--", "dev"];
    // In place of this process: Ctrl-C and the exit code are maand's own.
    let error = Command::new(&cargo).args(start).args(arguments).exec();
    eprintln!("error: cannot run cargo to start maand: {error}");
    ExitCode::FAILURE
}
