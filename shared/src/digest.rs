//! sha256 digests, a type for each thing that has one, so that a blob's cannot be asked for as a bundle.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a digest (\"sha256:\" and 64 lower-case hexadecimal digits)")]
pub struct DigestError {
    /// What was given, cut.
    pub text: String,
}

macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps 32 bytes that are a sha256.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Hashes `content`.
            pub fn of(content: &[u8]) -> Self {
                Self(Sha256::digest(content).into())
            }

            /// 64 hexadecimal digits, without the `sha256:` prefix: for file names.
            pub fn hex(&self) -> String {
                HEXLOWER.encode(&self.0)
            }

            /// The first 12 hexadecimal digits: for people.
            pub fn short(&self) -> String {
                HEXLOWER.encode(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sha256:{}", self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                let no = || DigestError { text: text.chars().take(80).collect() };
                let hex = text.strip_prefix("sha256:").unwrap_or(text);
                let bytes = HEXLOWER.decode(hex.as_bytes()).map_err(|_| no())?;
                bytes.try_into().map(Self).map_err(|_| no())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

digest_type!(
    /// Address of a blob: sha256 of one file's content.
    BlobDigest
);
digest_type!(
    /// Address of a bundle: sha256 of its canonical list; the `current_hash` that operators see.
    BundleDigest
);
digest_type!(
    /// Address of a pack: sha256 of the sorted want-list that it answers.
    PackDigest
);

/// Hashes what is read through it.
#[derive(Debug)]
pub struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    len: u64,
}

impl<R> HashingReader<R> {
    /// Starts with nothing read.
    pub fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), len: 0 }
    }

    /// Digest and length of everything read so far.
    pub fn finish(self) -> (BlobDigest, u64) {
        (BlobDigest(self.hash.finalize().into()), self.len)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.len += count as u64;
        Ok(count)
    }
}

/// Hashes what is written through it.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hash: Sha256,
    len: u64,
}

impl<W> HashingWriter<W> {
    /// Starts with nothing written.
    pub fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), len: 0 }
    }

    /// The writer, with digest and length of everything written.
    pub fn finish(self) -> (W, BlobDigest, u64) {
        (self.inner, BlobDigest(self.hash.finalize().into()), self.len)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hash.update(&buffer[..count]);
        self.len += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn text_form_round_trips_and_rejects_everything_else() {
        let digest = BlobDigest::of(b"abc");
        assert_eq!(digest.to_string(), format!("sha256:{ABC}"));
        assert_eq!(digest.to_string().parse::<BlobDigest>().unwrap(), digest);
        assert_eq!(serde_json::from_str::<BlobDigest>(&format!("\"sha256:{ABC}\"")).unwrap(), digest);
        for bad in ["", "sha256:", &ABC[1..], &ABC.to_uppercase(), "md5:900150983cd24fb0d6963f7d28e17f72"] {
            assert!(bad.parse::<BlobDigest>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn streams_hash_like_the_whole() {
        let mut reader = HashingReader::new(&b"abc"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.finish(), (BlobDigest::of(b"abc"), 3));
        let mut writer = HashingWriter::new(Vec::new());
        writer.write_all(b"ab").unwrap();
        writer.write_all(b"c").unwrap();
        assert_eq!(writer.finish(), (b"abc".to_vec(), BlobDigest::of(b"abc"), 3));
    }
}
