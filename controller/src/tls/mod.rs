//! Edge: the bucket's certificate authorities, what they issue, and the server's side of TLS.

pub mod ca;
pub mod issue;
pub mod leaf;
pub mod server;

use thiserror::Error;

/// Why a key or certificate could not be made or used.
#[derive(Debug, Error)]
pub enum Error {
    /// A file of `secrets/`.
    #[error("cannot {operation} {path}")]
    File {
        /// What was being done.
        operation: &'static str,
        /// To which file, relative to the bucket.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// One half of a pair is there without the other.
    #[error("{present} is there without {missing}")]
    Half {
        /// What is there.
        present: String,
        /// What is not.
        missing: String,
    },
    /// Not what a CA's files hold.
    #[error("{path} cannot be used: {why}")]
    Unusable {
        /// Which file.
        path: String,
        /// Why not.
        why: String,
    },
    /// The library refused.
    #[error("cannot make {what}: {why}")]
    Make {
        /// What.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// A request for a certificate that is not one.
    #[error("the certificate request is not acceptable: {0}")]
    Request(&'static str),
}

impl From<Error> for crate::failure::Failure {
    fn from(error: Error) -> Self {
        use crate::failure::{Exit, Failure};
        let remedy = match &error {
            Error::Half { .. } => "restore the missing file from a backup; maand never makes half of a pair anew",
            Error::File { .. } | Error::Unusable { .. } => {
                "restore secrets/ from a backup, or run maand init in a new bucket"
            }
            _ => "see the cause above",
        };
        let problem = shared::Diagnostic::new(shared::Code::Secrets, "the bucket's certificates cannot be used");
        Failure::new(Exit::Input, problem.cause(&error).remedy(remedy))
    }
}
