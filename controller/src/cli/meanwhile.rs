//! Serves agents for as long as a command needs them, when no `maand serve` does.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::Context;
use super::ui::{Ui, no_color};
use crate::config::Settings;
use crate::drive::workers::ByAgents;
use crate::failure::Failure;
use crate::hooks::api::{Answering, NotDone, Order, Workers};
use crate::paths::BucketDir;
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
        let server = runtime.block_on(serve(&context.bucket, settings, &context.ui))?;
        Ok(Self { runtime, server })
    }

    /// Ends it; open requests are let finish.
    pub fn end(self) {
        if let Some(server) = self.server {
            self.runtime.block_on(server.shutdown());
        }
    }
}

async fn serve(bucket: &BucketDir, settings: &Settings, ui: &Ui) -> Result<Option<Server>, Failure> {
    let Some(lock) = ServeLock::try_take(bucket)? else { return Ok(None) };
    let server = Server::start_locked(bucket, settings, lock).await?;
    let address = server.local_addr();
    ui.say(format_args!("no maand serve runs: serving agents on {address} meanwhile"));
    Ok(Some(server))
}

/// How hooks of a command reach workers that serves nobody until one of them asks: most never do, and a
/// build opens no port for those.
#[derive(Debug)]
pub struct OnDemand {
    bucket: BucketDir,
    settings: Settings,
    ui: Ui,
    agents: ByAgents,
    server: tokio::sync::Mutex<Asked>,
}

#[derive(Debug)]
enum Asked {
    NotYet,
    Serving(Option<Server>),
}

impl OnDemand {
    /// For hooks of a command in `bucket`.
    pub fn new(bucket: &BucketDir, settings: &Settings, ui: &Ui) -> Arc<Self> {
        Arc::new(Self {
            bucket: bucket.clone(),
            settings: settings.clone(),
            ui: Ui::new(ui.wants_json(), no_color()),
            agents: ByAgents::new(bucket, bucket.database(), settings.pickup_timeout_s),
            server: tokio::sync::Mutex::new(Asked::NotYet),
        })
    }

    /// Ends what was begun, on the runtime that it was begun on.
    pub async fn end(&self) {
        let asked = std::mem::replace(&mut *self.server.lock().await, Asked::NotYet);
        if let Asked::Serving(Some(server)) = asked {
            server.shutdown().await;
        }
    }
}

impl Workers for OnDemand {
    fn run(&self, order: Order) -> Answering<'_> {
        Box::pin(async move {
            let mut asked = self.server.lock().await;
            if matches!(*asked, Asked::NotYet) {
                let unavailable = |failure: Failure| {
                    let said = failure.problems.first().map(|problem| problem.message.clone()).unwrap_or_default();
                    NotDone::Unavailable(format!("agents cannot be served: {said}"))
                };
                *asked = Asked::Serving(serve(&self.bucket, &self.settings, &self.ui).await.map_err(unavailable)?);
            }
            drop(asked);
            self.agents.run(order).await
        })
    }
}
