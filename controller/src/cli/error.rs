//! How a command ends when it does not succeed: an exit code and the problems to print.

use shared::{Code, Diagnostic};

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

/// Why a command did not succeed. Everything below `cli` has typed errors; this is their one way out.
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

impl From<crate::catalog::Error> for Failure {
    fn from(error: crate::catalog::Error) -> Self {
        use crate::catalog::Error as E;
        match &error {
            E::Missing(path) => Self::new(
                Exit::NotABucket,
                Diagnostic::new(Code::NotABucket, "this directory is not a bucket")
                    .note(format!("there is no catalog at {}", path.display()))
                    .remedy("run maand init here, or name the bucket with -C DIR or MAAND_BUCKET"),
            ),
            E::Older { .. } => Self::new(
                Exit::NotABucket,
                Diagnostic::new(Code::SchemaOlder, error.to_string()).remedy("run maand init: it upgrades the catalog"),
            ),
            E::Newer { .. } => Self::new(
                Exit::NotABucket,
                Diagnostic::new(Code::SchemaNewer, error.to_string())
                    .remedy("use the maand that made it, or a newer one"),
            ),
            E::Sql { .. } => {
                Self::new(Exit::Failed, Diagnostic::new(Code::Storage, "the catalog cannot be used").cause(&error))
            }
            E::Damaged { .. } => Self::new(
                Exit::Failed,
                Diagnostic::new(Code::Storage, "the catalog cannot be used")
                    .cause(&error)
                    .remedy("restore the last backup of data/maand.db"),
            ),
        }
    }
}
