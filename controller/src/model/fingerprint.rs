//! A digest over parts, each with its length: what a thing was made of, so that it is not made again
//! while that stays.

use sha2::{Digest, Sha256};

/// Parts so far.
#[derive(Debug, Clone)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Of one kind of thing; kinds never have equal fingerprints. A changed rule changes the word.
    pub fn new(kind: &str) -> Self {
        let mut fresh = Self(Sha256::new());
        fresh.part(kind);
        fresh
    }

    /// One more part.
    pub fn part(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// The digest.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_part_ends_matters() {
        let of = |parts: &[&str]| {
            let mut print = Fingerprint::new("test");
            parts.iter().for_each(|part| print.part(part));
            print.finish()
        };
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_ne!(of(&["ab"]), of(&["a", "b"]));
        assert_ne!(of(&["a", ""]), of(&["a"]));
    }
}
