//! The agent left alone: what it begins without its controller, and what it does not.

#[cfg(feature = "failpoints")]
mod grants;
