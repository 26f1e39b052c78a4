//! Semaphores of hooks (`spec/behaviour.md` 6.4): in the memory of the command, one of a name for each job
//! and event; first come, first served; given back at the latest when the holder's process ends.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::{AllocId, JobName};
use tokio::sync::oneshot;

use crate::model::HookEvent;

/// Most holders.
pub(super) const MAX_CAPACITY: u32 = 64;
/// Semaphores of one job and event.
const MAX_NAMES: usize = 256;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who {
    /// One run of one hook for one allocation.
    pub(super) invocation: u64,
    /// The allocation.
    pub(super) alloc_id: AllocId,
}

/// Which semaphore.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) job: JobName,
    pub(super) event: HookEvent,
    pub(super) name: String,
}

/// Why it is not held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// The first to ask said another one.
    Capacity(u32),
    /// There are too many names.
    Names,
    /// The time was over, or the command ends.
    TimedOut,
}

/// How one stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) capacity: u32,
    pub(super) holders: Vec<AllocId>,
    pub(super) waiting: usize,
}

/// All of a command.
#[derive(Debug, Default)]
pub(super) struct Semaphores(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    semaphores: HashMap<Key, Semaphore>,
    next: u64,
}

#[derive(Debug)]
struct Semaphore {
    capacity: u32,
    holders: Vec<Holder>,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Holder {
    who: Who,
    /// Waits that it was granted to and that have not been answered yet.
    unanswered: usize,
    /// An answer has gone out: from now on it is the process that holds it.
    answered: bool,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    who: Who,
    tell: oneshot::Sender<()>,
}

impl Semaphore {
    /// Hands out what is free, in the order of asking. A waiter that is gone has taken itself out.
    fn grant(&mut self) {
        while self.holders.len() < self.capacity as usize {
            let Some(next) = self.waiting.pop_front() else { return };
            let mut holder = Holder { who: next.who, unanswered: 1, answered: false };
            let _told = next.tell.send(());
            // The same process may have asked twice: it holds it once, and all its waits are over.
            let (same, others): (VecDeque<Waiter>, _) =
                self.waiting.drain(..).partition(|waiter| waiter.who == next.who);
            self.waiting = others;
            for again in same {
                holder.unanswered += 1;
                let _told = again.tell.send(());
            }
            self.holders.push(holder);
        }
    }

    fn release(&mut self, invocation: u64) -> bool {
        let before = self.holders.len();
        self.holders.retain(|holder| holder.who.invocation != invocation);
        let released = self.holders.len() < before;
        self.grant();
        released
    }
}

/// A wait. Dropped before its answer it takes itself out of the queue, or gives back what it was granted
/// meanwhile: neither a time limit nor a client that goes away loses a place.
struct Wait<'a> {
    all: &'a Semaphores,
    key: Key,
    number: u64,
    who: Who,
    answered: bool,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        let Some(semaphore) = all.semaphores.get_mut(&self.key) else { return };
        let before = semaphore.waiting.len();
        semaphore.waiting.retain(|waiter| waiter.number != self.number);
        if semaphore.waiting.len() < before {
            return;
        }
        let Some(holder) = semaphore.holders.iter_mut().find(|holder| holder.who == self.who) else { return };
        holder.unanswered = holder.unanswered.saturating_sub(1);
        holder.answered |= self.answered;
        if !holder.answered && holder.unanswered == 0 {
            semaphore.release(self.who.invocation);
        }
    }
}

impl Semaphores {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds it for `who`, at once if they do already.
    pub(super) async fn acquire(&self, key: Key, who: Who, capacity: u32, limit: Duration) -> Result<(), Refused> {
        let (mut wait, granted) = {
            let mut all = self.lock();
            if !all.semaphores.contains_key(&key) {
                let names = all.semaphores.keys().filter(|other| other.job == key.job && other.event == key.event);
                if names.count() >= MAX_NAMES {
                    return Err(Refused::Names);
                }
            }
            let number = all.next;
            all.next += 1;
            let fresh = Semaphore { capacity, holders: Vec::new(), waiting: VecDeque::new() };
            let semaphore = all.semaphores.entry(key.clone()).or_insert(fresh);
            if semaphore.capacity != capacity {
                return Err(Refused::Capacity(semaphore.capacity));
            }
            if let Some(holder) = semaphore.holders.iter_mut().find(|holder| holder.who == who) {
                holder.answered = true;
                return Ok(());
            }
            let (tell, granted) = oneshot::channel();
            semaphore.waiting.push_back(Waiter { number, who, tell });
            semaphore.grant();
            (Wait { all: self, key, number, who, answered: false }, granted)
        };
        match tokio::time::timeout(limit, granted).await {
            Ok(Ok(())) => {
                wait.answered = true;
                Ok(())
            }
            _ => Err(Refused::TimedOut),
        }
    }

    /// Gives it back; whether it was held.
    pub(super) fn release(&self, key: &Key, who: Who) -> bool {
        self.lock().semaphores.get_mut(key).is_some_and(|semaphore| semaphore.release(who.invocation))
    }

    /// Gives back all that a process held: it has ended.
    pub(super) fn release_all(&self, invocation: u64) -> Vec<String> {
        let mut names = Vec::new();
        for (key, semaphore) in &mut self.lock().semaphores {
            semaphore.waiting.retain(|waiter| waiter.who.invocation != invocation);
            if semaphore.release(invocation) {
                names.push(key.name.clone());
            }
        }
        names.sort();
        names
    }

    /// How it stands; one that nobody asked for is free.
    pub(super) fn state(&self, key: &Key) -> State {
        match self.lock().semaphores.get(key) {
            None => State { capacity: 1, holders: Vec::new(), waiting: 0 },
            Some(semaphore) => State {
                capacity: semaphore.capacity,
                holders: semaphore.holders.iter().map(|holder| holder.who.alloc_id).collect(),
                waiting: semaphore.waiting.len(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use uuid::Uuid;

    const LONG: Duration = Duration::from_secs(60);

    fn key(name: &str) -> Key {
        Key { job: "api".parse().unwrap(), event: HookEvent::Cli, name: name.into() }
    }

    fn who(n: u64) -> Who {
        Who { invocation: n, alloc_id: AllocId::from_uuid(Uuid::from_u128(u128::from(n))) }
    }

    async fn queued(all: &Semaphores, waiting: usize) {
        while all.state(&key("a")).waiting != waiting {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_at_a_time_in_the_order_of_asking() {
        let all = Arc::new(Semaphores::default());
        all.acquire(key("a"), who(1), 1, LONG).await.unwrap();
        all.acquire(key("a"), who(1), 1, LONG).await.unwrap();
        assert_eq!(all.acquire(key("a"), who(2), 2, LONG).await, Err(Refused::Capacity(1)));
        let mut waits = Vec::new();
        for n in 2..5 {
            let all_ = all.clone();
            waits.push(tokio::spawn(async move { all_.acquire(key("a"), who(n), 1, LONG).await }));
            queued(&all, usize::try_from(n).unwrap() - 1).await;
        }
        for (n, wait) in (1..).zip(waits) {
            assert_eq!(all.state(&key("a")).holders, [who(n).alloc_id]);
            assert!(all.release(&key("a"), who(n)));
            assert!(!all.release(&key("a"), who(n)), "given back once");
            wait.await.unwrap().unwrap();
        }
        assert_eq!(all.state(&key("never")), State { capacity: 1, holders: vec![], waiting: 0 });
        assert_eq!(all.release_all(4), ["a"]);
        assert_eq!(all.state(&key("a")).holders, []);
    }

    #[tokio::test]
    async fn neither_a_time_limit_nor_a_client_that_goes_away_loses_a_place() {
        let all = Arc::new(Semaphores::default());
        all.acquire(key("a"), who(1), 1, LONG).await.unwrap();
        let short = Duration::from_millis(5);
        assert_eq!(all.acquire(key("a"), who(2), 1, short).await, Err(Refused::TimedOut));
        assert_eq!(all.state(&key("a")).waiting, 0, "it is out of the queue");
        // Granted, and gone before it heard of it: the place goes to the next one.
        let mut gone = Box::pin(all.acquire(key("a"), who(2), 1, LONG));
        assert!(std::future::poll_fn(|context| std::task::Poll::Ready(gone.as_mut().poll(context))).await.is_pending());
        let all_ = all.clone();
        let next = tokio::spawn(async move { all_.acquire(key("a"), who(3), 1, LONG).await });
        queued(&all, 2).await;
        assert!(all.release(&key("a"), who(1)));
        assert_eq!(all.state(&key("a")).holders, [who(2).alloc_id]);
        drop(gone);
        next.await.unwrap().unwrap();
        assert_eq!(all.state(&key("a")).holders, [who(3).alloc_id]);
    }

    #[tokio::test]
    async fn a_process_that_asks_twice_holds_it_once() {
        let all = Arc::new(Semaphores::default());
        all.acquire(key("a"), who(1), 1, LONG).await.unwrap();
        let waits: Vec<_> = (0..2)
            .map(|_| {
                let all = all.clone();
                tokio::spawn(async move { all.acquire(key("a"), who(2), 1, LONG).await })
            })
            .collect();
        queued(&all, 2).await;
        assert_eq!(all.release_all(1), ["a"]);
        for wait in waits {
            wait.await.unwrap().unwrap();
        }
        assert_eq!(all.state(&key("a")).holders, [who(2).alloc_id]);
        assert!(all.release(&key("a"), who(2)));
        assert_eq!(all.state(&key("a")).holders, []);
    }

    #[tokio::test]
    async fn names_have_a_bound() {
        let all = Semaphores::default();
        for n in 0..MAX_NAMES {
            all.acquire(key(&n.to_string()), who(1), 1, LONG).await.unwrap();
        }
        assert_eq!(all.acquire(key("one more"), who(1), 1, LONG).await, Err(Refused::Names));
        all.acquire(key("7"), who(1), 1, LONG).await.unwrap();
    }
}
