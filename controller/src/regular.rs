//! Edge: opens what people have written, without waiting for what is no file: opening a pipe waits for somebody to write
//! into it, and reading a device may never end.
#![expect(clippy::disallowed_types, reason = "edge: opens files")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a regular file, or a link to one.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
}

/// The text in it, of at most `cap` bytes.
pub fn text(path: &Path, cap: u64) -> io::Result<String> {
    let file = open(path)?;
    let too_long = || io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {} KiB", cap >> 10));
    if file.metadata()?.len() > cap {
        return Err(too_long());
    }
    let mut text = String::new();
    // It may be growing.
    file.take(cap.saturating_add(1)).read_to_string(&mut text)?;
    if text.len() as u64 > cap { Err(too_long()) } else { Ok(text) }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "test files")]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_of_bounded_length_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "ä".repeat(8)).unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        assert_eq!(text(&at("file"), 16).unwrap(), "ä".repeat(8));
        assert_eq!(text(&at("link"), 16).unwrap(), "ä".repeat(8));
        for cap in [15, 14] {
            assert_eq!(text(&at("file"), cap).unwrap_err().kind(), io::ErrorKind::FileTooLarge, "{cap}");
        }
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
        for path in [at("pipe"), dir.path().to_owned(), "/dev/zero".into()] {
            assert_eq!(text(&path, 16).unwrap_err().to_string(), "it is no regular file", "{}", path.display());
        }
        assert_eq!(text(&at("none"), 16).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(at("bytes"), [0xff; 4]).unwrap();
        assert_eq!(text(&at("bytes"), 16).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
