//! Bundles' lists, and want-lists that are answered with a pack.

use serde::{Deserialize, Serialize};

use crate::bundle::BundleDiff;
use crate::{BlobDigest, Bundle, BundleDigest};

/// Answer to `GET /v1/self/bundles/{digest}[?base=…]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BundleAnswer {
    /// The whole list.
    Full(Bundle),
    /// The difference from the base that the agent named.
    Diff {
        /// That base.
        base: BundleDigest,
        /// What turns it into the bundle.
        diff: BundleDiff,
    },
}

/// Body of `POST /v1/self/packs`. The answer is a pack of exactly these blobs, each once, or 404 when
/// any of them is not the worker's to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantList {
    /// Ascending, no repeats.
    pub blobs: Vec<BlobDigest>,
    /// Whether these are private blobs (their pack is never cached); the two kinds do not mix.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
}

impl WantList {
    /// Whether the blobs are in ascending order, each once, as the wire has them.
    pub fn is_ascending(&self) -> bool {
        self.blobs.windows(2).all(|pair| pair[0] < pair[1])
    }
}
