//! What the two processes say to each other: frames of a header in JSON and bytes behind it, each of bounded length.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::{Diagnostic, JobName, RelPath};

use crate::render::Scope;

/// Longest header and longest rest of a frame, bytes: a rendered file is the longest.
const CAP: u32 = 16 << 20;

/// To the process that renders.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Down {
    /// The templates of `job` follow, so many of them, and take the place of those before.
    Compile { job: JobName, sources: usize },
    /// One; behind it is its text.
    Source { path: RelPath, mode: u32 },
    /// A value that templates will most likely ask for, as they did for another allocation; behind it is its text.
    Ahead { namespace: String, key: String, secret: bool },
    /// They are to be rendered for this.
    Render { scope: Box<Scope> },
    /// The keys that were asked for.
    Names { names: Vec<String> },
    /// The value that was asked for; behind it is its text.
    Value { secret: bool },
    /// There is none.
    Missing,
    /// What was asked for cannot be read.
    Unreadable { why: String },
}

/// From it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Up {
    /// It is about to look at the template of this number. That a rendering begins with the first one goes without saying.
    Begun { source: usize },
    /// All are compiled; these use the version that was promoted.
    Compiled { volatile: Vec<RelPath> },
    /// Some are wrong.
    Refused { problems: Vec<Diagnostic> },
    /// It asks which keys there are.
    Names { namespace: String },
    /// It asks for a value.
    Get { namespace: String, key: String },
    /// A rendered file; behind it is its content.
    File { path: RelPath, mode: u32, private: bool },
    /// That were all; whether a key was read by its older name.
    Rendered { older: bool },
    /// They could not be rendered; see [`crate::render::Unrendered`].
    Unrendered { problems: Vec<Diagnostic>, missing: Option<BTreeSet<String>> },
}

/// Writes one frame, and hands on all that was written.
pub(super) fn send(to: &mut impl Write, message: &impl Serialize, rest: &[u8]) -> io::Result<()> {
    write(to, message, rest)?;
    to.flush()
}

/// Writes one frame: it goes with the next one that is sent.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize, rest: &[u8]) -> io::Result<()> {
    let head = serde_json::to_vec(message).map_err(io::Error::other)?;
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).ok().filter(|len| *len <= CAP).ok_or_else(too_long);
    to.write_all(&len(&head)?.to_le_bytes())?;
    to.write_all(&len(rest)?.to_le_bytes())?;
    to.write_all(&head)?;
    to.write_all(rest)
}

/// Reads one; `None` if the other side has ended.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut first = [0];
    loop {
        match from.read(&mut first) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut lens = [first[0], 0, 0, 0, 0, 0, 0, 0];
    from.read_exact(&mut lens[1..])?;
    let [a, b, c, d, e, f, g, h] = lens;
    let head = bytes(from, u32::from_le_bytes([a, b, c, d]))?;
    let rest = bytes(from, u32::from_le_bytes([e, f, g, h]))?;
    Ok(Some((serde_json::from_slice(&head).map_err(io::Error::from)?, rest)))
}

/// Takes memory as they come, not as they are announced.
fn bytes(from: &mut impl Read, len: u32) -> io::Result<Vec<u8>> {
    if len > CAP {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    from.take(u64::from(len)).read_to_end(&mut bytes)?;
    if bytes.len() == len as usize { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message between the processes is longer than 16 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<u8> {
        let mut bytes = Vec::new();
        send(&mut bytes, &Up::Begun { source: 7 }, b"").unwrap();
        send(&mut bytes, &Up::File { path: "a".parse().unwrap(), mode: 0o644, private: true }, b"content").unwrap();
        bytes
    }

    #[test]
    fn what_was_sent_is_received() {
        let bytes = frames();
        let mut from = &bytes[..];
        let (begun, rest) = receive::<Up>(&mut from).unwrap().unwrap();
        assert!(matches!(begun, Up::Begun { source: 7 }) && rest.is_empty());
        let (file, rest) = receive::<Up>(&mut from).unwrap().unwrap();
        assert!(matches!(file, Up::File { mode: 0o644, private: true, .. }));
        assert_eq!(rest, b"content");
        assert!(receive::<Up>(&mut from).unwrap().is_none(), "that was all");
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_an_error_that_takes_no_memory() {
        let bytes = frames();
        let ends = [0, bytes.len() - (8 + br#"{"File":{"path":"a","mode":420,"private":true}}"#.len() + 7)];
        for len in (0..bytes.len()).filter(|len| !ends.contains(len)) {
            let mut from = &bytes[..len];
            let read = std::iter::from_fn(|| receive::<Up>(&mut from).transpose());
            assert!(read.last().unwrap().is_err(), "{len} bytes");
        }
        let mut huge = &[0xff; 64][..];
        assert_eq!(receive::<Up>(&mut huge).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(send(&mut io::sink(), &Down::Missing, &vec![0; CAP as usize + 1]).is_err());
    }
}
