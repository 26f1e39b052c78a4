//! What a program needs of the machine that it runs on: read from the program itself, with binutils, which whoever
//! links one has.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::process::Command;

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit x86.
    X86,
    /// 64-bit ARM.
    Arm,
}

impl Machine {
    /// The one that a program is for.
    pub fn of(program: &[u8]) -> io::Result<Self> {
        match program {
            [0x7f, b'E', b'L', b'F', 2, 1, ..] => match program.get(18..20) {
                Some([0x3e, 0]) => Ok(Self::X86),
                Some([0xb7, 0]) => Ok(Self::Arm),
                _ => Err(io::Error::other("packages are made for x86_64 and aarch64 only")),
            },
            _ => Err(io::Error::other("not a 64-bit Linux program")),
        }
    }

    /// As in `uname -m`.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm => "aarch64",
        }
    }

    /// As Debian calls it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86 => "amd64",
            Self::Arm => "arm64",
        }
    }
}

/// The shared libraries that a program loads, each with the versions of its symbols that it uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs(BTreeMap<String, BTreeSet<String>>);

impl Needs {
    /// Of a program.
    pub fn of(program: &Path) -> io::Result<Self> {
        let said = Command::new("readelf").args(["--wide", "--dynamic", "--version-info"]).arg(program).output();
        let said = said.map_err(|error| io::Error::new(error.kind(), format!("readelf (of binutils): {error}")))?;
        if !said.status.success() {
            return Err(io::Error::other(format!("readelf cannot read {}", program.display())));
        }
        Ok(Self::parse(&String::from_utf8_lossy(&said.stdout)))
    }

    fn parse(text: &str) -> Self {
        let mut needs = BTreeMap::<String, BTreeSet<String>>::new();
        let mut file = None;
        for line in text.lines() {
            let after = |mark: &str| line.split_once(mark).map(|(_, rest)| rest);
            if let Some(name) = after("Shared library: [") {
                needs.entry(name.trim_end().trim_end_matches(']').to_owned()).or_default();
            } else if let Some(rest) = after("  File: ") {
                file = rest.split_whitespace().next().map(str::to_owned);
            } else if let (Some(rest), Some(file)) = (after("  Name: "), &file)
                && let Some(version) = rest.split_whitespace().next()
            {
                needs.entry(file.clone()).or_default().insert(version.to_owned());
            }
        }
        Self(needs)
    }

    /// Debian's packages: the oldest glibc that has every symbol, and gcc's run time.
    pub fn debian(&self) -> Vec<String> {
        let mut packages = Vec::new();
        if let Some(version) = self.glibc() {
            packages.push(format!("libc6 (>= {version})"));
        }
        if self.0.contains_key("libgcc_s.so.1") {
            packages.push("libgcc-s1".to_owned());
        }
        packages
    }

    /// The newest version of glibc that a symbol is of.
    fn glibc(&self) -> Option<String> {
        let numbers = |text: &str| text.split('.').map(|part| part.parse::<u32>().ok()).collect::<Option<Vec<_>>>();
        let versions = self.0.values().flatten().filter_map(|name| name.strip_prefix("GLIBC_")).filter_map(numbers);
        versions.max().map(|version| version.iter().map(u32::to_string).collect::<Vec<_>>().join("."))
    }

    /// What rpm calls the same: each library, and each version of it.
    pub fn rpm(&self) -> Vec<String> {
        let of = |(file, versions): (&String, &BTreeSet<String>)| {
            let mut all = vec![format!("{file}()(64bit)")];
            all.extend(versions.iter().map(|version| format!("{file}({version})(64bit)")));
            all
        };
        // The loader is no package's library.
        self.0.iter().filter(|(file, _)| !file.starts_with("ld-linux")).flat_map(of).collect()
    }
}

/// A program without the symbols that only a debugger needs: smaller by a third.
pub fn stripped(program: &Path) -> io::Result<Vec<u8>> {
    // A file of its own for each call: two at once, in one process as well, would write into each other's.
    let place = tempfile::NamedTempFile::new()?;
    let run = Command::new("strip")
        .args(["--strip-all", "--remove-section=.comment", "--remove-section=.note", "-o"])
        .arg(place.path())
        .arg(program)
        .status();
    match run {
        Ok(status) if status.success() => std::fs::read(place.path()),
        Ok(_) => Err(io::Error::other(format!("strip refused {}", program.display()))),
        Err(error) => Err(io::Error::new(error.kind(), format!("strip (of binutils): {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_at_once_do_not_get_in_each_others_way() {
        let program = std::env::current_exe().unwrap();
        let strip = || stripped(&program).unwrap();
        let all: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..4).map(|_| scope.spawn(strip)).collect();
            running.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| *one == all[0] && one.starts_with(b"\x7fELF")), "one is not like the others");
    }

    #[test]
    fn what_readelf_says_becomes_dependencies() {
        let text = "\
 0x0000000000000001 (NEEDED)             Shared library: [libgcc_s.so.1]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
  000000: Version: 1  File: libc.so.6  Cnt: 2
  0x0010:   Name: GLIBC_2.9  Flags: none  Version: 12
  0x0020:   Name: GLIBC_2.34  Flags: none  Version: 11
  0x0030: Version: 1  File: libgcc_s.so.1  Cnt: 1
  0x0040:   Name: GCC_3.0  Flags: none  Version: 4
";
        let needs = Needs::parse(text);
        assert_eq!(needs.debian(), ["libc6 (>= 2.34)", "libgcc-s1"]);
        assert_eq!(
            needs.rpm(),
            [
                "libc.so.6()(64bit)",
                "libc.so.6(GLIBC_2.34)(64bit)",
                "libc.so.6(GLIBC_2.9)(64bit)",
                "libgcc_s.so.1()(64bit)",
                "libgcc_s.so.1(GCC_3.0)(64bit)"
            ]
        );
    }
}
