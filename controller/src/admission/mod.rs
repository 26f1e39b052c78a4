//! Decides who is let in, and on what grounds: pure, so that every case stands in a table.

pub mod alarm;
pub mod certificate;
pub mod rotation;
pub mod session;
