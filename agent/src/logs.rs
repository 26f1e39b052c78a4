//! Edge: sends a run's output to the controller, in chunks that end at line ends, the middle of very
//! long output left out.
#![expect(clippy::disallowed_methods, reason = "edge: the output's files")]
#![expect(clippy::disallowed_types, reason = "edge: trims the output's files")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use shared::RunId;
use shared::api::v1::logs::{LogBatch, LogChunk, MAX_AROUND, Source, Stream};
use tokio::runtime::Handle;

use crate::client::Client;
use crate::run::{self, Spec};
use crate::state::durable;

/// Bytes of a chunk.
const CHUNK: u64 = 64 << 10;
/// Bytes from the beginning of a stream that are sent as they come.
const HEAD: u64 = 1 << 20;
/// Bytes from its end that are sent when it is over.
const TAIL: u64 = 1 << 20;

/// The output of one run, and how far it was sent.
#[derive(Debug)]
pub struct Shipping {
    dir: PathBuf,
    source: Source,
    run_id: RunId,
    sent: Sent,
}

/// How far a run's output was sent; `sent` of its directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    /// Bytes of standard output and standard error, what was left out included.
    bytes: [u64; 2],
    /// All there is, after the run ended.
    whole: bool,
}

impl Shipping {
    /// Nothing sent yet.
    pub fn new(dir: &Path, spec: &Spec) -> Self {
        Self { dir: dir.to_owned(), source: spec.source.clone(), run_id: spec.run_id, sent: Sent::default() }
    }

    /// What is left to send of an earlier run; `None` when that is nothing.
    pub fn resume(dir: &Path) -> Option<Self> {
        let spec: Spec = serde_json::from_slice(&std::fs::read(dir.join(run::SPEC)).ok()?).ok()?;
        let sent = std::fs::read(dir.join("sent")).ok();
        let sent: Sent = sent.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        (!sent.whole).then(|| Self { sent, ..Self::new(dir, &spec) })
    }

    /// Sends what is there; with `ended` also what is no whole line, and the end of what is too long.
    /// An error leaves it for the next time.
    pub fn send(&mut self, net: &Handle, client: &Client, ended: bool) -> Result<(), crate::client::Failed> {
        for (at, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            while let Some(chunk) = self.chunk(at, stream, ended).map_err(crate::client::Failed::Store)? {
                let end = chunk.offset + decoded_len(&chunk);
                net.block_on(client.logs(&LogBatch { chunks: vec![chunk] }))?;
                self.sent.bytes[at] = end;
                self.remember();
            }
        }
        if ended && !self.sent.whole {
            self.sent.whole = true;
            self.remember();
        }
        Ok(())
    }

    /// Not flushed: what is sent twice, the controller writes once.
    fn remember(&self) {
        let written = serde_json::to_vec(&self.sent).map_err(io::Error::other);
        if let Err(error) = written.and_then(|json| durable::write_soon(&self.dir.join("sent"), &json, 0o600)) {
            tracing::warn!(%error, run = %self.dir.display(), "sent_not_recorded");
        }
    }

    fn chunk(&self, at: usize, stream: Stream, ended: bool) -> io::Result<Option<LogChunk>> {
        let mut file = match File::open(self.dir.join(["out", "err"][at])) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = file.metadata()?.len();
        let Some((offset, omitted, take)) = window(self.sent.bytes[at], len, ended) else { return Ok(None) };
        let around = MAX_AROUND as u64;
        let before = offset.min(around);
        file.seek(SeekFrom::Start(offset - before))?;
        let mut read = Vec::new();
        file.take(before + take + around).read_to_end(&mut read)?;
        let Some((before, bytes, after)) = cut(&read, before as usize, take as usize, ended) else { return Ok(None) };
        Ok(Some(LogChunk {
            source: self.source.clone(),
            run_id: self.run_id,
            stream,
            offset,
            bytes: BASE64.encode(bytes),
            omitted,
            before: BASE64.encode(before),
            after: BASE64.encode(after),
        }))
    }
}

/// Bytes of both streams of an ended run that are never sent.
pub fn omitted(dir: &Path) -> u64 {
    let over = |name: &str| std::fs::metadata(dir.join(name)).map_or(0, |file| file.len().saturating_sub(HEAD + TAIL));
    over("out") + over("err")
}

/// Gives back the disk that very long output takes, once all that is ever sent of it has been.
pub fn trim(dir: &Path) {
    let sent = std::fs::read(dir.join("sent")).ok();
    let sent: Sent = sent.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    for name in ["out", "err"].into_iter().filter(|_| sent.whole) {
        let path = dir.join(name);
        let long = std::fs::metadata(&path).is_ok_and(|file| file.len() > HEAD + TAIL);
        let trimmed =
            if long { OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(HEAD)) } else { Ok(()) };
        if let Err(error) = trimmed {
            tracing::warn!(%error, path = %path.display(), "output_not_trimmed");
        }
    }
}

fn decoded_len(chunk: &LogChunk) -> u64 {
    BASE64.decode(chunk.bytes.as_bytes()).map_or(0, |bytes| bytes.len() as u64)
}

/// A chunk of at most `take` bytes of what was `read`, of which the first `begin` were sent before, with what is
/// before and behind it in the lines that it cuts. Only whole lines, unless there is no more, or a line is longer
/// than a chunk.
fn cut(read: &[u8], begin: usize, take: usize, ended: bool) -> Option<(&[u8], &[u8], &[u8])> {
    let (before, rest) = read.split_at_checked(begin)?;
    let most = rest.len().min(take);
    let is_end = |byte: &u8| *byte == b'\n';
    let (bytes, after) = match rest.get(..most)?.iter().rposition(is_end) {
        Some(end) => (rest.get(..=end)?, &rest[..0]),
        // A line that goes on: it is cut when enough of it is there to see what is cut in two.
        None if !ended && rest.len() < take + MAX_AROUND && !rest.iter().any(is_end) => return None,
        None => rest.split_at_checked(most)?,
    };
    let of_line = |bytes: &[u8]| bytes.iter().position(is_end).unwrap_or(bytes.len());
    let line = before.iter().rposition(is_end).map_or(0, |end| end + 1);
    let after = after.get(..of_line(after))?;
    (!bytes.is_empty()).then_some((before.get(line..)?, bytes, after))
}

/// What to send next of a stream of `len` bytes of which `sent` are done: offset, bytes left out
/// before it, how many at most.
fn window(sent: u64, len: u64, ended: bool) -> Option<(u64, u64, u64)> {
    if sent < HEAD {
        return (sent < len).then(|| (sent, 0, CHUNK.min(HEAD - sent)));
    }
    // Beyond the head only the end is sent, and where that is, is known when there is no more.
    let offset = if ended { sent.max(len.saturating_sub(TAIL)) } else { return None };
    (offset < len).then_some((offset, offset - sent, CHUNK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_gives_its_disk_back_once_it_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let length = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        std::fs::write(dir.path().join("err"), "short").unwrap();
        File::create(dir.path().join("out")).unwrap().set_len(1 << 30).unwrap();
        trim(dir.path());
        assert_eq!(length("out"), 1 << 30, "not sent yet");
        let sent = serde_json::to_vec(&Sent { bytes: [1 << 30, 5], whole: true }).unwrap();
        std::fs::write(dir.path().join("sent"), sent).unwrap();
        assert_eq!(omitted(dir.path()), (1 << 30) - HEAD - TAIL);
        trim(dir.path());
        assert_eq!((length("out"), length("err")), (HEAD, 5));
    }

    #[test]
    fn a_line_that_is_cut_comes_with_what_is_around() {
        let text = |(before, bytes, after): (&[u8], &[u8], &[u8])| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(before), text(bytes), text(after))
        };
        let cut = |read: &str, begin, take, ended| cut(read.as_bytes(), begin, take, ended).map(text);
        let some = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(cut("one\ntwo\nthr", 0, 99, false), some("", "one\ntwo\n", ""), "whole lines");
        assert_eq!(cut("one\ntwo\nthr", 8, 99, false), None, "the line is not over");
        assert_eq!(cut("one\ntwo\nthr", 8, 99, true), some("", "thr", ""));
        assert_eq!(cut("one\ntwo\n", 5, 99, false), some("t", "wo\n", ""), "from within a line");
        assert_eq!(cut("one-two-three\nx", 3, 4, true), some("one", "-two", "-three"));
        let long = "x".repeat(MAX_AROUND + 4);
        assert_eq!(cut(&long, 0, 5, false), None, "what is behind is waited for");
        assert_eq!(cut(&long, 0, 4, false), some("", "xxxx", &long[4..]));
        assert_eq!(cut("", 0, 4, true), None);
    }

    #[test]
    fn short_output_is_sent_whole_and_long_output_without_its_middle() {
        assert_eq!(window(0, 0, true), None);
        assert_eq!(window(0, 10, false), Some((0, 0, CHUNK)));
        assert_eq!(window(10, 10, true), None);
        let long = 1 << 30;
        assert_eq!(window(HEAD, long, false), None, "the end is not known yet");
        assert_eq!(window(HEAD, long, true), Some((long - TAIL, long - TAIL - HEAD, CHUNK)));
        assert_eq!(window(long - TAIL + CHUNK, long, true), Some((long - TAIL + CHUNK, 0, CHUNK)));
        assert_eq!(window(HEAD - 1, long, true), Some((HEAD - 1, 0, 1)));
    }
}
