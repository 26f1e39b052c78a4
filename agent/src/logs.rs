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
use shared::api::v1::logs::{LogBatch, LogChunk, Source, Stream};
use tokio::runtime::Handle;

use crate::client::Client;
use crate::run::Spec;
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
        let spec: Spec = serde_json::from_slice(&std::fs::read(dir.join("spec.json")).ok()?).ok()?;
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
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(take).read_to_end(&mut bytes)?;
        // Only whole lines, unless there is no more, or a line longer than a chunk.
        if let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
            bytes.truncate(end + 1);
        } else if !ended && (bytes.len() as u64) < CHUNK {
            return Ok(None);
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        Ok(Some(LogChunk {
            source: self.source.clone(),
            run_id: self.run_id,
            stream,
            offset,
            bytes: BASE64.encode(&bytes),
            omitted,
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
