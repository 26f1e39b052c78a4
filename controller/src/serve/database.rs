//! Edge: the catalog behind the server: one thread that writes, one that reads, bounded queues, and
//! many small writes in one durable commit.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::catalog::{Catalog, Error};
use crate::failure::Failure;

/// Most pieces of work that wait; beyond it a request is told to come back.
const QUEUE: usize = 4096;
/// Most writes in one commit.
const GROUP: usize = 256;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    /// The queue is full, or the server is ending.
    #[error("the catalog is busy")]
    Busy,
    /// The catalog said no.
    #[error("the catalog refused")]
    Catalog(#[source] Error),
}

/// Tells the waiting request how the commit went.
type Reply = Box<dyn FnOnce(bool) + Send>;
type Write = Box<dyn FnOnce(&Connection) -> Reply + Send>;
type Read = Box<dyn FnOnce(&mut Catalog) + Send>;

/// Handles to the two threads; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Database {
    writes: SyncSender<Write>,
    reads: SyncSender<Read>,
}

impl Database {
    /// Starts both threads.
    pub(crate) fn start(writer: Catalog) -> Result<Self, Failure> {
        let mut reader = writer.reopen()?;
        let (writes, to_write) = sync_channel::<Write>(QUEUE);
        let (reads, to_read) = sync_channel::<Read>(QUEUE);
        let started =
            std::thread::Builder::new().name("catalog-write".into()).spawn(move || write_all(writer, &to_write));
        let started = started.and_then(|_| {
            std::thread::Builder::new().name("catalog-read".into()).spawn(move || {
                for work in to_read {
                    work(&mut reader);
                }
            })
        });
        match started {
            Ok(_) => Ok(Self { writes, reads }),
            Err(error) => Err(Failure::new(
                crate::failure::Exit::Failed,
                shared::Diagnostic::new(shared::Code::Storage, "a thread cannot be started").cause(&error),
            )),
        }
    }

    /// Runs `work` in a transaction; `Ok` only once that is durable.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        let job: Write = Box::new(move |connection| {
            let result = in_savepoint(connection, work);
            Box::new(move |committed| {
                let result = if committed { result.map_err(Unavailable::Catalog) } else { Err(Unavailable::Busy) };
                drop(reply.send(result));
            })
        });
        send(&self.writes, job)?;
        answer.await.unwrap_or(Err(Unavailable::Busy))
    }

    /// Runs `work` on one consistent view.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        let job: Read = Box::new(move |catalog| {
            drop(reply.send(catalog.read(|tx| guarded(|| work(tx))).map_err(Unavailable::Catalog)));
        });
        send(&self.reads, job)?;
        answer.await.unwrap_or(Err(Unavailable::Busy))
    }
}

fn send<T>(queue: &SyncSender<T>, job: T) -> Result<(), Unavailable> {
    queue.try_send(job).map_err(|error| match error {
        TrySendError::Full(_) | TrySendError::Disconnected(_) => Unavailable::Busy,
    })
}

/// A piece of work that panics is a bug and answers as one; it does not take the thread with it, on which all
/// agents wait. What it wrote is rolled back as after any failure.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::Damaged { what: "an answer", why: "a bug: see this program's log".to_owned() }))
}

/// One piece of a group fails alone: the others are not its victims.
fn in_savepoint<T>(connection: &Connection, work: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
    let sql = |source| Error::Sql { operation: "beginning a piece of a commit", source };
    connection.execute_batch("SAVEPOINT piece").map_err(sql)?;
    let result = guarded(|| work(connection));
    let end = if result.is_ok() { "RELEASE piece" } else { "ROLLBACK TO piece; RELEASE piece" };
    connection.execute_batch(end).map_err(sql)?;
    result
}

fn write_all(mut catalog: Catalog, queue: &Receiver<Write>) {
    while let Ok(first) = queue.recv() {
        let mut replies: Vec<Reply> = Vec::new();
        let committed = catalog.write(|tx| {
            replies.push(first(tx));
            while replies.len() < GROUP {
                match queue.try_recv() {
                    Ok(next) => replies.push(next(tx)),
                    Err(_) => break,
                }
            }
            Ok(())
        });
        if let Err(error) = &committed {
            tracing::error!(error = shared::diagnostic::chain(error), "commit_failed");
        }
        for reply in replies {
            reply(committed.is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_work_that_panics_fails_alone_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::start(Catalog::create(&dir.path().join("maand.db")).unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let count = "SELECT count(*) FROM worker_gone";
        let insert = "INSERT INTO worker_gone (worker_id, host, gone_at) VALUES ('w', 'h', 1)";
        let written: Result<(), Unavailable> = runtime.block_on(database.write(move |c| {
            c.execute(insert, []).unwrap();
            panic!("a bug");
        }));
        assert!(matches!(written, Err(Unavailable::Catalog(_))), "{written:?}");
        let read: Result<(), Unavailable> = runtime.block_on(database.read(|_| panic!("a bug")));
        assert!(matches!(read, Err(Unavailable::Catalog(_))), "{read:?}");
        let rows = |c: &Connection| Ok(c.query_row(count, [], |row| row.get::<_, u32>(0)).unwrap());
        assert_eq!(runtime.block_on(database.read(rows)).unwrap(), 0, "rolled back");
        runtime.block_on(database.write(move |c| Ok(c.execute(insert, []).unwrap()))).unwrap();
        assert_eq!(runtime.block_on(database.read(rows)).unwrap(), 1, "both threads go on");
    }
}
