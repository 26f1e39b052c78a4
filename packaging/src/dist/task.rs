//! The command `cargo xtask dist`: builds both programs, then packages them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

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

/// The workspace that this was built in.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

fn make(profile: &str, programs: Option<PathBuf>, out: Option<PathBuf>) -> io::Result<Vec<PathBuf>> {
    let workspace = workspace();
    // <target>/debug/packaging, or wherever cargo put this one.
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).map_or_else(|| workspace.join("target"), Path::to_owned).join("dist");
    let dir = match programs {
        Some(dir) => dir,
        None => build(&workspace, profile, &target.join("build"))?,
    };
    let input = Input {
        maand: dir.join("maand"),
        agent: dir.join("maand-agent"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time: time(&workspace)?,
        formats: Format::ALL.to_vec(),
        small: profile != "dev",
        workspace,
    };
    packages(&input, &out.unwrap_or(target))
}

/// Builds both programs in a place of its own: what is built with other flags would push out what developers build.
fn build(workspace: &Path, profile: &str, target: &Path) -> io::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(&cargo)
        .current_dir(workspace)
        .args(["build", "--locked", "--profile", profile, "--package", "controller", "--package", "agent", "--bins"])
        .arg("--target-dir")
        .arg(target)
        // Else where it was built would be in the programs.
        .env("RUSTFLAGS", remapped(workspace))
        .status()?;
    if !built.success() {
        return Err(io::Error::other("the programs were not built"));
    }
    Ok(target.join(if profile == "dev" { "debug" } else { profile }))
}

/// Paths of this machine, under names that are the same everywhere.
fn remapped(workspace: &Path) -> String {
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let home = std::env::var("CARGO_HOME").ok().or_else(|| Some(format!("{}/.cargo", std::env::var("HOME").ok()?)));
    flags += &format!(" --remap-path-prefix={}=/build", workspace.display());
    if let Some(home) = home {
        flags += &format!(" --remap-path-prefix={home}=/cargo");
    }
    flags.trim().to_owned()
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
