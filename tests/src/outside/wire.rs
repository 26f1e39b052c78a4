//! The wire and what travels on it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::str::FromStr;

use ::agent::reconcile::{Accepted, Verdict, verdict};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::api::v1::desired::{DesiredState, Envelope, Fence};
use shared::api::v1::logs::{LogBatch, MAX_STREAM};
use shared::api::v1::want::{BundleAnswer, WantList};
use shared::bundle::{MAX_ENTRIES, MAX_FILE};
use shared::pack::{self, Sink};
use shared::token::JoinToken;
use shared::{BlobDigest, Bundle, BundleDigest, Entry};
use uuid::Uuid;

/// Parses JSON; what parsed is the same once it was written and read again.
pub(super) fn json<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let text = serde_json::to_vec(&value).unwrap();
    assert_eq!(serde_json::from_slice::<T>(&text).unwrap(), value, "written and read again");
    Some(value)
}

/// The content that the pack of the seeds has.
pub const PACKED: [&[u8]; 3] = [b"", b"one", b"Makefile of a job\nstart:\n\ttrue\n"];

/// The want-list of [`PACKED`].
pub fn wants() -> BTreeMap<BlobDigest, u64> {
    PACKED.iter().map(|content| (BlobDigest::of(content), content.len() as u64)).collect()
}

#[derive(Default)]
struct Memory {
    blobs: BTreeMap<BlobDigest, Vec<u8>>,
}

impl Sink for Memory {
    type Blob = Vec<u8>;

    fn begin(&mut self, _: &BlobDigest, len: u64) -> io::Result<Vec<u8>> {
        assert!(len <= 64, "no blob was asked for that is longer");
        Ok(Vec::new())
    }

    fn commit(&mut self, digest: &BlobDigest, blob: Vec<u8>) -> io::Result<()> {
        assert_eq!(BlobDigest::of(&blob), *digest);
        self.blobs.insert(*digest, blob);
        Ok(())
    }
}

/// The first byte says whether what follows is a pack, or an archive that is to be compressed first: a fuzzer
/// gets through no compression by itself.
pub(super) fn pack(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let compressed = (first % 2 == 1).then(|| zstd::encode_all(rest, 1).unwrap());
    let mut memory = Memory::default();
    if pack::read(compressed.as_deref().unwrap_or(rest), &wants(), &mut memory).is_ok() {
        let all: BTreeMap<_, _> = PACKED.iter().map(|content| (BlobDigest::of(content), content.to_vec())).collect();
        assert_eq!(memory.blobs, all);
    }
}

/// A desired state for bucket 1 and worker 2, by its envelope or by itself.
pub(super) fn desired(bytes: &[u8]) {
    let (own_bucket, own_worker) = (bucket(), worker());
    let opened = match json::<Envelope>(bytes) {
        Some(envelope) => envelope.opened().ok(),
        None => serde_json::from_slice::<DesiredState>(bytes).ok().map(|state| (bytes.to_vec(), state)),
    };
    let Some((payload, state)) = opened else { return };
    assert_eq!(json::<DesiredState>(&payload).as_ref(), Some(&state));
    let last = Accepted { fence: Fence { epoch: 1, update_seq: 17, generation: 42 }, hash: [1; 32] };
    let hash = *BlobDigest::of(&payload).as_bytes();
    for last in [None, Some(&last)] {
        match verdict(own_bucket, own_worker, last, &state, &hash) {
            Verdict::Accept => {
                assert_eq!((state.bucket_id, state.worker_id), (own_bucket, own_worker));
                assert!(last.is_none_or(|last| state.fence > last.fence));
            }
            Verdict::Same => assert!(last.is_some_and(|last| last.hash == hash && last.fence == state.fence)),
            Verdict::Refuse(why) => assert!(!why.is_empty()),
        }
    }
}

pub(super) fn bucket() -> shared::BucketId {
    shared::BucketId::from_uuid(Uuid::from_u128(1))
}

pub(super) fn worker() -> shared::WorkerId {
    shared::WorkerId::from_uuid(Uuid::from_u128(2))
}

/// The list that differences of the seeds are from.
pub fn base() -> Bundle {
    let entry = |path: &str, content: &[u8]| Entry {
        path: path.parse().unwrap(),
        mode: 0o644,
        len: content.len() as u64,
        blob: BlobDigest::of(content),
        private: false,
    };
    Bundle::new(vec![entry("Makefile", PACKED[2]), entry("conf/app.toml", PACKED[1])]).unwrap()
}

/// A bundle's list, or its difference from [`base`].
pub(super) fn bundle(bytes: &[u8]) {
    let none = BundleDigest::from_bytes([0; 32]);
    let list = match json::<BundleAnswer>(bytes) {
        None => return,
        Some(BundleAnswer::Full(list)) => list,
        Some(BundleAnswer::Diff { diff, .. }) => {
            let base = base();
            match base.patched(diff.clone(), none) {
                Ok(_) => panic!("a list with another digest was accepted"),
                Err(shared::bundle::BundleError::Digest { actual, .. }) => base.patched(diff, actual).unwrap(),
                Err(_) => return,
            }
        }
    };
    sound(&list);
    assert_eq!(list.clone().checked(list.digest()).unwrap(), list);
    assert!(list.clone().checked(none).is_err());
    let base = base();
    assert_eq!(base.patched(list.diff(&base), list.digest()).unwrap(), list);
}

/// What an agent may write into a job's directory.
fn sound(list: &Bundle) {
    assert!(list.entries().len() <= MAX_ENTRIES);
    for entry in list.entries() {
        let path = entry.path.as_str();
        assert!(!path.starts_with('/') && !path.is_empty() && path.len() <= shared::path::MAX_LEN, "{path:?}");
        assert!(path.split('/').all(|part| !part.is_empty() && part != "." && part != ".."), "{path:?}");
        assert!(!path.chars().any(char::is_control), "{path:?}");
        let first = path.split('/').next().unwrap();
        assert!(!shared::path::RESERVED.contains(&first), "{path:?}");
        assert!(entry.mode <= 0o777 && entry.len <= MAX_FILE);
    }
    assert!(list.entries().windows(2).all(|pair| pair[0].path < pair[1].path));
}

/// What an agent asks a pack for.
pub(super) fn want(bytes: &[u8]) {
    let Some(want) = json::<WantList>(bytes) else { return };
    if want.is_ascending() {
        let unique: std::collections::BTreeSet<_> = want.blobs.iter().collect();
        assert_eq!(unique.len(), want.blobs.len());
    }
    assert_eq!(pack::digest(want.blobs.iter().copied()), pack::digest(want.blobs.iter().rev().copied()));
}

/// A join token.
pub(super) fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(token) = text.parse::<JoinToken>() else { return };
    assert_eq!(token.to_string().parse::<JoinToken>().unwrap(), token);
    let secret = token.to_string().split('.').nth(2).unwrap().to_owned();
    assert!(!format!("{token:?}").contains(&secret), "a token's Debug shows its secret");
}

/// Output on its way to the logs, for somebody who has the first bytes of it, or none.
pub(super) fn logs(bytes: &[u8]) {
    let Some(batch) = json::<LogBatch>(bytes) else { return };
    for chunk in &batch.chunks {
        let Ok(content) = chunk.content() else { continue };
        for known in [0, 1, chunk.offset, chunk.offset.saturating_add(1), u64::MAX] {
            let Some((rest, end)) = chunk.beyond(content.own(), known) else { continue };
            assert!(!rest.is_empty() && content.own().ends_with(rest) && end <= MAX_STREAM && end > known);
        }
    }
}

/// Words: ids, names, paths, digests, versions, fences, globs, sizes, namespaces.
pub(super) fn words(bytes: &[u8]) {
    fn round<T: FromStr + ToString + PartialEq + Debug>(text: &str)
    where
        T::Err: Debug,
    {
        if let Ok(value) = text.parse::<T>() {
            assert_eq!(value.to_string().parse::<T>().unwrap(), value);
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    round::<shared::JobName>(text);
    round::<shared::Host>(text);
    round::<shared::AllocId>(text);
    round::<BlobDigest>(text);
    round::<Fence>(text);
    round::<::controller::model::kv::Namespace>(text);
    if let Ok(path) = text.parse::<shared::RelPath>() {
        assert_eq!(path.as_str(), text);
    }
    drop(text.parse::<shared::Version>());
    let _ = ::controller::model::units::memory_mb(text);
    let _ = ::controller::model::units::cpu_mhz(text);
    if let Ok(glob) = text.parse::<::controller::model::glob::Glob>() {
        let _matches = glob.matches("conf/app.toml") | glob.matches(text);
    }
    let cleaned = shared::text::clean(text);
    assert!(!cleaned.chars().any(|c| c.is_control() && c != '\t'));
}
