//! Edge: waking who waits for a newer desired state. The rows are the truth; a datagram on
//! `data/serve.sock` is a hint that they moved, and twice a second they are looked at anyway.
#![expect(clippy::disallowed_methods, reason = "edge: data/serve.sock")]

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::api::v1::desired::Fence;
use shared::{BucketId, Code, Diagnostic, WorkerId};
use tokio::sync::watch;

use crate::catalog::{Catalog, authorities, desired, identities};
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::paths::BucketDir;
use crate::permissions;
use crate::telemetry::BucketLog;

use super::credentials::Current;
use super::halt::Halt;

/// How long a change may stay unnoticed when its hint was lost.
const LOOK: Duration = Duration::from_millis(500);
/// Ends of certificates are looked for again for so long: their moment is taken before their commit.
const OVERLAP_MS: i64 = 10_000;

/// Tells the serving process that desired rows moved. A hint: nothing depends on it.
pub fn wake(bucket: &BucketDir) {
    if let Ok(socket) = UnixDatagram::unbound() {
        drop(socket.set_nonblocking(true));
        drop(socket.send_to(b"w", bucket.serve_socket()));
    }
}

/// What each worker's waiting request watches.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    /// The newest fence that is known.
    pub(crate) fence: Fence,
    /// Number of the newest request that waits: an older one of the same worker gives way.
    pub(crate) poll: u64,
}

/// The watches of all workers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wakers(Arc<Mutex<HashMap<WorkerId, watch::Sender<Watched>>>>);

impl Wakers {
    /// Begins to wait: the watch, and the number of this request.
    pub(crate) fn wait(&self, worker: WorkerId) -> (watch::Receiver<Watched>, u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sender =
            all.entry(worker).or_insert_with(|| watch::Sender::new(Watched { fence: Fence::default(), poll: 0 }));
        sender.send_modify(|watched| watched.poll += 1);
        let poll = sender.borrow().poll;
        (sender.subscribe(), poll)
    }

    /// Everybody who waits is answered that there is nothing, as if a newer request of his waited.
    fn send_away(&self) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().for_each(|sender| sender.send_modify(|watched| watched.poll += 1));
    }

    /// Everybody who waits looks again.
    fn nudge(&self) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().for_each(|sender| sender.send_modify(|_| {}));
    }

    /// These look again.
    pub(crate) fn nudge_some(&self, workers: impl Iterator<Item = WorkerId>) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for worker in workers {
            if let Some(sender) = all.get(&worker) {
                sender.send_modify(|_| {});
            }
        }
    }

    fn moved(&self, fences: &[(WorkerId, Fence)]) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (worker, fence) in fences {
            if let Some(sender) = all.get(worker) {
                sender.send_if_modified(|watched| {
                    let newer = watched.fence != *fence;
                    watched.fence = *fence;
                    newer
                });
            }
        }
    }
}

/// The thread that looks.
#[derive(Debug)]
pub(crate) struct Waking {
    /// When it last came round.
    round: Arc<Mutex<Instant>>,
    stop: Arc<AtomicBool>,
    socket: PathBuf,
}

impl Waking {
    /// Starts it.
    pub(crate) fn start(
        bucket: &BucketDir,
        mut catalog: Catalog,
        wakers: Wakers,
        (halt, log, credentials, id): (Halt, Arc<BucketLog>, Current, BucketId),
    ) -> Result<Self, Failure> {
        let path = bucket.serve_socket();
        let failed = |error: &dyn std::error::Error| {
            Failure::new(Exit::Failed, Diagnostic::new(Code::Storage, "cannot use data/serve.sock").cause(error))
        };
        // Left by a serve that was killed; the serve lock says that no other one is there.
        drop(std::fs::remove_file(&path));
        let socket = match UnixDatagram::bind(&path) {
            Ok(socket) => {
                drop(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(permissions::file(&path))));
                Some(socket)
            }
            // A path too long for a socket: the look twice a second has to do.
            Err(error) => {
                tracing::warn!(%error, "wake_socket_missing");
                None
            }
        };
        if let Some(socket) = &socket {
            socket.set_read_timeout(Some(LOOK)).map_err(|error| failed(&error))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let bucket = bucket.clone();
        let round = Arc::new(Mutex::new(clock::instant()));
        let came = round.clone();
        let look = move || {
            let mut seen = 0;
            let mut judged = clock::instant();
            let mut ended_ms = clock::now_ms();
            while !stopped.load(Ordering::Relaxed) {
                *came.lock().unwrap_or_else(PoisonError::into_inner) = clock::instant();
                // First whether anything may be handed out, then who may have it.
                let was_halted = halt.is_set();
                if was_halted || judged.elapsed() >= LOOK {
                    judged = clock::instant();
                    if let Err(failure) = halt.look(&bucket, &mut catalog, &log) {
                        let why = failure.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                        tracing::error!(why, "mark_unreadable");
                    }
                    if was_halted && !halt.is_set() {
                        wakers.nudge();
                    }
                }
                let looked = catalog
                    .read(|tx| authorities::rotation(tx))
                    .map_err(|error| shared::diagnostic::chain(&error))
                    .and_then(|rotation| {
                        let looked = credentials.look(&bucket, id, rotation, clock::now_ms());
                        looked.map_err(|error| shared::diagnostic::chain(&error))
                    });
                match looked {
                    // Who waits hears of it with the answer.
                    Ok(true) => wakers.send_away(),
                    Ok(false) => {}
                    Err(error) => tracing::error!(error, "authorities_unreadable"),
                }
                match catalog.data_version() {
                    Ok(version) if version != seen => {
                        seen = version;
                        // The clock may have been set back.
                        let since_ms = ended_ms.min(clock::now_ms()) - OVERLAP_MS;
                        let looked =
                            catalog.read(|tx| Ok((desired::fences(tx)?, identities::ended_since(tx, since_ms)?)));
                        match looked {
                            Ok((fences, ended)) => {
                                wakers.moved(&fences);
                                // Whose certificate was ended waits no longer.
                                ended_ms = ended.iter().map(|(_, at_ms)| *at_ms).fold(ended_ms, i64::max);
                                wakers.nudge_some(ended.into_iter().map(|(worker, _)| worker));
                            }
                            Err(error) => {
                                tracing::error!(error = shared::diagnostic::chain(&error), "fences_unreadable")
                            }
                        }
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(error = shared::diagnostic::chain(&error), "fences_unreadable"),
                }
                match &socket {
                    Some(socket) => drop(socket.recv(&mut [0u8; 8])),
                    None => std::thread::sleep(LOOK),
                }
            }
        };
        std::thread::Builder::new().name("wake".into()).spawn(look).map_err(|error| failed(&error))?;
        Ok(Self { round, stop, socket: path })
    }

    /// When it last came round.
    pub(crate) fn came_round(&self) -> Instant {
        *self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Ok(socket) = UnixDatagram::unbound() {
            drop(socket.send_to(b"s", &self.socket));
        }
        drop(std::fs::remove_file(&self.socket));
    }
}
