//! What both programs of maand must agree on, and nothing else: identifiers, digests, the canonical
//! form of a bundle, the pack that carries its blobs, and the messages of the wire.
//!
//! Everything here is pure: no clock, no files, no network, no randomness except as arguments.

pub mod action;
pub mod api;
pub mod backoff;
pub mod bundle;
pub mod code;
pub mod diagnostic;
pub mod digest;
pub mod id;
pub mod pack;
pub mod path;
pub mod text;
pub mod token;
pub mod version;

pub use action::ActionKind;
pub use bundle::{Bundle, Entry};
pub use code::Code;
pub use diagnostic::Diagnostic;
pub use digest::{BlobDigest, BundleDigest, PackDigest};
pub use id::{ActionId, AllocId, BucketId, Host, JobName, Name, OperationId, RunId, WorkerId};
pub use path::RelPath;
pub use version::Version;
