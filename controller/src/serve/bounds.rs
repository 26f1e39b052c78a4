//! How many connections there may be, of whom: counted before anything is read from them, in three
//! classes. While they shake hands nobody knows who they are; who shows no agent's certificate may
//! enrol, briefly; agents have most of the room, and each of them a little of it
//! (`design/security.md` 1.3, "Network abuse of the controller").

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use shared::WorkerId;
use tokio::sync::Notify;

/// The numbers. [`Limits::of`] has those of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) total: u32,
    /// Of one address: a site of workers may be behind one.
    pub(crate) per_address: u32,
    /// In their handshake, which is given a few seconds.
    pub(crate) shaking: u32,
    /// Of one address.
    pub(crate) shaking_per_address: u32,
    /// Without an agent's certificate.
    pub(crate) strangers: u32,
    /// Of one address.
    pub(crate) strangers_per_address: u32,
    /// Of one worker. A newer one takes the oldest one's place: the ends of connections that a
    /// firewall forgot may be there for minutes.
    pub(crate) per_worker: usize,
}

impl Limits {
    /// With what is left of `descriptors` when the catalog, the store and the logs have theirs.
    pub(crate) fn of(descriptors: u64) -> Self {
        let room = descriptors.saturating_sub(256).max(64);
        Self {
            total: u32::try_from(room).unwrap_or(u32::MAX).min(16_384),
            per_address: 4096,
            shaking: 2048,
            shaking_per_address: 512,
            strangers: 256,
            strangers_per_address: 64,
            per_worker: 16,
        }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    total: u32,
    shaking: u32,
    strangers: u32,
}

impl Count {
    fn of(&mut self, class: Class) -> Option<&mut u32> {
        match class {
            Class::Shaking => Some(&mut self.shaking),
            Class::Stranger => Some(&mut self.strangers),
            Class::Agent(_) => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Shaking,
    Stranger,
    Agent(WorkerId),
}

#[derive(Debug, Default)]
struct Counts {
    all: Count,
    addresses: HashMap<IpAddr, Count>,
    workers: HashMap<WorkerId, VecDeque<(u64, Arc<Notify>)>>,
    next: u64,
}

impl Counts {
    fn leave(&mut self, address: IpAddr, class: Class) {
        if let Some(count) = self.all.of(class) {
            *count -= 1;
        }
        if let Some(count) = self.addresses.get_mut(&address).and_then(|counts| counts.of(class)) {
            *count -= 1;
        }
    }

    fn join(&mut self, address: IpAddr, class: Class) {
        if let Some(count) = self.all.of(class) {
            *count += 1;
        }
        if let Some(count) = self.addresses.entry(address).or_default().of(class) {
            *count += 1;
        }
    }
}

/// The connections of a server.
#[derive(Debug)]
pub(crate) struct Bounds {
    limits: Limits,
    counts: Mutex<Counts>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    bounds: Arc<Bounds>,
    address: IpAddr,
    class: Class,
    id: u64,
}

impl Bounds {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, counts: Mutex::default() })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that is about to shake hands; `None` when there is none.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let limits = self.limits;
        let mut counts = self.counts();
        let all = counts.all;
        let own = counts.addresses.get(&address).copied().unwrap_or_default();
        let is_full = all.total >= limits.total
            || own.total >= limits.per_address
            || all.shaking >= limits.shaking
            || own.shaking >= limits.shaking_per_address;
        if is_full {
            return None;
        }
        counts.all.total += 1;
        counts.addresses.entry(address).or_default().total += 1;
        counts.join(address, Class::Shaking);
        counts.next += 1;
        let id = counts.next;
        drop(counts);
        Some(Place { bounds: self.clone(), address, class: Class::Shaking, id })
    }
}

impl Place {
    /// It has no agent's certificate. False when there are enough of those: it is to be closed.
    pub(crate) fn is_stranger(&mut self) -> bool {
        let limits = self.bounds.limits;
        let mut counts = self.bounds.counts();
        let own = counts.addresses.get(&self.address).copied().unwrap_or_default();
        if counts.all.strangers >= limits.strangers || own.strangers >= limits.strangers_per_address {
            return false;
        }
        counts.leave(self.address, self.class);
        counts.join(self.address, Class::Stranger);
        drop(counts);
        self.class = Class::Stranger;
        true
    }

    /// It is `worker`'s. What is returned is told when the connection has to make room for a newer one.
    pub(crate) fn is_agent(&mut self, worker: WorkerId) -> Arc<Notify> {
        let told = Arc::new(Notify::new());
        let mut counts = self.bounds.counts();
        counts.leave(self.address, self.class);
        let own = counts.workers.entry(worker).or_default();
        own.push_back((self.id, told.clone()));
        if own.len() > self.bounds.limits.per_worker
            && let Some((_, oldest)) = own.pop_front()
        {
            oldest.notify_one();
        }
        drop(counts);
        self.class = Class::Agent(worker);
        told
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.bounds.counts();
        counts.leave(self.address, self.class);
        counts.all.total -= 1;
        if let Some(own) = counts.addresses.get_mut(&self.address) {
            own.total -= 1;
            if own.total == 0 {
                counts.addresses.remove(&self.address);
            }
        }
        if let Class::Agent(worker) = self.class
            && let Some(own) = counts.workers.get_mut(&worker)
        {
            own.retain(|(id, _)| *id != self.id);
            if own.is_empty() {
                counts.workers.remove(&worker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        total: 10,
        per_address: 6,
        shaking: 5,
        shaking_per_address: 4,
        strangers: 3,
        strangers_per_address: 2,
        per_worker: 2,
    };

    fn address(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    fn worker(n: u128) -> WorkerId {
        WorkerId::from_uuid(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn those_that_never_end_their_handshake_leave_room_for_other_addresses() {
        let bounds = Bounds::new(LIMITS);
        let held: Vec<_> = (0..100).filter_map(|_| bounds.enter(address(1))).collect();
        assert_eq!(held.len(), 4);
        let other = bounds.enter(address(2));
        assert!(other.is_some());
        assert!(bounds.enter(address(3)).is_none(), "five in all");
        drop(held);
        assert!(bounds.enter(address(3)).is_some(), "places come back");
    }

    #[test]
    fn strangers_have_little_room_and_agents_the_rest() {
        let bounds = Bounds::new(LIMITS);
        let mut held = Vec::new();
        for (from, may) in [(1, true), (1, true), (1, false), (2, true), (3, false)] {
            let mut place = bounds.enter(address(from)).unwrap();
            assert_eq!(place.is_stranger(), may, "from {from}");
            if may {
                held.push(place);
            }
        }
        for n in 0..7 {
            let mut place = bounds.enter(address(4 + (n / 5) as u8)).unwrap();
            place.is_agent(worker(n));
            held.push(place);
        }
        assert!(bounds.enter(address(9)).is_none(), "ten in all");
        drop(held);
        let counts = bounds.counts();
        assert!(counts.addresses.is_empty() && counts.workers.is_empty());
        assert_eq!((counts.all.total, counts.all.shaking, counts.all.strangers), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_worker_has_a_few_and_the_oldest_makes_room() {
        let bounds = Bounds::new(LIMITS);
        let mut held = Vec::new();
        let mut told = Vec::new();
        for _ in 0..4 {
            let mut place = bounds.enter(address(1)).unwrap();
            told.push(place.is_agent(worker(1)));
            held.push(place);
        }
        // Would wait for ever if nobody had told them.
        told[0].notified().await;
        told[1].notified().await;
        assert_eq!(bounds.counts().workers[&worker(1)].len(), 2);
        drop(held);
        assert!(bounds.counts().workers.is_empty());
    }

    #[test]
    fn descriptors_bound_it_too() {
        assert_eq!(Limits::of(1024).total, 768);
        assert_eq!(Limits::of(1 << 20).total, 16_384);
        assert_eq!(Limits::of(10).total, 64);
    }
}
