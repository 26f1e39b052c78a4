//! `maand serve`.

use std::net::SocketAddr;

use crate::cli::Context;
use crate::config::Settings;
use crate::failure::Failure;
use crate::serve::{Server, terminated};

/// Speak to agents, until SIGTERM or Ctrl-C
///
/// Hands every agent what its worker should run and takes what it reports. It reads no workspace, runs
/// no hooks and decides nothing: `maand deploy` does.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Without a running serve, maand deploy serves for as long as it lasts.\nAgents dial the \
    address that `advertise` in maand.conf names: one inbound\nTCP port here, none on workers.")]
pub struct Args {
    /// Listen here instead of where maand.conf says
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false).init();
    let mut settings = Settings::load(&context.bucket)?;
    settings.warnings.iter().for_each(|warning| context.ui.warn(warning));
    settings.listen = args.listen.unwrap_or(settings.listen);
    context.runtime()?.block_on(async {
        let server = Server::start(&context.bucket, &settings).await?;
        context.ui.say(format_args!("listening on {}; agents dial {}", server.local_addr(), settings.advertised()));
        terminated().await;
        context.ui.say("ending: open requests are let finish");
        server.shutdown().await;
        Ok(())
    })
}
