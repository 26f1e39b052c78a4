//! The rig that hits an agent in the middle of its work, and looks at what is there then and afterwards.
//!
//! - [`controller`]: a controller for one agent, light enough for thousands of applies
//! - [`ground`]: a disk whose power can be cut, that fills up, that fails
//! - [`trace`]: an agent that is hit at its n-th mutating system call
//! - [`calls`]: which system calls change a file
//! - [`scenario`]: what is there and what is to be there
//! - [`tree`]: what is there, taken down
//! - [`oracle`]: the ten invariants
//! - [`point`]: one point, from the saved ground to the last look
//! - [`neighbour`]: another user who owns part of the job's tree
//! - [`sweep`]: which points there are, and how many of them are gone through

pub mod calls;
pub mod controller;
pub mod ground;
pub mod neighbour;
pub mod oracle;
pub mod point;
pub mod scenario;
pub mod sweep;
pub mod trace;
pub mod tree;
