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
    // Not `cargo run`: for one package it would choose other features of the dependencies and build them anew.
    let maand = match std::env::current_exe() {
        // <target>/debug/packaging
        Ok(own) => own.ancestors().nth(2).map(|target| target.join("release").join("maand")),
        Err(_) => None,
    };
    let Some(maand) = maand.filter(|path| path.is_file()) else {
        eprintln!(
            "error: the program that was just built is not in the target directory; run target/release/maand dev"
        );
        return ExitCode::FAILURE;
    };
    // In place of this process: Ctrl-C and the exit code are maand's own.
    let error = Command::new(&maand).arg("dev").args(arguments).exec();
    eprintln!("error: cannot run {}: {error}", maand.display());
    ExitCode::FAILURE
}
