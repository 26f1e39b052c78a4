//! Edge: the key that seals secrets, and what is sealed with it.
#![expect(clippy::disallowed_methods, reason = "edge: reads and writes secrets/kv.key")]

mod known;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::permissions;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use thiserror::Error;
use zeroize::Zeroizing;

pub use known::Known;

/// Why something could not be sealed or opened.
#[derive(Debug, Error)]
pub enum Error {
    /// The key's file.
    #[error("cannot {operation} the sealing key {path}")]
    File {
        /// Read or write.
        operation: &'static str,
        /// Which file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Not 32 bytes.
    #[error("the sealing key {path} has {len} bytes, not 32")]
    Length {
        /// Which file.
        path: String,
        /// How many.
        len: usize,
    },
    /// The random generator or the cipher refused.
    #[error("cannot seal: the cipher refused")]
    Seal,
    /// Altered, of another key, or moved from another place.
    #[error("cannot open sealed bytes: they were altered, moved, or sealed with another key")]
    Open,
}

/// Seals with AES-256-GCM; the place of what is sealed is bound to it as associated data.
pub struct SealingKey(LessSafeKey);

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey([hidden])")
    }
}

impl SealingKey {
    /// Reads the 32 raw bytes at `path`.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map(Zeroizing::new);
        let bytes =
            bytes.map_err(|source| Error::File { operation: "read", path: path.display().to_string(), source })?;
        Self::from_bytes(&bytes).ok_or_else(|| Error::Length { path: path.display().to_string(), len: bytes.len() })
    }

    /// Makes a new key at `path`, which must not exist, and which nobody else may read.
    pub fn create(path: &Path) -> Result<(), Error> {
        let mut bytes = Zeroizing::new([0u8; 32]);
        random(&mut *bytes)?;
        let write = || {
            let mut file =
                std::fs::File::options().write(true).create_new(true).mode(permissions::file(path)).open(path)?;
            file.write_all(&*bytes)?;
            file.sync_all()
        };
        write().map_err(|source| Error::File { operation: "write", path: path.display().to_string(), source })
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        UnboundKey::new(&AES_256_GCM, bytes).ok().map(|key| Self(LessSafeKey::new(key)))
    }

    /// A fresh nonce, the ciphertext, the tag. `place` must be given again to open it.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0u8; NONCE_LEN];
        random(&mut nonce)?;
        let mut body = plain.to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut body)
            .map_err(|_| Error::Seal)?;
        Ok([nonce.as_slice(), &body].concat())
    }

    /// What was sealed at `place`.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(Error::Open)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Open)?;
        let mut body = Zeroizing::new(body.to_vec());
        let len = self.0.open_in_place(nonce, Aad::from(place), &mut body).map_err(|_| Error::Open)?.len();
        body.truncate(len);
        Ok(body)
    }
}

impl SealingKey {
    /// The stored form of a secret value: it opens at `key` of `namespace` and nowhere else.
    pub fn seal_value(&self, namespace: &str, key: &str, value: &str) -> Result<String, Error> {
        let sealed = self.seal(format!("{namespace}\0{key}").as_bytes(), value.as_bytes())?;
        Ok(format!("{}{}", crate::catalog::kv::SEALED, data_encoding::BASE64.encode(&sealed)))
    }

    /// The value behind a stored form.
    pub fn open_value(&self, namespace: &str, key: &str, stored: &str) -> Result<Zeroizing<String>, Error> {
        let sealed = stored.strip_prefix(crate::catalog::kv::SEALED).ok_or(Error::Open)?;
        let sealed = data_encoding::BASE64.decode(sealed.as_bytes()).map_err(|_| Error::Open)?;
        let opened = self.open(format!("{namespace}\0{key}").as_bytes(), &sealed)?;
        let text = std::str::from_utf8(&opened).map_err(|_| Error::Open)?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

/// Fills `bytes` from the operating system's generator.
pub fn random(bytes: &mut [u8]) -> Result<(), Error> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| Error::Seal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_in_their_place_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kv.key");
        SealingKey::create(&path).unwrap();
        assert!(SealingKey::create(&path).is_err(), "a key is never replaced");
        let key = SealingKey::load(&path).unwrap();
        let sealed = key.seal(b"a", b"secret").unwrap();
        assert_eq!(&**key.open(b"a", &sealed).unwrap(), b"secret");
        assert!(key.open(b"b", &sealed).is_err());
        let mut altered = sealed.clone();
        *altered.last_mut().unwrap() ^= 1;
        assert!(key.open(b"a", &altered).is_err());
        assert!(key.open(b"a", &sealed[..5]).is_err());
        assert_ne!(key.seal(b"a", b"secret").unwrap(), sealed);
        let stored = key.seal_value("secrets/job/api", "password", "x").unwrap();
        assert_eq!(&**key.open_value("secrets/job/api", "password", &stored).unwrap(), "x");
        assert!(key.open_value("secrets/job/web", "password", &stored).is_err(), "a value cannot be moved");
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(SealingKey::load(&path), Err(Error::Length { len: 5, .. })));
    }
}
