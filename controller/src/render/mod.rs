//! Templates to bytes, and an allocation's files to its bundle. Pure: sources come in, bytes go out.

mod functions;
mod scope;
pub mod template;
mod values;

use shared::{BlobDigest, Bundle, Entry, RelPath};

use crate::model::{FileKind, Job};

pub use scope::Scope;
pub use template::{Context, Templates, Unrendered};

/// A rendered file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Where it goes.
    pub path: RelPath,
    /// As its source's.
    pub mode: u32,
    /// What it is.
    pub content: Vec<u8>,
    /// It was made of a secret.
    pub private: bool,
}

impl Rendered {
    /// As an entry of a bundle.
    pub fn entry(&self) -> Entry {
        Entry {
            path: self.path.clone(),
            mode: self.mode,
            len: self.content.len() as u64,
            blob: BlobDigest::of(&self.content),
            private: self.private,
        }
    }
}

/// The bundle of one allocation: what is shipped as it is, what was rendered, and its certificates,
/// which take the place of files of their name.
pub fn bundle(
    job: &Job,
    rendered: Vec<Entry>,
    certificates: Vec<Entry>,
) -> Result<Bundle, shared::bundle::BundleError> {
    let shipped = job.files.iter().filter(|file| file.kind == FileKind::Shipped).map(|file| Entry {
        path: file.path.clone(),
        mode: file.mode,
        len: file.len,
        blob: file.blob,
        private: false,
    });
    let taken = |entry: &Entry| certificates.iter().any(|certificate| certificate.path == entry.path);
    let files = shipped.chain(rendered).filter(|entry| !taken(entry)).collect::<Vec<_>>();
    Bundle::new(files.into_iter().chain(certificates.iter().cloned()).collect())
}
