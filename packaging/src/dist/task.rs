//! The command `cargo xtask dist`: builds both programs, then packages them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::compile;
use super::{Format, Input, packages};

const USAGE: &str = "\
usage: cargo xtask dist [--profile PROFILE | --programs DIR] [--out DIR]

Builds maand and maand-agent and writes .deb, .rpm and tar.zst into DIR (target/dist). With --profile dev they are
bigger and sooner there; with --programs nothing is built, and those in that directory are taken. Times in them are
SOURCE_DATE_EPOCH, or the commit's.";

/// Runs it.
pub fn run(arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let (mut profile, mut programs, mut out) = ("release".to_owned(), None, None);
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--profile", Some(name)) => profile = name,
            ("--programs", Some(dir)) => programs = Some(PathBuf::from(dir)),
            ("--out", Some(dir)) => out = Some(PathBuf::from(dir)),
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    match make(&profile, programs, out) {
        Ok(written) => {
            for path in written {
                let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
                println!("{:>9}  {}", bytes, path.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace: where cargo says that it runs this, else where it was built. They differ when two checkouts share a
/// target directory.
pub fn workspace() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().map(Path::to_owned).unwrap_or_default()
}

fn make(profile: &str, programs: Option<PathBuf>, out: Option<PathBuf>) -> io::Result<Vec<PathBuf>> {
    let workspace = workspace();
    // <target>/debug/packaging, or wherever cargo put this one.
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).map_or_else(|| workspace.join("target"), Path::to_owned).join("dist");
    let time = time(&workspace)?;
    let dir = match programs {
        Some(dir) => dir,
        None => compile::build(&workspace, profile, &target.join("build"), time)?,
    };
    let input = Input {
        maand: dir.join("maand"),
        agent: dir.join("maand-agent"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time,
        formats: Format::ALL.to_vec(),
        small: profile != "dev",
        workspace,
    };
    packages(&input, &out.unwrap_or(target))
}

fn time(workspace: &Path) -> io::Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => {
            let said = Command::new("git").current_dir(workspace).args(["log", "-1", "--format=%ct"]).output()?;
            String::from_utf8_lossy(&said.stdout).into_owned()
        }
    };
    text.trim().parse().map_err(|_| io::Error::other("no time for the packages: set SOURCE_DATE_EPOCH"))
}
