//! `maand logs show --follow`: what is appended, also across a log that is set aside meanwhile.
#![expect(clippy::disallowed_methods, reason = "edge: waits for lines, reads the bucket's logs")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::show::{Form, Lengths, files};
use crate::cli::Context;
use crate::telemetry::record::{Record, Wanted};

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Most bytes of a file that are taken at once; the rest comes with the next look.
const CHUNK: u64 = 1 << 20;
/// Longest line that is waited for to end, bytes: what is longer is none of ours.
const LONGEST: usize = 256 << 10;

/// Reads on where logs end.
#[derive(Debug)]
pub(super) struct Follower {
    dir: PathBuf,
    wanted: Wanted,
    open: BTreeMap<PathBuf, Followed>,
}

#[derive(Debug)]
struct Followed {
    file: File,
    /// What has come of a line that has not ended.
    part: Vec<u8>,
}

impl Follower {
    /// From what the logs in `dir` have by now.
    pub fn at_the_end(dir: &Path, wanted: &Wanted) -> std::io::Result<Self> {
        let mut follower = Self { dir: dir.to_owned(), wanted: wanted.clone(), open: BTreeMap::new() };
        for path in files(dir, wanted)? {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::End(0))?;
            follower.open.insert(path, Followed { file, part: Vec::new() });
        }
        Ok(follower)
    }

    /// How long each of them is by now.
    pub fn now(&self) -> std::io::Result<Lengths> {
        let length = |followed: &Followed| {
            let meta = followed.file.metadata()?;
            Ok(((meta.dev(), meta.ino()), (&followed.file).stream_position()?))
        };
        self.open.values().map(length).collect()
    }

    /// Prints lines as they come. Ctrl-C ends it, and a reader that goes away.
    pub fn run(mut self, form: Form, context: &Context) -> std::io::Result<()> {
        loop {
            let mut lines = Vec::new();
            // Also what has no name any more, because it was set aside.
            for followed in self.open.values_mut() {
                followed.read(&mut lines)?;
            }
            for path in files(&self.dir, &self.wanted)? {
                self.look(&path, &mut lines)?;
            }
            let mut lines: Vec<(String, Record)> =
                lines.into_iter().filter(|(_, record)| self.wanted.passes(record)).collect();
            lines.sort_by(|a, b| a.1.text("ts").cmp(b.1.text("ts")));
            let mut gone = false;
            let written = context.ui.out_long(|to| {
                let shown = lines.iter().try_for_each(|(line, record)| writeln!(to, "{}", form.line(line, record)));
                let shown = shown.and_then(|()| to.flush());
                gone = shown.is_err();
                shown
            });
            if gone {
                return written;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What is new in `path`.
    fn look(&mut self, path: &Path, into: &mut Vec<(String, Record)>) -> std::io::Result<()> {
        let there = match File::open(path) {
            Ok(there) => there,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let meta = there.metadata()?;
        if let Some(followed) = self.open.get_mut(path) {
            let held = followed.file.metadata()?;
            if (held.dev(), held.ino()) == (meta.dev(), meta.ino()) {
                return Ok(());
            }
            // Set aside: nothing is written to it any more. First all that it has.
            while followed.read(into)? {}
        }
        let mut followed = Followed { file: there, part: Vec::new() };
        followed.read(into)?;
        self.open.insert(path.to_owned(), followed);
        Ok(())
    }
}

impl Followed {
    /// Takes in whole lines; whether anything was there.
    fn read(&mut self, into: &mut Vec<(String, Record)>) -> std::io::Result<bool> {
        let read = (&self.file).take(CHUNK).read_to_end(&mut self.part)?;
        let end = self.part.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.part.drain(..end).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            if let Some(record) = Record::parse(line) {
                into.push((line.to_owned(), record));
            }
        }
        if self.part.len() > LONGEST {
            self.part.clear();
        }
        Ok(read > 0)
    }
}
