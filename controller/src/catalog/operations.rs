//! Edge: ad-hoc work for agents (`shared/src/api/v1/operation.rs`): the rows that make up that part of a
//! desired state, and what came back. The first half is drive's, the second serve's.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};
use shared::api::v1::logs::Stream;
use shared::api::v1::operation::{MAX_BYTES, MAX_OPEN, ObservedOperation, Operation};
use shared::{OperationId, WorkerId};

use super::{During, Result, from_json, parsed, to_json};

/// How long what is closed stays for whoever wants to look, milliseconds.
const KEPT_MS: i64 = 24 * 3600 * 1000;

/// Most bytes of one operation's output that are kept for who follows it. Agents cut each of its two
/// streams to 2 MiB; what a job's logs say may be followed for long.
const MAX_OUTPUT: u64 = 256 << 20;

/// What became of adding one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is in its worker's desired state.
    Yes,
    /// The worker has as many, or as long ones, as it may have at once.
    Full,
}

/// Adds an operation to its worker's desired state. To be followed by [`moved`] in the same transaction.
pub fn add(connection: &Connection, worker: WorkerId, asked: &Operation, now_ms: i64) -> Result<Added> {
    let open = of_worker(connection, worker)?;
    let asked_json = to_json("operation.asked", asked)?;
    let mut bytes = asked_json.len();
    for open in &open {
        bytes += to_json("operation.asked", open)?.len();
    }
    if open.len() >= MAX_OPEN || bytes > MAX_BYTES {
        return Ok(Added::Full);
    }
    connection
        .prepare_cached(
            "INSERT INTO operation (operation_id, worker_id, position, asked, state, created_at, not_after) \
             VALUES (?1, ?2, (SELECT coalesce(max(position), 0) + 1 FROM operation), ?3, 'open', ?4, ?5)",
        )
        .and_then(|mut insert| {
            insert.execute(params![asked.id.to_string(), worker.to_string(), asked_json, now_ms, asked.not_after_ms])
        })
        .during("adding an operation")?;
    Ok(Added::Yes)
}

/// Asks agents to end operations, or not to begin them. Those that have a result stay as they are.
pub fn cancel(connection: &Connection, ids: &[OperationId], now_ms: i64) -> Result<()> {
    let mut workers = BTreeSet::new();
    for id in ids {
        let changed: Option<(String, String)> = connection
            .prepare_cached(
                "UPDATE operation SET state = 'cancelled' WHERE operation_id = ?1 AND state = 'open' \
                 RETURNING worker_id, asked",
            )
            .and_then(|mut update| update.query_row([id.to_string()], |row| Ok((row.get(0)?, row.get(1)?))).optional())
            .during("cancelling an operation")?;
        if let Some((worker, asked)) = changed {
            let mut asked: Operation = from_json("operation.asked", &asked)?;
            asked.cancel = true;
            connection
                .prepare_cached("UPDATE operation SET asked = ?2 WHERE operation_id = ?1")
                .and_then(|mut update| {
                    update.execute(params![id.to_string(), serde_json::to_string(&asked).unwrap_or_default()])
                })
                .during("cancelling an operation")?;
            workers.insert(parsed("operation.worker_id", &worker)?);
        }
    }
    moved(connection, &workers, now_ms)
}

/// Takes operations out of their workers' desired states: their results are known, or nobody waits for
/// them any more. Their output goes; an agent ends what still runs.
pub fn close(connection: &Connection, ids: &[OperationId], now_ms: i64) -> Result<()> {
    let mut workers = BTreeSet::new();
    for id in ids {
        let worker: Option<String> = connection
            .prepare_cached(
                "UPDATE operation SET state = 'closed' WHERE operation_id = ?1 AND state <> 'closed' RETURNING worker_id",
            )
            .and_then(|mut update| update.query_row([id.to_string()], |row| row.get(0)).optional())
            .during("closing an operation")?;
        if let Some(worker) = worker {
            workers.insert(parsed("operation.worker_id", &worker)?);
            connection
                .prepare_cached("DELETE FROM operation_output WHERE operation_id = ?1")
                .and_then(|mut delete| delete.execute([id.to_string()]))
                .during("forgetting an operation's output")?;
        }
    }
    moved(connection, &workers, now_ms)
}

/// Closes what nobody follows any more: what has a result or can no longer start and was due to have
/// ended long ago; and forgets what has been closed for a day.
pub fn tidy(connection: &Connection, now_ms: i64) -> Result<()> {
    let mut select = connection
        .prepare_cached("SELECT operation_id, asked FROM operation WHERE state <> 'closed' AND not_after < ?1")
        .during("looking for operations that are over")?;
    let mut rows = select.query([now_ms]).during("looking for operations that are over")?;
    let mut over = Vec::new();
    while let Some(row) = rows.next().during("looking for operations that are over")? {
        let (id, asked): (String, String) = (
            row.get(0).during("looking for operations that are over")?,
            row.get(1).during("looking for operations that are over")?,
        );
        let asked: Operation = from_json("operation.asked", &asked)?;
        let longest_ms = i64::try_from(asked.timeout_s.saturating_mul(1000)).unwrap_or(i64::MAX);
        if asked.not_after_ms.saturating_add(longest_ms).saturating_add(60_000) < now_ms {
            over.push(parsed("operation.operation_id", &id)?);
        }
    }
    close(connection, &over, now_ms)?;
    for forget in [
        "DELETE FROM operation_result WHERE operation_id IN \
           (SELECT operation_id FROM operation WHERE state = 'closed' AND created_at < ?1)",
        "DELETE FROM log_offset WHERE action_id IN \
           (SELECT operation_id FROM operation WHERE state = 'closed' AND created_at < ?1)",
        "DELETE FROM operation WHERE state = 'closed' AND created_at < ?1",
    ] {
        connection.execute(forget, [now_ms - KEPT_MS]).during("forgetting old operations")?;
    }
    Ok(())
}

/// Moves the generation of workers whose operations changed.
pub fn moved(connection: &Connection, workers: &BTreeSet<WorkerId>, now_ms: i64) -> Result<()> {
    for worker in workers {
        connection
            .prepare_cached(
                "UPDATE desired_worker SET generation = generation + 1, issued_at = ?2 WHERE worker_id = ?1",
            )
            .and_then(|mut update| update.execute(params![worker.to_string(), now_ms]))
            .during("moving a worker's generation")?;
    }
    Ok(())
}

/// Makes the row of a worker that no deploy has named yet, so that it has a desired state.
pub fn introduce(connection: &Connection, worker: &crate::model::Worker, now_ms: i64) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO desired_worker (worker_id, host, labels, epoch, update_seq, generation, issued_at, prefetch) \
             SELECT ?1, ?2, ?3, epoch, update_seq, 1, ?4, '[]' FROM bucket WHERE true \
             ON CONFLICT (worker_id) DO NOTHING",
        )
        .and_then(|mut insert| {
            let labels = serde_json::to_string(&worker.labels).unwrap_or_else(|_| "[]".to_owned());
            insert.execute(params![worker.worker_id.to_string(), worker.host.as_str(), labels, now_ms])
        })
        .during("naming a worker")?;
    Ok(())
}

/// The operations of a worker's desired state, oldest first.
pub fn of_worker(connection: &Connection, worker: WorkerId) -> Result<Vec<Operation>> {
    let mut select = connection
        .prepare_cached("SELECT asked FROM operation WHERE worker_id = ?1 AND state <> 'closed' ORDER BY position")
        .during("reading a worker's operations")?;
    let mut rows = select.query([worker.to_string()]).during("reading a worker's operations")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("reading a worker's operations")? {
        let asked: String = row.get(0).during("reading an operation")?;
        found.push(from_json("operation.asked", &asked)?);
    }
    Ok(found)
}

/// What an agent said of an operation, if it said anything.
pub fn result(connection: &Connection, id: OperationId) -> Result<Option<ObservedOperation>> {
    let json: Option<String> = connection
        .prepare_cached("SELECT observed FROM operation_result WHERE operation_id = ?1")
        .and_then(|mut select| select.query_row([id.to_string()], |row| row.get(0)).optional())
        .during("reading an operation's result")?;
    json.map(|json| from_json("operation_result.observed", &json)).transpose()
}

/// A stretch of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Of which operation.
    pub id: OperationId,
    /// Which stream.
    pub stream: Stream,
    /// Bytes that were left out before it.
    pub omitted: u64,
    /// What was printed.
    pub bytes: Vec<u8>,
}

/// Output of all operations after number `mark`, and the new mark. At most a few megabytes at a time.
pub fn output(connection: &Connection, mark: i64) -> Result<(Vec<Output>, i64)> {
    let mut select = connection
        .prepare_cached(
            "SELECT number, operation_id, stream, omitted, bytes FROM operation_output WHERE number > ?1 \
             ORDER BY number LIMIT 64",
        )
        .during("reading output")?;
    let mut rows = select.query([mark]).during("reading output")?;
    let (mut found, mut mark) = (Vec::new(), mark);
    while let Some(row) = rows.next().during("reading output")? {
        mark = row.get(0).during("reading output")?;
        let (id, stream): (String, String) =
            (row.get(1).during("reading output")?, row.get(2).during("reading output")?);
        found.push(Output {
            id: parsed("operation_output.operation_id", &id)?,
            stream: if stream == "stderr" { Stream::Stderr } else { Stream::Stdout },
            omitted: row.get(3).during("reading output")?,
            bytes: row.get(4).during("reading output")?,
        });
    }
    Ok((found, mark))
}

/// An operation of this worker that is not closed; what is somebody else's is as if it did not exist.
pub fn own(connection: &Connection, worker: WorkerId, id: OperationId) -> Result<Option<Operation>> {
    let asked: Option<String> = connection
        .prepare_cached("SELECT asked FROM operation WHERE operation_id = ?1 AND worker_id = ?2 AND state <> 'closed'")
        .and_then(|mut select| select.query_row([id.to_string(), worker.to_string()], |row| row.get(0)).optional())
        .during("looking up an operation")?;
    asked.map(|asked| from_json("operation.asked", &asked)).transpose()
}

/// Takes in what an agent says of its operations; the number of those that are not its own. A result is
/// written once: nothing that is said later changes it.
pub fn report(connection: &Connection, worker: WorkerId, observed: &[ObservedOperation], now_ms: i64) -> Result<usize> {
    let mut foreign = 0;
    for observed in observed {
        if own(connection, worker, observed.id)?.is_none() {
            foreign += usize::from(!known(connection, worker, observed.id)?);
            continue;
        }
        if result(connection, observed.id)?.is_some_and(|before| before.outcome.is_some() || before == *observed) {
            continue;
        }
        connection
            .prepare_cached(
                "INSERT INTO operation_result (operation_id, observed, reported_at) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (operation_id) DO UPDATE SET observed = excluded.observed, reported_at = excluded.reported_at",
            )
            .and_then(|mut upsert| {
                let json = serde_json::to_string(observed).unwrap_or_default();
                upsert.execute(params![observed.id.to_string(), json, now_ms])
            })
            .during("recording an operation's result")?;
    }
    Ok(foreign)
}

/// Whether the worker had it, closed or not: its agent may not have heard yet.
fn known(connection: &Connection, worker: WorkerId, id: OperationId) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM operation WHERE operation_id = ?1 AND worker_id = ?2")
        .and_then(|mut select| select.exists([id.to_string(), worker.to_string()]))
        .during("looking up an operation")
}

/// Takes in a stretch of output, for whoever follows. What is more than an agent sends of one operation
/// is left to the logs.
pub fn append(connection: &Connection, output: &Output) -> Result<()> {
    let kept: u64 = connection
        .prepare_cached("SELECT coalesce(sum(length(bytes)), 0) FROM operation_output WHERE operation_id = ?1")
        .and_then(|mut select| select.query_row([output.id.to_string()], |row| row.get(0)))
        .during("measuring output")?;
    if kept > MAX_OUTPUT {
        return Ok(());
    }
    connection
        .prepare_cached("INSERT INTO operation_output (operation_id, stream, omitted, bytes) VALUES (?1, ?2, ?3, ?4)")
        .and_then(|mut insert| {
            let stream = match output.stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            };
            insert.execute(params![output.id.to_string(), stream, output.omitted, output.bytes])
        })
        .during("recording output")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::model::Worker;
    use shared::RunId;
    use shared::api::v1::operation::{Ended, MAX_SCRIPT, Work};
    use uuid::Uuid;

    fn worker(n: u128) -> Worker {
        Worker {
            worker_id: WorkerId::from_uuid(Uuid::from_u128(n)),
            host: format!("w{n}").parse().unwrap(),
            hostname: None,
            labels: vec![],
            tags: Default::default(),
            memory_mb: 0.0,
            cpu_mhz: 0.0,
            position: 0,
        }
    }

    fn script(n: u128, length: usize) -> Operation {
        Operation {
            id: OperationId::from_uuid(Uuid::from_u128(n)),
            run_id: RunId::from_uuid(Uuid::from_u128(9)),
            work: Work::Script { body: "x".repeat(length) },
            timeout_s: 10,
            not_after_ms: 1_000,
            precondition: None,
            cancel: false,
        }
    }

    fn said(n: u128, outcome: Option<Ended>) -> ObservedOperation {
        let id = OperationId::from_uuid(Uuid::from_u128(n));
        ObservedOperation { id, outcome, started_ms: 0, duration_ms: 0, omitted: 0 }
    }

    fn catalog() -> (tempfile::TempDir, Catalog) {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::create(&dir.path().join("maand.db")).unwrap();
        let bucket = "INSERT INTO bucket (id, bucket_id, epoch, update_seq) VALUES (1, ?1, 1, 3)";
        catalog.connection().execute(bucket, [Uuid::from_u128(7).to_string()]).unwrap();
        for n in [1, 2] {
            catalog.write(|tx| introduce(tx, &worker(n), 0)).unwrap();
        }
        (dir, catalog)
    }

    #[test]
    fn every_change_of_what_a_worker_is_asked_moves_its_generation() {
        let (_dir, mut catalog) = catalog();
        let worker = worker(1).worker_id;
        let state = |catalog: &mut Catalog| {
            let state = catalog.read(|tx| super::super::desired::state(tx, worker)).unwrap().unwrap();
            (state.fence.generation, state.operations.iter().map(|asked| asked.cancel).collect::<Vec<_>>())
        };
        assert_eq!(state(&mut catalog), (1, vec![]), "a worker that no deploy has named has a desired state");
        let ask = |tx: &rusqlite::Transaction<'_>| {
            add(tx, worker, &script(5, 1), 0)?;
            moved(tx, &[worker].into(), 0)
        };
        catalog.write(ask).unwrap();
        assert_eq!(state(&mut catalog), (2, vec![false]));
        let id = script(5, 1).id;
        catalog.write(|tx| cancel(tx, &[id], 0)).unwrap();
        assert_eq!(state(&mut catalog), (3, vec![true]));
        catalog.write(|tx| cancel(tx, &[id], 0)).unwrap();
        assert_eq!(state(&mut catalog).0, 3, "once");
        catalog.write(|tx| close(tx, &[id], 0)).unwrap();
        assert_eq!(state(&mut catalog), (4, vec![]));
    }

    #[test]
    fn a_result_is_its_own_workers_and_written_once() {
        let (_dir, mut catalog) = catalog();
        let (own, other) = (worker(1).worker_id, worker(2).worker_id);
        catalog.write(|tx| add(tx, own, &script(5, 1), 0)).unwrap();
        let id = script(5, 1).id;
        let tell =
            |catalog: &mut Catalog, worker, outcome| catalog.write(|tx| report(tx, worker, &[said(5, outcome)], 0));
        assert_eq!(tell(&mut catalog, other, Some(Ended::Ok)).unwrap(), 1);
        let known = |catalog: &mut Catalog| catalog.read(|tx| result(tx, id)).unwrap();
        assert_eq!(known(&mut catalog), None);
        assert_eq!(catalog.read(|tx| super::own(tx, other, id)).unwrap(), None);
        tell(&mut catalog, own, None).unwrap();
        tell(&mut catalog, own, Some(Ended::Failed { exit: 3 })).unwrap();
        tell(&mut catalog, own, Some(Ended::Ok)).unwrap();
        assert_eq!(known(&mut catalog), Some(said(5, Some(Ended::Failed { exit: 3 }))));
        catalog.write(|tx| close(tx, &[id], 0)).unwrap();
        assert_eq!(tell(&mut catalog, own, Some(Ended::Ok)).unwrap(), 0, "it has not heard yet: no alarm");
        assert_eq!(catalog.read(|tx| super::own(tx, own, id)).unwrap(), None, "no more output of it");
    }

    #[test]
    fn what_nobody_follows_is_cleared_away_and_a_worker_has_so_much_at_once() {
        let (_dir, mut catalog) = catalog();
        let worker = worker(1).worker_id;
        catalog.write(|tx| add(tx, worker, &script(5, 1), 0)).unwrap();
        let open = |catalog: &mut Catalog| catalog.read(|tx| of_worker(tx, worker)).unwrap().len();
        // It may start until 1 s, run for 10 s, and say so for a minute.
        catalog.write(|tx| tidy(tx, 71_000)).unwrap();
        assert_eq!(open(&mut catalog), 1);
        catalog.write(|tx| tidy(tx, 71_001)).unwrap();
        assert_eq!(open(&mut catalog), 0);
        catalog.write(|tx| tidy(tx, KEPT_MS + 1)).unwrap();
        let rows: u64 = catalog.connection().query_row("SELECT count(*) FROM operation", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0);
        for n in 10..13 {
            assert_eq!(catalog.write(|tx| add(tx, worker, &script(n, MAX_SCRIPT), 0)).unwrap(), Added::Yes);
        }
        assert_eq!(catalog.write(|tx| add(tx, worker, &script(20, MAX_SCRIPT), 0)).unwrap(), Added::Full);
        assert_eq!(catalog.write(|tx| add(tx, worker, &script(20, 1), 0)).unwrap(), Added::Yes);
    }
}
