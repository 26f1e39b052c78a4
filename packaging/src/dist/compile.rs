//! Builds both programs so that whoever builds the same commit with the same tools gets the same bytes: no path of the
//! machine gets into them, from Rust or from C, and no time but the commit's.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::elf;

/// Names of the machine's directories in what is built. The last one that is a prefix of a path counts.
type Names = Vec<(PathBuf, &'static str)>;

/// What keeps cargo's flags apart in its variable.
const APART: char = '\u{1f}';

/// Builds both programs in a place of its own: what is built with other flags would push out what developers build.
/// Where they are.
pub fn build(workspace: &Path, profile: &str, target: &Path, time: u64) -> io::Result<PathBuf> {
    std::fs::create_dir_all(target)?;
    let names = names(workspace, target)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command
        .current_dir(workspace)
        .args(["build", "--locked", "--profile", profile, "--package", "controller", "--package", "agent", "--bins"])
        .arg("--target-dir")
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", rust(&asked_of_rust(), &names)?)
        .env("SOURCE_DATE_EPOCH", time.to_string())
        .env("CARGO_INCREMENTAL", "0");
    for variable in ["CFLAGS", "CXXFLAGS"] {
        let asked = std::env::var(variable).unwrap_or_default();
        command.env(variable, c(&asked, &names)?);
    }
    if !command.status()?.success() {
        return Err(io::Error::other("the programs were not built"));
    }
    let dir = target.join(if profile == "dev" { "debug" } else { profile });
    for program in ["maand", "maand-agent"] {
        let bytes = elf::stripped(&dir.join(program))?;
        if let Some(path) = told(&bytes, &names) {
            return Err(io::Error::other(format!(
                "{program} would tell where it was built: {} is in it",
                path.display()
            )));
        }
    }
    Ok(dir)
}

/// Flags that whoever runs this wants for Rust, as cargo would find them.
fn asked_of_rust() -> Vec<String> {
    let apart = std::env::var("CARGO_ENCODED_RUSTFLAGS").ok().filter(|flags| !flags.is_empty());
    match apart {
        Some(flags) => flags.split(APART).map(str::to_owned).collect(),
        None => std::env::var("RUSTFLAGS").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
    }
}

fn names(workspace: &Path, target: &Path) -> io::Result<Names> {
    let home = match (std::env::var_os("CARGO_HOME"), std::env::var_os("HOME")) {
        (Some(home), _) => PathBuf::from(home),
        (None, Some(home)) => PathBuf::from(home).join(".cargo"),
        (None, None) => return Err(io::Error::other("neither CARGO_HOME nor HOME says where cargo keeps sources")),
    };
    let mut names = vec![(workspace.to_owned(), "/build"), (home, "/cargo"), (target.to_owned(), "/target")];
    // As given, and as what follows links sees it.
    for (path, name) in names.clone() {
        match path.canonicalize() {
            Ok(real) if real != path => names.push((real, name)),
            _ => {}
        }
    }
    Ok(names)
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))
}

/// The first of the machine's directories that a program has in it.
fn told<'a>(program: &[u8], names: &'a Names) -> Option<&'a Path> {
    let within = |path: &&(PathBuf, &str)| {
        let path = path.0.as_os_str().as_bytes();
        holds(program, path)
    };
    names.iter().find(within).map(|(path, _)| path.as_path())
}

/// Whether `needle` is somewhere in `bytes`: by its first byte, as programs have tens of megabytes.
fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// For rustc: what is wanted anyway, and the names.
fn rust(asked: &[String], names: &Names) -> io::Result<String> {
    let mut flags = asked.to_vec();
    for (path, name) in names {
        flags.push(format!("--remap-path-prefix={}={name}", text(path)?));
    }
    Ok(flags.join(&APART.to_string()))
}

/// The same for the C compiler, of which those who call it part flags at spaces.
fn c(asked: &str, names: &Names) -> io::Result<String> {
    let mut flags = asked.to_owned();
    for (path, name) in names {
        let path = text(path)?;
        if path.contains(char::is_whitespace) {
            return Err(io::Error::other(format!("{path}: C compilers are told of no path with a space in it")));
        }
        flags += &format!(" -ffile-prefix-map={path}={name}");
    }
    Ok(flags.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_machine_get_names() {
        let names = vec![(PathBuf::from("/a b/w"), "/build"), (PathBuf::from("/h"), "/cargo")];
        let flags = rust(&["-C".into(), "opt-level=1".into()], &names).unwrap();
        let flags: Vec<_> = flags.split(APART).collect();
        assert_eq!(flags, ["-C", "opt-level=1", "--remap-path-prefix=/a b/w=/build", "--remap-path-prefix=/h=/cargo"]);
        assert!(c("", &names).unwrap_err().to_string().contains("/a b/w"));
        assert_eq!(told(b"x/a b/w/src", &names), Some(Path::new("/a b/w")));
        assert_eq!(told(b"/a b/ /build /cargo", &names), None);
        assert_eq!(c("-g0", &names[1..].to_vec()).unwrap(), "-g0 -ffile-prefix-map=/h=/cargo");
    }
}
