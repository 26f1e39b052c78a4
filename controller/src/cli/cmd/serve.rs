//! `maand serve`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cli::Context;
use crate::cli::cmd::deploy::attend::limits;
use crate::cli::cmd::drive::Logged;
use crate::config::Settings;
use crate::drive::daemon;
use crate::failure::Failure;
use crate::serve::{ServeLock, Server, terminated};
use crate::service::{self, Service, Socket};

/// Speak to agents, until SIGTERM or Ctrl-C
///
/// Hands every agent what its worker should run and takes what it reports. It reads no workspace, runs
/// no hooks and decides nothing: `maand deploy` does, and with --drive this process, for what nobody waits for.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Without a running serve, maand deploy serves for as long as it lasts.\nAgents dial the \
    address that `advertise` in maand.conf names: one inbound\nTCP port here, none on workers.")]
pub struct Args {
    /// Listen here instead of where maand.conf says
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Also drive what nobody waits for, as maand drive does
    #[arg(long)]
    drive: bool,
}

/// The port that systemd holds, which then counts: it is there before this process and after it.
fn socket(args: &Args, settings: &mut Settings, context: &Context) -> Result<Option<Socket>, Failure> {
    let Some(socket) = service::socket()? else {
        settings.listen = args.listen.unwrap_or(settings.listen);
        return Ok(None);
    };
    if let Ok(address) = socket.address() {
        let wanted = args.listen.unwrap_or(settings.listen);
        if wanted.port() != address.port() {
            context.ui.warn(format_args!(
                "systemd holds {address} for it, so it does not listen on {wanted}; systemctl edit maand-serve.socket changes that"
            ));
        }
        settings.listen = address;
    }
    Ok(Some(socket))
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false).init();
    let mut settings = Settings::load(&context.bucket)?;
    settings.warnings.iter().for_each(|warning| context.ui.warn(warning));
    let socket = socket(&args, &mut settings, context)?;
    let service = Arc::new(Service::default());
    let stop = Arc::new(AtomicU32::new(0));
    context.runtime()?.block_on(async {
        let lock = ServeLock::take(&context.bucket)?;
        let server = Server::start_on(&context.bucket, &settings, lock, socket).await?;
        context.ui.say(format_args!("listening on {}; agents dial {}", server.local_addr(), settings.advertised()));
        let driving = args.drive.then(|| {
            let (bucket, limits, stop) = (context.bucket.clone(), limits(&settings), stop.clone());
            let logged = Logged::new(&context.bucket, &settings, true, service.clone());
            tokio::task::spawn_blocking(move || daemon::run(&bucket, limits, &stop, &logged))
        });
        let mut driving = std::pin::pin!(async {
            match driving {
                Some(driving) => driving.await.unwrap_or(Ok(())),
                None => std::future::pending().await,
            }
        });
        service.ready();
        let mut early = None;
        tokio::select! {
            () = terminated() => {}
            () = server.tell(&service) => {}
            ended = &mut driving => early = Some(ended),
        }
        service.stopping();
        context.ui.say("ending: open requests are let finish");
        // What is in flight is let end first, for its agents are still served; a second signal ends at once.
        if args.drive && early.is_none() {
            stop.store(1, Ordering::Relaxed);
            early = Some(tokio::select! {
                ended = &mut driving => ended,
                () = terminated() => {
                    stop.store(2, Ordering::Relaxed);
                    driving.await
                }
            });
        }
        server.shutdown().await;
        early.unwrap_or(Ok(()))
    })
}
