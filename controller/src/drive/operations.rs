//! Edge: ad-hoc work for agents: asks for it, follows it, takes it back. What an agent does with it is
//! said in `shared/src/api/v1/operation.rs`. Whoever asks also waits, with a deadline: nothing is left
//! in a queue for an agent that may come some day.
#![expect(clippy::disallowed_methods, reason = "edge: waits for results")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shared::api::v1::desired::Fence;
use shared::api::v1::logs::Stream;
use shared::api::v1::operation::{ObservedOperation, Operation, Precondition, Work};
use shared::{Host, OperationId, RunId, WorkerId};

use crate::catalog::observed::{Agent, Contact};
use crate::catalog::operations::{self, Added};
use crate::catalog::{self, Catalog};
use crate::clock;
use crate::model::{Snapshot, Worker};
use crate::paths::BucketDir;
use crate::serve::notify::wake;

/// How often news is looked for.
const LOOK: Duration = Duration::from_millis(4);
/// How often deadlines are looked at when there is none, milliseconds.
const TICK_MS: i64 = 200;
/// How long after its last moment to start an agent may still say that it did, milliseconds.
const LATE_MS: i64 = 5_000;
/// How long after its time limit a result may take: the process is ended, output and result travel.
const RESULT_MS: i64 = 60_000;
/// How long an operation that was cancelled may take to end, milliseconds.
const CANCEL_MS: i64 = 30_000;
/// How many operations an agent does at the same time: the rest wait for their turn.
const AGENT_AT_ONCE: usize = 8;

/// Work to ask for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Of whom.
    pub worker: Worker,
    /// What.
    pub work: Work,
    /// How long it may take, seconds.
    pub timeout_s: u64,
    /// What must be true there.
    pub precondition: Option<Precondition>,
}

/// Work that was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its id.
    pub id: OperationId,
    /// Of whom.
    pub host: Host,
    /// What.
    pub work: Work,
    timeout_s: u64,
    not_after_ms: i64,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The agent said; there is an outcome.
    Said(ObservedOperation),
    /// The agent did not take it up in time; it never will.
    NotPickedUp,
    /// The agent took it up and then said nothing more.
    NoResult,
    /// The operator left before it was over.
    Left,
}

/// Who hears of it.
pub trait Sink {
    /// A line of output. Not whole when it is the last one of a stream that ended without a line's end.
    fn line(&mut self, asked: &Asked, stream: Stream, line: &str);
    /// It is over.
    fn ended(&mut self, asked: &Asked, end: &End);
    /// How often the operator asked to stop: once cancels, twice leaves at once.
    fn interrupts(&self) -> u32;
}

/// Puts work into desired states, all of it in one transaction, and wakes the agents. `Err` in the result
/// names a worker that has as much as it may have; then nothing was asked for.
pub fn queue(
    catalog: &mut Catalog,
    bucket: &BucketDir,
    run_id: RunId,
    requests: Vec<Request>,
    pickup_s: u64,
) -> catalog::Result<Result<Vec<Asked>, Host>> {
    let now_ms = clock::now_ms();
    let mut before: BTreeMap<WorkerId, (usize, u64)> = BTreeMap::new();
    let mut all = Vec::new();
    for request in requests {
        // The agent does some at a time: those behind may start later, by as much as the others take.
        let (count, longest_s) = before.entry(request.worker.worker_id).or_default();
        let turns = u64::try_from(*count / AGENT_AT_ONCE).unwrap_or(u64::MAX);
        (*count, *longest_s) = (*count + 1, (*longest_s).max(request.timeout_s));
        let wait_s = pickup_s.saturating_add(turns.saturating_mul(*longest_s));
        let not_after_ms = now_ms.saturating_add(i64::try_from(wait_s.saturating_mul(1000)).unwrap_or(i64::MAX));
        let id = OperationId::from_uuid(clock::random_uuid());
        let Request { worker, work, timeout_s, precondition } = request;
        let asked = Asked { id, host: worker.host.clone(), work: work.clone(), timeout_s, not_after_ms };
        all.push((worker, asked, Operation { id, run_id, work, timeout_s, not_after_ms, precondition, cancel: false }));
    }
    let full = catalog.write(|tx| {
        operations::tidy(tx, now_ms)?;
        let mut workers = BTreeSet::new();
        let mut added = Vec::new();
        for (worker, asked, operation) in &all {
            operations::introduce(tx, worker, now_ms)?;
            if operations::add(tx, worker.worker_id, operation, now_ms)? == Added::Full {
                operations::close(tx, &added, now_ms)?;
                return Ok(Some(asked.host.clone()));
            }
            added.push(asked.id);
            workers.insert(worker.worker_id);
        }
        operations::moved(tx, &workers, now_ms)?;
        Ok(None)
    })?;
    wake(bucket);
    Ok(match full {
        Some(host) => Err(host),
        None => Ok(all.into_iter().map(|(_, asked, _)| asked).collect()),
    })
}

/// How far one is followed.
struct Following {
    /// What its agent said last.
    said: Option<ObservedOperation>,
    /// The begin of a line whose end has not come, of each stream.
    open: [Vec<u8>; 2],
    /// When it was first seen to have been taken up, our clock.
    taken_ms: Option<i64>,
    end: Option<End>,
}

/// Follows operations to their ends, each of which comes before its deadline, and takes them out of
/// their desired states.
pub fn follow(
    catalog: &mut Catalog,
    bucket: &BucketDir,
    asked: &[Asked],
    sink: &mut dyn Sink,
) -> catalog::Result<Vec<End>> {
    let new = || Following { said: None, open: [Vec::new(), Vec::new()], taken_ms: None, end: None };
    let mut following: Vec<Following> = asked.iter().map(|_| new()).collect();
    let followed = watch(catalog, bucket, asked, &mut following, sink);
    // Also after an error: what nobody follows is not to begin.
    let ids: Vec<OperationId> = asked.iter().map(|asked| asked.id).collect();
    let closed = catalog.write(|tx| operations::close(tx, &ids, clock::now_ms()));
    wake(bucket);
    followed.and(closed)?;
    Ok(following.into_iter().map(|one| one.end.unwrap_or(End::Left)).collect())
}

fn watch(
    catalog: &mut Catalog,
    bucket: &BucketDir,
    asked: &[Asked],
    following: &mut [Following],
    sink: &mut dyn Sink,
) -> catalog::Result<()> {
    let (mut version, mut looked_ms, mut cancelled_ms, mut mark) = (None, 0, None, 0);
    while following.iter().any(|one| one.end.is_none()) {
        let now_ms = clock::now_ms();
        let interrupts = sink.interrupts();
        if interrupts > 0 && cancelled_ms.is_none() {
            cancelled_ms = Some(now_ms);
            let ids: Vec<OperationId> = asked.iter().map(|asked| asked.id).collect();
            catalog.write(|tx| operations::cancel(tx, &ids, now_ms))?;
            wake(bucket);
        }
        let seen = catalog.data_version()?;
        if version == Some(seen) && now_ms - looked_ms < TICK_MS && interrupts < 2 {
            std::thread::sleep(LOOK);
            continue;
        }
        (version, looked_ms) = (Some(seen), now_ms);
        take_in(catalog, asked, following, &mut mark, sink)?;
        for (asked, one) in asked.iter().zip(following.iter_mut()).filter(|(_, one)| one.end.is_none()) {
            if one.said.is_some() && one.taken_ms.is_none() {
                one.taken_ms = Some(now_ms);
            }
            let limit_ms = i64::try_from(asked.timeout_s.saturating_mul(1000)).unwrap_or(i64::MAX);
            let end = match (one.said.clone().filter(|said| said.outcome.is_some()), one.taken_ms) {
                (Some(said), _) => End::Said(said),
                _ if interrupts > 1 || cancelled_ms.is_some_and(|at| now_ms - at > CANCEL_MS) => End::Left,
                (None, None) if now_ms > asked.not_after_ms.saturating_add(LATE_MS) => End::NotPickedUp,
                (None, Some(taken_ms)) if now_ms - taken_ms > limit_ms.saturating_add(RESULT_MS) => End::NoResult,
                _ => continue,
            };
            for (stream, at) in [(Stream::Stdout, 0), (Stream::Stderr, 1)] {
                let rest = std::mem::take(&mut one.open[at]);
                if !rest.is_empty() {
                    sink.line(asked, stream, &String::from_utf8_lossy(&rest));
                }
            }
            sink.ended(asked, &end);
            one.end = Some(end);
        }
    }
    Ok(())
}

/// Hands on what was printed since `mark`, and takes down what agents have said. Both of one moment, so
/// that all output has been seen that came before a result.
fn take_in(
    catalog: &mut Catalog,
    asked: &[Asked],
    following: &mut [Following],
    mark: &mut i64,
    sink: &mut dyn Sink,
) -> catalog::Result<()> {
    loop {
        let open = || asked.iter().zip(following.iter()).enumerate().filter(|(_, (_, one))| one.end.is_none());
        let (said, output) = catalog.read(|tx| {
            let (output, next) = operations::output(tx, *mark)?;
            *mark = next;
            let mut said = Vec::new();
            for (at, (asked, _)) in open() {
                said.push((at, operations::result(tx, asked.id)?));
            }
            Ok((said, output))
        })?;
        if output.is_empty() {
            said.into_iter().for_each(|(at, said)| following[at].said = said);
            return Ok(());
        }
        for piece in output {
            // Others may be followed by somebody else.
            let Some(at) = asked.iter().position(|asked| asked.id == piece.id) else { continue };
            let open = &mut following[at].open[usize::from(piece.stream == Stream::Stderr)];
            if piece.omitted > 0 {
                let rest = std::mem::take(open);
                if !rest.is_empty() {
                    sink.line(&asked[at], piece.stream, &String::from_utf8_lossy(&rest));
                }
                sink.line(&asked[at], piece.stream, &format!("({} bytes left out here)", piece.omitted));
            }
            open.extend_from_slice(&piece.bytes);
            let Some(end) = open.iter().rposition(|byte| *byte == b'\n') else { continue };
            let whole: Vec<u8> = open.drain(..=end).collect();
            for line in whole[..end].split(|byte| *byte == b'\n') {
                sink.line(&asked[at], piece.stream, &String::from_utf8_lossy(line));
            }
        }
    }
}

/// Whether a worker's agent can be asked for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    Ready,
    /// No agent has joined.
    NotJoined,
    /// It has not been heard of since, milliseconds since 1970 UTC; `None`: never.
    Offline(Option<i64>),
    /// It refuses its desired state: that of another bucket, or one from before a backup was restored.
    Refuses(String),
    /// It has not accepted the last deploy.
    Behind {
        /// The update_seq that it has; `None`: none.
        has: Option<u64>,
    },
}

/// What agents said and when, as the catalog has it.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Who has joined, with the end of the certificate.
    pub joined: BTreeMap<WorkerId, i64>,
    /// When each was heard of.
    pub contacts: BTreeMap<WorkerId, Contact>,
    /// What each said of itself.
    pub agents: BTreeMap<WorkerId, Agent>,
}

/// The standing of a worker's agent at `now_ms`; with `in_step` it must have accepted the last deploy.
pub fn standing(snapshot: &Snapshot, worker: WorkerId, heard: &Heard, in_step: bool, now_ms: i64) -> Standing {
    if !heard.joined.contains_key(&worker) {
        return Standing::NotJoined;
    }
    let contact = heard.contacts.get(&worker);
    if !contact.is_some_and(|contact| contact.is_online(now_ms)) {
        return Standing::Offline(contact.map(|contact| contact.last_seen_ms));
    }
    let agent = heard.agents.get(&worker);
    if let Some(reason) = agent.and_then(|agent| agent.refused.clone()) {
        return Standing::Refuses(reason);
    }
    let accepted: Option<Fence> = agent.and_then(|agent| agent.accepted);
    let last = (snapshot.epoch, snapshot.update_seq);
    if in_step && accepted.is_none_or(|fence| (fence.epoch, fence.update_seq) < last) {
        return Standing::Behind { has: accepted.map(|fence| fence.update_seq) };
    }
    Standing::Ready
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::BucketId;
    use uuid::Uuid;

    #[test]
    fn away_behind_and_refusing_are_told_apart() {
        let snapshot = Snapshot {
            bucket_id: BucketId::from_uuid(Uuid::from_u128(1)),
            epoch: 1,
            update_seq: 5,
            built_at_ms: None,
            workers: vec![],
            jobs: vec![],
            allocations: vec![],
        };
        let worker = WorkerId::from_uuid(Uuid::from_u128(2));
        let mut heard = Heard::default();
        let of = |heard: &Heard, in_step| standing(&snapshot, worker, heard, in_step, 100_000);
        assert_eq!(of(&heard, false), Standing::NotJoined);
        heard.joined.insert(worker, 0);
        assert_eq!(of(&heard, false), Standing::Offline(None));
        heard.contacts.insert(worker, Contact { last_seen_ms: 99_000, connected: false });
        assert_eq!(of(&heard, false), Standing::Offline(Some(99_000)));
        heard.contacts.insert(worker, Contact { last_seen_ms: 99_000, connected: true });
        assert_eq!(of(&heard, false), Standing::Ready);
        assert_eq!(of(&heard, true), Standing::Behind { has: None });
        let accepted = |epoch, update_seq| Some(Fence { epoch, update_seq, generation: 1 });
        let agent = Agent { version: "1".into(), accepted: accepted(1, 4), refused: None, clock_offset_ms: 0 };
        heard.agents.insert(worker, agent.clone());
        assert_eq!(of(&heard, true), Standing::Behind { has: Some(4) });
        heard.agents.insert(worker, Agent { accepted: accepted(1, 5), ..agent.clone() });
        assert_eq!(of(&heard, true), Standing::Ready);
        heard.agents.insert(worker, Agent { refused: Some("it is of bucket x".into()), ..agent });
        assert_eq!(of(&heard, true), Standing::Refuses("it is of bucket x".into()));
    }
}
