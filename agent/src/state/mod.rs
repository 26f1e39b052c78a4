//! What the agent keeps: where, and how it survives.

pub mod durable;
pub mod layout;
pub mod ledger;
