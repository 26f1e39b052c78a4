//! What others may do to a controller and to an agent, and what comes of it. Each test prints the bounds
//! that it saw (`--no-capture`).

mod controller;
mod evil;
mod rogue;
