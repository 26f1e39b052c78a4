//! Tasks around the workspace: `cargo dev` and `cargo xtask TASK`.

mod dev;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK [ARGUMENT ...]

tasks:
  dev [DIR] [--once]   build maand and maand-agent in release and run `maand dev` (also: cargo dev)";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("dev") => dev::run(arguments),
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
