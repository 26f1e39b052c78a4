//! Edge: blobs and packs on disk.

pub mod packs;
pub mod stage;
pub mod store;
