//! The command line: parsing, dispatch, and the one way out.

pub mod cmd;
pub mod error;
pub mod table;
pub mod ui;

use crate::paths::BucketDir;

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// The bucket that `-C`, `MAAND_BUCKET` or the current directory names.
    pub bucket: BucketDir,
    /// Where to print.
    pub ui: ui::Ui,
}

/// Runs `maand`.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
