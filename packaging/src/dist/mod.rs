//! `cargo xtask dist`: `maand` and `maand-agent` as .deb, .rpm and a tar.zst of the same tree. The same programs and
//! the same commit make the same bytes: names are sorted, owners are root, every time is the commit's.

mod archive;
mod compile;
mod deb;
mod doc;
mod elf;
mod licence;
mod package;
mod rpm;
mod script;
mod task;
mod tree;

use std::io;
use std::path::{Path, PathBuf};

pub use task::{run, workspace};

/// A kind of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For dpkg.
    Deb,
    /// For rpm.
    Rpm,
    /// For everybody else.
    TarZst,
}

impl Format {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Deb, Self::Rpm, Self::TarZst];
}

/// What to make packages of.
#[derive(Debug, Clone)]
pub struct Input {
    /// The workspace.
    pub workspace: PathBuf,
    /// The program `maand`.
    pub maand: PathBuf,
    /// The program `maand-agent`.
    pub agent: PathBuf,
    /// As in `maand --version`.
    pub version: String,
    /// Every file's time, seconds since 1970 UTC.
    pub time: u64,
    /// What to make.
    pub formats: Vec<Format>,
    /// Make the smallest archives, however long that takes.
    pub small: bool,
}

/// What a format needs to know beside a package's tree.
#[derive(Debug, Clone, Copy)]
struct Release<'a> {
    version: &'a str,
    time: u64,
    level: u32,
}

/// Makes every package in `out`, which is made; the files that were written.
pub fn packages(input: &Input, out: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(out)?;
    let machine = elf::Machine::of(&std::fs::read(&input.maand)?)?;
    let release = Release { version: &input.version, time: input.time, level: if input.small { 9 } else { 0 } };
    let packages = [package::maand(input)?, package::agent(input)?];
    let mut written = Vec::new();
    let mut put = |name: String, bytes: Vec<u8>| {
        let path = out.join(name);
        written.push(path.clone());
        std::fs::write(path, bytes)
    };
    let wanted = |format| input.formats.contains(&format);
    for package in &packages {
        let (name, version) = (package.name, &input.version);
        if wanted(Format::Deb) {
            put(format!("{name}_{version}_{}.deb", machine.debian()), deb::make(package, machine, release)?)?;
        }
        if wanted(Format::Rpm) {
            put(format!("{name}-{version}-1.{}.rpm", machine.name()), rpm::make(package, machine, release)?)?;
        }
    }
    if wanted(Format::TarZst) {
        let name = format!("maand-{}-linux-{}", input.version, machine.name());
        put(format!("{name}.tar.zst"), archive::make(&packages, &name, release)?)?;
    }
    Ok(written)
}
