//! How a command ends when it does not succeed: an exit code and the problems to print.

use shared::Diagnostic;

/// Exit codes (`spec/decisions.md`, Exit codes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// A deploy, hook, health check or operation failed, wholly or in part.
    Failed = 1,
    /// The command line.
    Usage = 2,
    /// Workspace or configuration.
    Input = 3,
    /// Not a bucket, or of another schema.
    NotABucket = 4,
    /// A bug.
    Bug = 255,
}

/// Why a command did not succeed. Typed errors of the edges become one of these beside their definition.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit code.
    pub exit: Exit,
    /// All problems, in the order to print them.
    pub problems: Vec<Diagnostic>,
}

impl Failure {
    /// One problem.
    pub fn new(exit: Exit, problem: Diagnostic) -> Self {
        Self { exit, problems: vec![problem] }
    }
}
