//! Putting a bundle in place: `survey` looks, `plan` decides, `activate` carries out.

pub mod activate;
pub mod drift;
pub mod mounts;
pub mod plan;
pub mod survey;
pub mod tree;
