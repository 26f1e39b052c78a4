//! Licences of what is linked into a program: found with cargo, held against what deny.toml allows, and written down
//! with their texts. What has no text, or another licence, is in no package.

mod page;
mod spdx;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::Command;

pub use page::page;

/// A crate that is linked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, as it says itself; empty when it says nothing.
    pub licence: String,
    /// Its licences' and notices' files: name below its directory, text.
    pub texts: Vec<(String, String)>,
    /// Whether it brings a library of another language.
    pub native: bool,
}

/// Code that is no crate of its own, by the crate that brings it.
struct Native {
    of: &'static str,
    name: &'static str,
    licence: &'static str,
    /// Files below the crate's directory.
    texts: &'static [&'static str],
}

const NATIVE: [Native; 3] = [
    Native {
        of: "aws-lc-sys",
        name: "AWS-LC, with parts of BoringSSL and OpenSSL, fiat-crypto and s2n-bignum (C, assembly)",
        licence: "ISC AND (Apache-2.0 OR ISC) AND Apache-2.0 AND MIT AND BSD-3-Clause",
        texts: &["aws-lc/LICENSE", "aws-lc/third_party/fiat/LICENSE"],
    },
    Native {
        of: "libsqlite3-sys",
        name: "SQLite (C), dedicated to the public domain by its authors: https://sqlite.org/copyright.html",
        licence: "",
        texts: &[],
    },
    Native {
        of: "zstd-sys",
        name: "Zstandard (C), of its two licences under this one",
        licence: "BSD-3-Clause",
        texts: &["zstd/LICENSE"],
    },
];

/// Crates that say that they bring a library of their own, and only bind another crate's.
const BINDS: [&str; 1] = ["aws-lc-rs"];

/// What is linked into the program of the workspace's package `package`, by name and version; an error names each
/// crate that is not to be in a package, and why.
pub fn linked(workspace: &Path, package: &str, machine: &str) -> io::Result<Vec<Linked>> {
    let triple = format!("{machine}-unknown-linux-gnu");
    let tree = cargo(
        workspace,
        &["tree", "--edges", "normal,no-proc-macro", "--prefix", "none", "--no-dedupe", "--format", "{p}"],
        &["--target", &triple, "--package", package],
    )?;
    let wanted: BTreeSet<(&str, &str)> = tree.lines().filter_map(named).collect();
    let said = cargo(workspace, &["metadata", "--format-version", "1"], &["--filter-platform", &triple])?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    let mut found = Vec::new();
    for one in said["packages"].as_array().into_iter().flatten() {
        let text = |key: &str| one[key].as_str().unwrap_or_default();
        // Our own have no source.
        if one["source"].is_null() || !wanted.contains(&(text("name"), text("version"))) {
            continue;
        }
        let dir = Path::new(text("manifest_path")).parent().unwrap_or(Path::new(""));
        found.push(Linked {
            name: text("name").to_owned(),
            version: text("version").to_owned(),
            licence: text("license").to_owned(),
            texts: texts(dir, text("name"), text("license_file"))?,
            native: one["links"].is_string(),
        });
    }
    found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    let refused = refused(&found, &spdx::allowed(&std::fs::read_to_string(workspace.join("deny.toml"))?)?);
    if found.is_empty() || !refused.is_empty() {
        return Err(io::Error::other(format!(
            "not to be linked into a package of {package}:\n  {}",
            refused.join("\n  ")
        )));
    }
    Ok(found)
}

/// Name and version of a line of `cargo tree`.
fn named(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split(' ');
    Some((words.next()?, words.next()?.strip_prefix('v')?))
}

fn cargo(workspace: &Path, words: &[&str], more: &[&str]) -> io::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let said = Command::new(cargo).current_dir(workspace).args(words).arg("--locked").args(more).output()?;
    if said.status.success() {
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    } else {
        let why = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        Err(io::Error::other(format!("cargo {}: {why}", words.first().unwrap_or(&""))))
    }
}

/// Licences and notices at the top of a crate, the file that its manifest names, and those of code that it brings.
fn texts(dir: &Path, name: &str, named: &str) -> io::Result<Vec<(String, String)>> {
    const BEGINNINGS: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let upper = name.to_uppercase();
        if BEGINNINGS.iter().any(|beginning| upper.starts_with(beginning)) && entry.file_type()?.is_file() {
            names.insert(name);
        }
    }
    if !named.is_empty() {
        names.insert(named.to_owned());
    }
    let native = NATIVE.iter().filter(|native| native.of == name).flat_map(|native| native.texts);
    names.extend(native.map(|&text| text.to_owned()));
    let read = |name: String| {
        let path = dir.join(&name);
        let bytes = std::fs::read(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Ok((name, page::plain(&String::from_utf8_lossy(&bytes))))
    };
    names.into_iter().map(read).collect()
}

/// Why each of them that is not to be in a package is not.
fn refused(found: &[Linked], allowed: &BTreeSet<String>) -> Vec<String> {
    let why = |one: &Linked| {
        let known = NATIVE.iter().any(|native| native.of == one.name) || BINDS.contains(&one.name.as_str());
        let why = if one.licence.is_empty() {
            "says no licence".to_owned()
        } else if let Err(why) = spdx::within(&one.licence, allowed) {
            why
        } else if one.texts.iter().all(|(_, text)| text.is_empty()) {
            format!("is {}, and has no file with its text", one.licence)
        } else if one.native && !known {
            "brings a library of another language whose licence nobody looked at (packaging/src/dist/licence)"
                .to_owned()
        } else {
            return None;
        };
        Some(format!("{} {}: {why}", one.name, one.version))
    };
    found.iter().filter_map(why).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, licence: &str) -> Linked {
        let texts = vec![("LICENSE".to_owned(), "You may.\n".to_owned())];
        Linked { name: name.into(), version: "1.0.0".into(), licence: licence.into(), texts, native: false }
    }

    #[test]
    fn what_is_not_to_be_in_a_package_is_named() {
        let allowed = BTreeSet::from(["MIT".to_owned()]);
        let good = [one("a", "MIT OR GPL-3.0-only"), Linked { native: true, ..one("zstd-sys", "MIT") }];
        assert_eq!(refused(&good, &allowed), Vec::<String>::new());
        let bad = [
            one("b", "GPL-3.0-only"),
            one("c", ""),
            Linked { texts: Vec::new(), ..one("d", "MIT") },
            Linked { native: true, ..one("e-sys", "MIT") },
        ];
        let said = refused(&bad, &allowed);
        for (line, begin) in said.iter().zip([
            "b 1.0.0: GPL-3.0-only",
            "c 1.0.0: says no",
            "d 1.0.0: is MIT, and has",
            "e-sys 1.0.0: brings",
        ]) {
            assert!(line.starts_with(begin), "{line}");
        }
        assert_eq!(said.len(), 4);
    }

    #[test]
    fn a_line_of_cargo_tree() {
        assert_eq!(named("serde v1.0.1"), Some(("serde", "1.0.1")));
        assert_eq!(named("shared v0.1.0 (/somewhere)"), Some(("shared", "0.1.0")));
        assert_eq!(named(""), None);
    }
}
