//! A .deb: an ar of three members: the format's number, what dpkg needs to know, the tree.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use super::Release;
use super::archive::tar;
use super::doc;
use super::elf::Machine;
use super::package::Package;
use super::script;
use super::tree::{Entry, Tree};

/// Starts and stops units as Debian's administrators may have forbidden it (policy-rc.d).
const INVOKE: &str = "deb-systemd-invoke";

/// The package's bytes.
pub fn make(package: &Package, machine: Machine, release: Release<'_>) -> io::Result<Vec<u8>> {
    let mut tree = package.tree.clone();
    doc::debian(&mut tree, package, release)?;
    let mut control = Tree::default();
    control.file("control", 0o644, fields(package, machine, &tree, release));
    if !package.conffiles.is_empty() {
        let names: String = package.conffiles.iter().map(|path| format!("/{path}\n")).collect();
        control.file("conffiles", 0o644, names);
    }
    let mut sums = String::new();
    for (path, content, _) in tree.files().filter(|(path, ..)| !package.conffiles.contains(path)) {
        let _ = writeln!(sums, "{}  {path}", md5(content));
    }
    control.file("md5sums", 0o644, sums);
    for hook in script::DEBIAN {
        control.file(hook.0, 0o755, package.script.text(hook, INVOKE));
    }
    let mut ar = b"!<arch>\n".to_vec();
    member(&mut ar, "debian-binary", release.time, b"2.0\n")?;
    member(&mut ar, "control.tar.xz", release.time, &xz(&tar(&control, "./", release.time)?, release.level)?)?;
    member(&mut ar, "data.tar.xz", release.time, &xz(&tar(&tree, "./", release.time)?, release.level)?)?;
    Ok(ar)
}

fn fields(package: &Package, machine: Machine, tree: &Tree, release: Release<'_>) -> String {
    let kib: u64 = tree
        .entries()
        .map(|(_, entry)| match entry {
            Entry::File { content, .. } => (content.len() as u64).div_ceil(1024),
            Entry::Dir => 1,
        })
        .sum();
    let mut depends = package.needs.debian();
    depends.extend(package.debian.depends.iter().map(|&name| name.to_owned()));
    let mut text = format!(
        "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: {}\nInstalled-Size: {kib}\nDepends: {}\n",
        package.name,
        release.version,
        machine.debian(),
        doc::MAINTAINER,
        depends.join(", ")
    );
    if !package.debian.recommends.is_empty() {
        let _ = writeln!(text, "Recommends: {}", package.debian.recommends.join(", "));
    }
    let _ = write!(text, "Section: admin\nPriority: optional\nDescription: {}\n", package.summary);
    for line in package.description.lines() {
        let _ = writeln!(text, " {}", if line.is_empty() { "." } else { line });
    }
    text
}

fn xz(bytes: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), level);
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn member(ar: &mut Vec<u8>, name: &str, time: u64, content: &[u8]) -> io::Result<()> {
    writeln!(ar, "{name:<16}{time:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 100_644, content.len())?;
    ar.extend_from_slice(content);
    if content.len() % 2 == 1 {
        ar.push(b'\n');
    }
    Ok(())
}

/// For `dpkg --verify`, which knows no better digest.
fn md5(content: &[u8]) -> String {
    use md5::Digest as _;
    md5::Md5::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
