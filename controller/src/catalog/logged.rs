//! Edge: how much of which output has been written to the logs, so that what an agent sends twice is
//! written once. serve's alone.

use rusqlite::{Connection, OptionalExtension, params};
use shared::WorkerId;
use shared::api::v1::logs::{LogChunk, Stream};

use super::{During, Result};

/// Streams that are remembered of one worker: the ones that were written last. An agent sends again what
/// it ran last, and names actions as it likes.
const KEPT: u32 = 1000;

/// Bytes of the chunk's stream that are in the logs.
pub fn written(connection: &Connection, worker: WorkerId, chunk: &LogChunk) -> Result<u64> {
    connection
        .prepare_cached(
            "SELECT max(offset) FROM log_offset WHERE worker_id IN (?1, '') AND action_id = ?2 AND stream = ?3",
        )
        .and_then(|mut select| {
            let key = [worker.to_string(), chunk.source.id(), word(chunk.stream).to_owned()];
            select.query_row(key, |row| row.get::<_, Option<u64>>(0)).optional()
        })
        .during("reading how far a log is")
        .map(|offset| offset.flatten().unwrap_or(0))
}

/// The logs have the stream up to `end`.
pub fn record(connection: &Connection, worker: WorkerId, chunk: &LogChunk, end: u64) -> Result<()> {
    let doing = "recording how far a log is";
    let (worker, action) = (worker.to_string(), chunk.source.id());
    let changed = connection
        .prepare_cached("UPDATE log_offset SET offset = ?4 WHERE worker_id = ?1 AND action_id = ?2 AND stream = ?3")
        .and_then(|mut update| update.execute(params![worker, action, word(chunk.stream), end]))
        .during(doing)?;
    if changed > 0 {
        return Ok(());
    }
    connection
        .prepare_cached("INSERT INTO log_offset (worker_id, action_id, stream, offset) VALUES (?1, ?2, ?3, ?4)")
        .and_then(|mut insert| insert.execute(params![worker, action, word(chunk.stream), end]))
        .during(doing)?;
    connection
        .prepare_cached(
            "DELETE FROM log_offset WHERE worker_id = ?1 AND number <= \
               (SELECT number FROM log_offset WHERE worker_id = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
        )
        .and_then(|mut delete| delete.execute(params![worker, KEPT]))
        .during(doing)
        .map(drop)
}

/// The stream's word, as logs have it.
pub const fn word(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use shared::api::v1::logs::Source;
    use shared::{ActionId, RunId};
    use uuid::Uuid;

    #[test]
    fn the_newest_of_each_worker_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::create(&dir.path().join("maand.db")).unwrap();
        let worker = |n| WorkerId::from_uuid(Uuid::from_u128(n));
        let chunk = |n: u128| LogChunk {
            source: Source::Action {
                action_id: ActionId::from_uuid(Uuid::from_u128(n)),
                job: "api".parse().unwrap(),
                target: "start".into(),
            },
            run_id: RunId::from_uuid(Uuid::nil()),
            stream: Stream::Stdout,
            offset: 0,
            bytes: String::new(),
            omitted: 0,
            before: String::new(),
            after: String::new(),
        };
        catalog
            .write(|tx| {
                record(tx, worker(2), &chunk(1), 77)?;
                for n in 1..=3000 {
                    record(tx, worker(1), &chunk(n), 5)?;
                    record(tx, worker(1), &chunk(n), 9)?;
                }
                let rows: u32 = tx.query_row("SELECT count(*) FROM log_offset", [], |row| row.get(0)).unwrap();
                assert_eq!(rows, KEPT + 1);
                assert_eq!(written(tx, worker(1), &chunk(3000))?, 9);
                assert_eq!(written(tx, worker(1), &chunk(1))?, 0, "forgotten");
                assert_eq!(written(tx, worker(2), &chunk(1))?, 77, "another worker's is its own");
                Ok(())
            })
            .unwrap();
    }
}
