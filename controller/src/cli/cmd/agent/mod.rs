//! `maand agent`: who may join, who is there, and whose time is over.

mod end;
mod hold;
mod ping;
mod resolve;
mod rotate;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use shared::token::{self, JoinToken};
use shared::{Code, Diagnostic, Host};

use crate::catalog::{agents, authorities, read};
use crate::cli::Context;
use crate::cli::filter::unknown;
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::model::{Snapshot, Worker};
use crate::tls::ca;
use crate::{clock, secrets};

/// How long a token lives, minutes.
pub const DEFAULT_TTL_MINUTES: u32 = 30;

/// Let agents join, look at them, ask for a sign of life, shut them out
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    List(super::cat::agents::Args),
    Token(Token),
    Ping(ping::Ping),
    Revoke(end::Revoke),
    Forget(end::Forget),
    Hold(hold::Hold),
    Unhold(hold::Unhold),
    Resolve(resolve::Resolve),
    #[command(subcommand, name = "rotate-ca")]
    RotateCa(rotate::RotateCa),
}

/// Print the one line to run on a worker, with a token that works once
///
/// The token names one worker, lives 30 minutes, and says which controller to speak to; hand it over
/// as you would a password.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example, with ssh for this one line (maand itself never uses it):\n  maand agent token \
    10.0.0.1 | ssh root@10.0.0.1 sh")]
pub struct Token {
    /// The worker's name in workers.json
    host: String,
    /// Minutes until it ends
    #[arg(long, value_name = "MINUTES", default_value_t = DEFAULT_TTL_MINUTES, value_parser = clap::value_parser!(u32).range(1..=1440))]
    ttl: u32,
}

/// Runs it.
pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::List(args) => super::cat::agents::run(args, context),
        Command::Token(args) => print_token(&args, context),
        Command::Ping(args) => ping::run(&args, context),
        Command::Revoke(args) => end::revoke(&args, context),
        Command::Forget(args) => end::forget(&args, context),
        Command::Hold(args) => hold::hold(&args, context),
        Command::Unhold(args) => hold::unhold(&args, context),
        Command::Resolve(args) => resolve::run(&args, context),
        Command::RotateCa(command) => rotate::run(&command, context),
    }
}

/// The worker of that name; an error names those there are.
fn worker<'a>(snapshot: &'a Snapshot, host: &str) -> Result<&'a Worker, Failure> {
    let known = || snapshot.workers.iter().map(|worker| worker.host.as_str());
    let found = snapshot.workers.iter().find(|worker| worker.host.as_str() == host);
    found.ok_or_else(|| Failure::new(Exit::Usage, unknown("worker", host, known())))
}

fn print_token(args: &Token, context: &Context) -> Result<(), Failure> {
    let snapshot = context.catalog()?.read(|tx| read::snapshot(tx))?;
    let worker = worker(&snapshot, &args.host)?;
    let token = new_token(context, &worker.host, args.ttl)?;
    let url = Settings::load(&context.bucket)?.advertised();
    if context.ui.wants_json() {
        context
            .ui
            .out_json(&serde_json::json!({ "host": worker.host, "url": url, "token": token, "ttl_minutes": args.ttl }));
    } else {
        context.ui.out(format_args!("maand-agent join {url} {token}"));
    }
    Ok(())
}

/// A new token for `host`, which must be in the catalog.
pub fn new_token(context: &Context, host: &Host, ttl_minutes: u32) -> Result<String, Failure> {
    let mut catalog = context.catalog()?;
    // What the controller shows: during a replacement the old one, until the moment of its end.
    let rotation = catalog.read(|tx| authorities::rotation(tx))?;
    let authority = ca::agents(&context.bucket, rotation.current)?;
    let failed = |error: &dyn std::error::Error| {
        Failure::new(Exit::Failed, Diagnostic::new(Code::Secrets, "a token cannot be made").cause(error))
    };
    let mut token = JoinToken { id: [0; 16], secret: [0; 32], pin: token::pin(&authority.spki) };
    secrets::random(&mut token.id).map_err(|error| failed(&error))?;
    secrets::random(&mut token.secret).map_err(|error| failed(&error))?;
    let key = Ed25519KeyPair::from_seed_unchecked(&token.secret).map_err(|error| failed(&error))?;
    let id = BASE64URL_NOPAD.encode(&token.id);
    let now_ms = clock::now_ms();
    let expires_ms = now_ms + i64::from(ttl_minutes) * 60_000;
    let snapshot = catalog.read(|tx| read::snapshot(tx))?;
    let Some(worker) = snapshot.worker(host) else {
        return Err(Failure::new(Exit::Usage, unknown("worker", host.as_str(), std::iter::empty())));
    };
    catalog
        .write(|tx| agents::create_token(tx, &id, worker.worker_id, key.public_key().as_ref(), now_ms, expires_ms))?;
    Ok(token.to_string())
}
