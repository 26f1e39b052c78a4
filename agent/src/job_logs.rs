//! Edge: what a job wrote into its own `logs/`: for `maand-agent logs`, and for its controller. Walked
//! without following links, as a container may own the directory; only the end of a file is read.
#![expect(clippy::disallowed_methods, reason = "edge: waits for lines")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Dir, Mode, OFlags, openat};
use shared::text::clean;

use crate::apply::tree::Tree;

/// How often files are looked at while they are followed.
const LOOK: Duration = Duration::from_millis(300);
/// Most bytes from the end of a file in which its last lines are looked for, and taken in at once.
const CHUNK: u64 = 256 << 10;
/// Most files that are shown: those that were written to last.
const FILES: usize = 32;
/// Most names of a directory that are looked at.
const NAMES: usize = 10_000;

/// Shows the last `tail` lines of each file of a job's `logs/`, and with `follow` what is written from there
/// on, until `most` bytes were shown.
pub fn show(job: &Path, tail: usize, follow: bool, most: u64, to: &mut dyn Write) -> io::Result<()> {
    let mut shown = Shown { to, left: most, last: None, many: false };
    let mut read: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut begun = false;
    loop {
        let files = files(job)?;
        shown.many |= files.len() > 1;
        for (name, mut file) in files {
            let meta = file.metadata()?;
            let key = (meta.dev(), meta.ino());
            let from = match read.get(&key) {
                // Cut short meanwhile, as some rotate their logs.
                Some(at) if *at > meta.len() => 0,
                Some(at) => *at,
                None if begun => 0,
                None => meta.len().saturating_sub(CHUNK),
            };
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(CHUNK).read_to_end(&mut bytes)?;
            let mut end = bytes.len();
            if follow && let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
                // The rest of the line comes when it is whole.
                end = at + 1;
            } else if follow && (bytes.len() as u64) < CHUNK {
                end = 0;
            }
            let text = String::from_utf8_lossy(&bytes[..end]);
            let mut lines: Vec<&str> = text.lines().collect();
            if !begun {
                // The first one may be the end of a longer one.
                let cut = usize::from(from > 0 && lines.len() > 1);
                lines.drain(..lines.len().saturating_sub(tail).max(cut));
            }
            read.insert(key, from + end as u64);
            if !shown.lines(&name, &lines)? {
                return Ok(());
            }
        }
        begun = true;
        shown.to.flush()?;
        if !follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// Where lines go.
struct Shown<'a> {
    to: &'a mut dyn Write,
    left: u64,
    /// The file whose lines came last.
    last: Option<String>,
    many: bool,
}

impl Shown<'_> {
    /// Shows lines of one file; whether there may be more.
    fn lines(&mut self, name: &str, lines: &[&str]) -> io::Result<bool> {
        if lines.is_empty() {
            return Ok(true);
        }
        if self.many && self.last.as_deref() != Some(name) {
            writeln!(self.to, "==> {} <==", clean(name))?;
            self.last = Some(name.to_owned());
        }
        for line in lines {
            let line = clean(line);
            let length = line.len() as u64 + 1;
            if length > self.left {
                writeln!(self.to, "(that is as much as is shown at once: ask again)")?;
                return Ok(false);
            }
            self.left -= length;
            writeln!(self.to, "{line}")?;
        }
        Ok(true)
    }
}

/// The files directly in `logs/`, by name; of very many those that were written to last.
fn files(job: &Path) -> io::Result<Vec<(String, File)>> {
    let none = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let dir = match Tree::open(job, false).and_then(|tree| tree.dir("logs")) {
        Err(error) if none(&error) => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut found = Vec::new();
    for entry in Dir::read_from(&dir)?.take(NAMES) {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        // Not to be held up by a pipe.
        let how = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let Ok(file) = openat(&dir, name, how, Mode::empty()) else { continue };
        let file = File::from(file);
        let meta = file.metadata()?;
        if meta.is_file() {
            found.push((meta.mtime(), name.to_owned(), file));
            if found.len() > FILES {
                found.sort_by_key(|(written, ..)| std::cmp::Reverse(*written));
                found.truncate(FILES);
            }
        }
    }
    let mut files: Vec<(String, File)> = found.into_iter().map(|(_, name, file)| (name, file)).collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(job: &Path, tail: usize, most: u64) -> String {
        let mut text = Vec::new();
        show(job, tail, false, most, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_ends_of_its_files_and_nothing_that_a_link_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(shown(dir.path(), 5, 1000), "", "a job that logs nothing");
        let logs = dir.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        std::fs::write(logs.join("a.log"), "one\ntwo\nthree\x1b[2J\n").unwrap();
        assert_eq!(shown(dir.path(), 2, 1000), "two\nthree\\u{1b}[2J\n");
        std::fs::write(dir.path().join("secret"), "secret\n").unwrap();
        std::os::unix::fs::symlink("../secret", logs.join("b.log")).unwrap();
        std::fs::create_dir(logs.join("old")).unwrap();
        std::fs::write(logs.join("c.log"), format!("{}\nlast", "x".repeat(300_000))).unwrap();
        assert_eq!(shown(dir.path(), 1, 1000), "==> a.log <==\nthree\\u{1b}[2J\n==> c.log <==\nlast\n");
        assert!(shown(dir.path(), 9, 8).ends_with("one\ntwo\n(that is as much as is shown at once: ask again)\n"));
    }

    #[test]
    fn a_logs_directory_that_is_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("logs")).unwrap();
        assert!(show(dir.path(), 5, false, 1000, &mut Vec::new()).is_err());
    }
}
