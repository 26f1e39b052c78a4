//! Taking away what nothing refers to any more: `plan` decides, `run` carries it out.

pub mod plan;
pub mod run;
