//! What turns the workspace into what users install.

#[cfg(feature = "pages")]
pub mod dist;
#[cfg(feature = "pages")]
pub mod pages;
