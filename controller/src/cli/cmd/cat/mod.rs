//! `maand cat VIEW`: one file a view.

pub mod agents;
mod allocations;
mod certs;
mod deployments;
mod hooks;
mod jobs;
mod kv;
mod ports;
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
    #[command(alias = "job_commands")]
    Hooks(hooks::Args),
    #[command(alias = "job_ports")]
    Ports(ports::Args),
    Certs(certs::Args),
    Kv(kv::Args),
}

/// Runs it.
pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Workers(args) => workers::run(args, context),
        Command::Jobs(args) => jobs::run(args, context),
        Command::Allocations(args) => allocations::run(args, context),
        Command::Deployments(args) => deployments::run(args, context),
        Command::Agents(args) => agents::run(args, context),
        Command::Hooks(args) => hooks::run(args, context),
        Command::Ports(args) => ports::run(args, context),
        Command::Certs(args) => certs::run(args, context),
        Command::Kv(args) => kv::run(args, context),
    }
}

/// Prints the table; an empty one is an error that says what to do.
pub fn print(table: &Table, context: &Context, nothing: &str, remedy: &str) -> Result<(), Failure> {
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
