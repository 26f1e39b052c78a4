//! `maand logs`: what the bucket wrote down (`show.rs`, `follow.rs`).

mod follow;
mod show;

use crate::cli::Context;
use crate::failure::Failure;

/// Read the logs of this bucket
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Show(show::Args),
}

/// Runs it.
pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Show(args) => show::run(&args, context),
    }
}
