//! `maand logs`: what the bucket wrote down (`show.rs`, `follow.rs`), and what its jobs did (`job.rs`).

mod follow;
mod job;
mod show;

use crate::cli::Context;
use crate::failure::Failure;

/// Read the logs of this bucket, and those of its jobs
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Show(show::Args),
    Job(job::Args),
}

/// Runs it.
pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Show(args) => show::run(&args, context),
        Command::Job(args) => job::run(&args, context),
    }
}
