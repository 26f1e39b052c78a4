//! Tasks around the workspace: `cargo dev` and `cargo xtask TASK`.

mod dev;
mod fuzz;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK [ARGUMENT ...]

tasks:
  dist                 build both programs and write .deb, .rpm and tar.zst (dist --help)
  completions DIR      write completions of maand and maand-agent for bash, zsh and fish into DIR
  man DIR              write a man page of each command into DIR
  fuzz [TARGET ...] [--seconds N]
                       run the targets of tests/fuzz, each for N seconds (60), and print what each found;
                       needs nightly Rust and cargo-fuzz
  dev [DIR] [--once]   build maand and maand-agent in release and run `maand dev` (also: cargo dev)";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let task = arguments.next();
    match task.as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("dev") => dev::run(arguments),
        Some("fuzz") => fuzz::run(arguments),
        #[cfg(feature = "pages")]
        Some("dist") => packaging::dist::run(arguments),
        Some(task @ ("completions" | "man")) => write(task, arguments),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Writes the files of `task` into the one directory that is given.
fn write(task: &str, mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(dir), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: cargo xtask {task} DIR");
        return ExitCode::from(2);
    };
    match pages(task, Path::new(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot write into {}: {error}", Path::new(&dir).display());
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "pages")]
fn pages(task: &str, dir: &Path) -> std::io::Result<()> {
    if task == "man" { packaging::pages::man(dir) } else { packaging::pages::completions(dir) }
}

#[cfg(not(feature = "pages"))]
fn pages(_: &str, _: &Path) -> std::io::Result<()> {
    Err(std::io::Error::other("this was built without the feature \"pages\""))
}
