//! `maand cat VIEW`: one file a view.

mod agents;
mod allocations;
mod deployments;
mod jobs;
mod workers;

use shared::{Code, Diagnostic};

use crate::cli::Context;
use crate::cli::table::Table;
use crate::failure::{Exit, Failure};

/// Print what the catalog knows, as tables or JSON
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Workers(workers::Args),
    Jobs(jobs::Args),
    Allocations(allocations::Args),
    Deployments(deployments::Args),
    Agents(agents::Args),
}

/// Runs it.
pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Workers(args) => workers::run(args, context),
        Command::Jobs(args) => jobs::run(args, context),
        Command::Allocations(args) => allocations::run(args, context),
        Command::Deployments(args) => deployments::run(args, context),
        Command::Agents(args) => agents::run(args, context),
    }
}

/// Prints the table; an empty one is an error that says what to do.
fn print(table: &Table, context: &Context, nothing: &str, remedy: &str) -> Result<(), Failure> {
    if table.is_empty() {
        let problem = Diagnostic::new(Code::NothingToShow, nothing).remedy(remedy);
        return Err(Failure::new(Exit::Failed, problem));
    }
    table.print(&context.ui);
    Ok(())
}

/// `maand cat deployments`, as `maand dev` prints it.
pub fn print_deployments(context: &Context) -> Result<(), Failure> {
    deployments::run(deployments::Args::default(), context)
}
