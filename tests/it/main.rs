//! The one integration test binary.

mod support;

mod deploy;
mod dev;
mod faults;
mod join;
mod namespaces;
mod architecture;
mod sim;
