//! Serves agents for as long as a command needs them, when no `maand serve` does.

use tokio::runtime::Runtime;

use super::Context;
use crate::config::Settings;
use crate::failure::Failure;
use crate::serve::{ServeLock, Server};

/// A server for the time of a command, or nothing when another process serves.
#[derive(Debug)]
pub struct Meanwhile<'a> {
    runtime: &'a Runtime,
    server: Option<Server>,
}

impl<'a> Meanwhile<'a> {
    /// Serves, unless somebody does already.
    pub fn serve(context: &Context, settings: &Settings, runtime: &'a Runtime) -> Result<Self, Failure> {
        let Some(lock) = ServeLock::try_take(&context.bucket)? else { return Ok(Self { runtime, server: None }) };
        let server = runtime.block_on(Server::start_locked(&context.bucket, settings, lock))?;
        let address = server.local_addr();
        context.ui.say(format_args!("no maand serve runs: serving agents on {address} meanwhile"));
        Ok(Self { runtime, server: Some(server) })
    }

    /// Ends it; open requests are let finish.
    pub fn end(self) {
        if let Some(server) = self.server {
            self.runtime.block_on(server.shutdown());
        }
    }
}
