//! Templates to bytes, and an allocation's files to its bundle. Pure: sources come in, bytes go out.

mod functions;
pub mod template;

use shared::{BlobDigest, Bundle, Diagnostic, Entry, RelPath};

use crate::model::{FileKind, Job};

pub use template::{Context, Templates};

/// A rendered file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Where it goes.
    pub path: RelPath,
    /// As its source's.
    pub mode: u32,
    /// What it is.
    pub content: Vec<u8>,
}

/// The bundle of one allocation: what is shipped as it is, and what was rendered.
pub fn bundle(job: &Job, rendered: &[Rendered]) -> Result<Bundle, shared::bundle::BundleError> {
    let shipped = job.files.iter().filter(|file| file.kind == FileKind::Shipped).map(|file| Entry {
        path: file.path.clone(),
        mode: file.mode,
        len: file.len,
        blob: file.blob,
        private: false,
    });
    let made = rendered.iter().map(|file| Entry {
        path: file.path.clone(),
        mode: file.mode,
        len: file.content.len() as u64,
        blob: BlobDigest::of(&file.content),
        private: false,
    });
    Bundle::new(shipped.chain(made).collect())
}

/// Renders every template of a job for one allocation.
pub fn render(templates: &Templates, context: &Context<'_>) -> Result<Vec<Rendered>, Vec<Diagnostic>> {
    templates.render(context)
}
