//! A pack: what travels. A deterministic tar.zst of the blobs of one want-list, and a reader that
//! accepts that profile and nothing else (`design/security.md` 1.3, "Bundle reader").
//!
//! The archive: ustar, one regular file per blob, named by 64 hexadecimal digits, in ascending
//! order, mode 0600, mtime, uid and gid 0; one zstd frame.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{BlobDigest, PackDigest};

/// Compression level: above it the controller's CPU grows faster than bytes shrink.
const LEVEL: i32 = 3;
/// Largest zstd window a reader allocates: 8 MiB. Level 3 needs at most 2 MiB.
const WINDOW_LOG_MAX: u32 = 23;
/// Largest blob an ustar header can say (8 GiB less one byte).
pub const MAX_BLOB: u64 = 0o77_777_777_777;

/// Why a pack could not be written or was refused.
#[derive(Debug, Error)]
pub enum PackError {
    /// The source of a blob's bytes, or the sink of the pack.
    #[error("pack: {operation}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Why it could not be.
        source: io::Error,
    },
    /// Not the profile that [`write`] makes.
    #[error("pack is not in the accepted form: {0}")]
    Form(String),
    /// A blob that nobody asked for, or one twice, or out of order.
    #[error("pack has blob {0}, which was not asked for or is out of order")]
    Unwanted(BlobDigest),
    /// Content that is not what its name says. All others were handed on.
    #[error("{count} blobs of the pack have other content, the first of them {expected}: {actual}, {len} bytes")]
    Content {
        /// Its name.
        expected: BlobDigest,
        /// What its content hashes to.
        actual: BlobDigest,
        /// How long it is.
        len: u64,
        /// How many are wrong.
        count: usize,
    },
    /// The pack ended before all wanted blobs had come.
    #[error("pack ends with {missing} of the wanted blobs missing")]
    Incomplete {
        /// How many.
        missing: usize,
    },
}

fn io_error(operation: &'static str) -> impl FnOnce(io::Error) -> PackError {
    move |source| PackError::Io { operation, source }
}

/// The address of the pack that answers `wants` (any order, repeats allowed).
pub fn digest(wants: impl IntoIterator<Item = BlobDigest>) -> PackDigest {
    let sorted: std::collections::BTreeSet<BlobDigest> = wants.into_iter().collect();
    let mut hash = Sha256::new();
    hash.update(b"maand-pack-1\n");
    for want in sorted {
        hash.update(want.as_bytes());
    }
    PackDigest::from_bytes(hash.finalize().into())
}

/// Writes a pack of `blobs` (digest → length); `open` gives a blob's bytes. The same blobs give the
/// same bytes for as long as the compressor is the same.
///
/// # Errors
/// [`PackError::Io`] when a blob cannot be opened or read or the pack cannot be written;
/// [`PackError::Form`] when a blob is longer than [`MAX_BLOB`] or not as long as said.
pub fn write<R: Read>(
    blobs: &BTreeMap<BlobDigest, u64>,
    mut open: impl FnMut(&BlobDigest) -> io::Result<R>,
    out: impl Write,
) -> Result<(), PackError> {
    let encoder = zstd::Encoder::new(out, LEVEL).map_err(io_error("starting the compressor"))?;
    let mut tar = tar::Builder::new(encoder);
    for (digest, &len) in blobs {
        if len > MAX_BLOB {
            return Err(PackError::Form(format!("blob {digest} has {len} bytes, more than 8 GiB")));
        }
        let mut header = tar::Header::new_ustar();
        header.set_path(digest.hex()).map_err(io_error("naming a blob"))?;
        header.set_size(len);
        header.set_mode(0o600);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let source = open(digest).map_err(io_error("opening a blob"))?;
        let mut exact = Exact { inner: source.take(len), left: len };
        tar.append(&header, &mut exact).map_err(io_error("packing a blob"))?;
        if exact.left != 0 {
            return Err(PackError::Form(format!("blob {digest} is {} bytes short", exact.left)));
        }
    }
    let encoder = tar.into_inner().map_err(io_error("ending the archive"))?;
    encoder.finish().map_err(io_error("ending the compression"))?.flush().map_err(io_error("flushing"))
}

struct Exact<R> {
    inner: io::Take<R>,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Where a reader puts blobs. A blob is good only when [`Sink::commit`] is called: bytes that came
/// before may be anything.
pub trait Sink {
    /// Receives a blob's bytes.
    type Blob: Write;

    /// Begins a blob of `len` bytes.
    fn begin(&mut self, digest: &BlobDigest, len: u64) -> io::Result<Self::Blob>;

    /// The bytes were all there and hash to `digest`.
    fn commit(&mut self, digest: &BlobDigest, blob: Self::Blob) -> io::Result<()>;
}

/// Reads a pack that must hold exactly the blobs of `wants` (digest → length), no more, no fewer,
/// each once, and hands each to `sink` when its content was verified. A wrong one is left out, and the ones
/// behind it are still read: it alone has to be fetched again.
///
/// # Errors
/// Everything that is not what [`write`] makes, at the first sign of it. Memory stays bounded
/// (window of at most 8 MiB) and no more bytes are decompressed than `wants` adds up to.
pub fn read<S: Sink>(source: impl Read, wants: &BTreeMap<BlobDigest, u64>, sink: &mut S) -> Result<(), PackError> {
    let form = |text: &str| PackError::Form(text.to_owned());
    let mut decoder = zstd::Decoder::new(source).map_err(io_error("starting the decompressor"))?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(io_error("bounding the decompressor"))?;
    // Content padded to blocks, a header each, two end blocks and the tar writer's record padding.
    let body: u64 = wants.values().map(|len| len.div_ceil(512).saturating_add(1).saturating_mul(512)).sum();
    let mut left = wants.iter().peekable();
    let mut wrong = None;
    {
        let mut archive = tar::Archive::new(decoder.by_ref().take(body.saturating_add(10_240)));
        for entry in archive.entries().map_err(io_error("reading the archive"))?.raw(true) {
            let mut entry = entry.map_err(io_error("reading a header"))?;
            let header = entry.header();
            if header.as_ustar().is_none() || header.entry_type() != tar::EntryType::Regular {
                return Err(form("an entry that is no plain ustar file"));
            }
            let path = header.path_bytes().into_owned();
            let name = std::str::from_utf8(&path).map_err(|_| form("a name that is no digest"))?;
            let digest: BlobDigest = match name.len() {
                64 => name.parse().map_err(|_| form("a name that is no digest"))?,
                _ => return Err(form("a name that is no digest")),
            };
            let len = header.entry_size().map_err(io_error("reading a header"))?;
            match left.next() {
                Some((want, &want_len)) if *want == digest && want_len == len => {}
                _ => return Err(PackError::Unwanted(digest)),
            }
            let blob = sink.begin(&digest, len).map_err(io_error("opening the place of a blob"))?;
            let mut writer = crate::digest::HashingWriter::new(blob);
            io::copy(&mut entry, &mut writer).map_err(io_error("unpacking a blob"))?;
            let (blob, actual, written) = writer.finish();
            if written != len {
                return Err(form("a blob that ends before its length"));
            }
            if actual == digest {
                sink.commit(&digest, blob).map_err(io_error("storing a blob"))?;
            } else {
                let first = wrong.get_or_insert((digest, actual, len, 0));
                first.3 += 1;
            }
        }
    }
    let missing = left.count();
    if missing > 0 {
        return Err(PackError::Incomplete { missing });
    }
    // What follows the archive's end must be its zero padding, and the frame must end with it.
    let mut rest = Vec::new();
    decoder.by_ref().take(20_480).read_to_end(&mut rest).map_err(io_error("reading the end"))?;
    if rest.len() >= 20_480 || rest.iter().any(|&byte| byte != 0) {
        return Err(form("bytes behind the archive"));
    }
    let mut inner = decoder.finish();
    if inner.read(&mut [0u8; 1]).map_err(io_error("reading the end"))? != 0 {
        return Err(form("bytes behind the compressed frame"));
    }
    match wrong {
        None => Ok(()),
        Some((expected, actual, len, count)) => Err(PackError::Content { expected, actual, len, count }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Memory(BTreeMap<BlobDigest, Vec<u8>>);

    impl Sink for Memory {
        type Blob = Vec<u8>;
        fn begin(&mut self, _: &BlobDigest, _: u64) -> io::Result<Vec<u8>> {
            Ok(Vec::new())
        }
        fn commit(&mut self, digest: &BlobDigest, blob: Vec<u8>) -> io::Result<()> {
            self.0.insert(*digest, blob);
            Ok(())
        }
    }

    fn blobs(contents: &[&[u8]]) -> (BTreeMap<BlobDigest, u64>, BTreeMap<BlobDigest, Vec<u8>>) {
        let bytes: BTreeMap<_, _> = contents.iter().map(|c| (BlobDigest::of(c), c.to_vec())).collect();
        (bytes.iter().map(|(d, c)| (*d, c.len() as u64)).collect(), bytes)
    }

    fn packed(contents: &[&[u8]]) -> (BTreeMap<BlobDigest, u64>, Vec<u8>) {
        let (wants, bytes) = blobs(contents);
        let mut out = Vec::new();
        write(&wants, |d| Ok(io::Cursor::new(bytes[d].clone())), &mut out).unwrap();
        (wants, out)
    }

    fn unpacked(pack: &[u8], wants: &BTreeMap<BlobDigest, u64>) -> Result<BTreeMap<BlobDigest, Vec<u8>>, PackError> {
        let mut memory = Memory::default();
        read(pack, wants, &mut memory).map(|()| memory.0)
    }

    #[test]
    fn what_was_packed_comes_out() {
        let (wants, pack) = packed(&[b"one", b"", &[7u8; 100_000]]);
        assert_eq!(unpacked(&pack, &wants).unwrap(), blobs(&[b"one", b"", &[7u8; 100_000]]).1);
        assert_eq!(packed(&[&[7u8; 100_000], b"one", b""]).1, pack, "same blobs, same bytes");
        let (none, empty) = packed(&[]);
        assert!(unpacked(&empty, &none).unwrap().is_empty());
    }

    #[test]
    fn a_pack_for_another_list_is_refused() {
        let (wants, pack) = packed(&[b"one", b"two"]);
        let (more, _) = blobs(&[b"one", b"two", b"three"]);
        let (fewer, _) = blobs(&[b"one"]);
        assert!(unpacked(&pack, &more).is_err());
        assert!(matches!(unpacked(&pack, &fewer), Err(PackError::Unwanted(_))));
        let longer = wants.iter().map(|(d, len)| (*d, len + 1)).collect();
        assert!(matches!(unpacked(&pack, &longer), Err(PackError::Unwanted(_))));
    }

    #[test]
    fn wrong_content_is_refused_and_not_committed() {
        let (wants, bytes) = blobs(&[b"good"]);
        let mut out = Vec::new();
        write(&wants, |_| Ok(&b"evil"[..]), &mut out).unwrap();
        assert_eq!(bytes.len(), 1);
        let mut memory = Memory::default();
        assert!(matches!(read(&out[..], &wants, &mut memory), Err(PackError::Content { .. })));
        assert!(memory.0.is_empty());
    }

    #[test]
    fn a_wrong_blob_costs_that_blob() {
        let (wants, bytes) = blobs(&[b"one", b"two", b"three", b"four"]);
        let spoilt = *wants.keys().nth(1).unwrap();
        let mut out = Vec::new();
        let content = |d: &BlobDigest| if *d == spoilt { vec![b'x'; bytes[d].len()] } else { bytes[d].clone() };
        write(&wants, |d| Ok(io::Cursor::new(content(d))), &mut out).unwrap();
        let mut memory = Memory::default();
        let error = read(&out[..], &wants, &mut memory).unwrap_err();
        assert!(matches!(error, PackError::Content { expected, count: 1, .. } if expected == spoilt), "{error}");
        assert_eq!((memory.0.len(), memory.0.contains_key(&spoilt)), (3, false));
    }

    #[test]
    fn other_archives_are_refused() {
        let (wants, good) = packed(&[b"one"]);
        let name = wants.keys().next().unwrap().hex();
        let mut trailing = good.clone();
        trailing.push(0);
        assert!(unpacked(&trailing, &wants).is_err(), "a byte behind the frame");
        let twice = [good.clone(), good.clone()].concat();
        assert!(unpacked(&twice, &wants).is_err(), "two frames");
        for cut in [0, 1, good.len() / 2, good.len() - 1] {
            assert!(unpacked(&good[..cut], &wants).is_err(), "cut at {cut}");
        }
        for kind in [
            tar::EntryType::Symlink,
            tar::EntryType::Link,
            tar::EntryType::Char,
            tar::EntryType::Fifo,
            tar::EntryType::Directory,
            tar::EntryType::GNUSparse,
            tar::EntryType::XHeader,
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_path(&name).unwrap();
            header.set_size(3);
            header.set_entry_type(kind);
            header.set_cksum();
            assert!(unpacked(&archive(&header, b"one"), &wants).is_err(), "{kind:?}");
        }
        for path in ["../../etc/passwd", "/etc/passwd", &name[1..]] {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_size(3);
            header.set_cksum();
            assert!(unpacked(&archive(&header, b"one"), &wants).is_err(), "{path}");
        }
    }

    fn archive(header: &tar::Header, content: &[u8]) -> Vec<u8> {
        let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        tar.append(header, content).unwrap();
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn a_bomb_is_cut_off_at_what_was_promised() {
        let (wants, _) = blobs(&[b"one"]);
        let bomb = zstd::encode_all(io::repeat(b'a').take(64 << 20), 19).unwrap();
        assert!(bomb.len() < 10_000);
        assert!(unpacked(&bomb, &wants).is_err());
        let zeros = zstd::encode_all(io::repeat(0).take(64 << 20), 19).unwrap();
        assert!(unpacked(&zeros, &wants).is_err());
    }

    proptest! {
        #[test]
        fn any_flipped_byte_is_noticed(at in 0usize..10_000, bit in 0u8..8) {
            let (wants, mut pack) = packed(&[b"some content here", b"and some more of it"]);
            let at = at % pack.len();
            pack[at] ^= 1 << bit;
            // Either refused, or the very same content: never other bytes.
            if let Ok(got) = unpacked(&pack, &wants) {
                prop_assert_eq!(got, blobs(&[b"some content here", b"and some more of it"]).1);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let (wants, _) = blobs(&[b"one"]);
            prop_assert!(unpacked(&bytes, &wants).is_err());
        }
    }
}
