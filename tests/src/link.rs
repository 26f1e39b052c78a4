//! The way between an agent and its controller, as bad as a test wants it: cut again and again, silent in one
//! direction or both, slow. What is in it is TLS, so that whatever else it did to the bytes would be a cut.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::agents::Agent;
use crate::bucket::Bucket;

/// What is sent and not taken yet when a connection is cut is lost, at most this on either socket (the kernel
/// doubles it).
const BUFFER: u32 = 32 << 10;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the agent to the controller.
    Up,
    /// From the controller to the agent.
    Down,
}

#[derive(Debug)]
struct Direction {
    bytes: AtomicU64,
    flows: watch::Sender<bool>,
}

impl Default for Direction {
    fn default() -> Self {
        Self { bytes: AtomicU64::new(0), flows: watch::Sender::new(true) }
    }
}

#[derive(Debug, Default)]
struct State {
    up: Direction,
    down: Direction,
    /// Bytes downwards between two cuts, and those since the last; 0: it is not cut.
    every: Mutex<(u64, u64)>,
    /// How many cuts there were.
    cuts: watch::Sender<u64>,
    /// Bytes a second downwards on one connection; 0: as many as there are.
    rate: AtomicU64,
}

/// A forwarder of connections; it ends when this is dropped.
#[derive(Debug)]
pub struct Link {
    state: Arc<State>,
    address: SocketAddr,
    controller: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Link {
    /// A link to the bucket's controller, good at first.
    pub fn to(bucket: &Bucket) -> Self {
        let controller: SocketAddr = (bucket.address(1), bucket.port()).into();
        let address: SocketAddr = (bucket.address(254), bucket.port()).into();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let state = Arc::new(State::default());
        let listener = runtime.block_on(async { listen(address) });
        let held = state.clone();
        runtime.spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                tokio::spawn(carry(held.clone(), near, controller));
            }
        });
        Self { state, address, controller, _runtime: runtime }
    }

    /// Has the agent speak over this link from its next start on.
    pub fn carries(&self, agent: &Agent) {
        let settings = std::fs::read_to_string(agent.settings()).unwrap();
        let changed = settings.replace(&self.controller.to_string(), &self.address.to_string());
        assert_ne!(settings, changed, "its controller is named in it");
        std::fs::write(agent.settings(), changed).unwrap();
    }

    /// From now on all connections are cut whenever so many bytes have gone downwards.
    pub fn cut_every(&self, bytes: u64) {
        *self.state.every.lock().unwrap() = (bytes, 0);
    }

    /// Bytes a second downwards on one connection, from now on.
    pub fn at_most(&self, bytes: u64) {
        self.state.rate.store(bytes, Ordering::SeqCst);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Nothing arrives any more in a direction, and nobody is told: what is sent waits.
    pub fn silence(&self, way: Way) {
        self.direction(way).flows.send_replace(false);
    }

    /// It flows again, what waits first.
    pub fn flow(&self, way: Way) {
        self.direction(way).flows.send_replace(true);
    }

    /// How often it was cut.
    pub fn cuts(&self) -> u64 {
        *self.state.cuts.borrow()
    }

    /// Bytes that went in a direction.
    pub fn bytes(&self, way: Way) -> u64 {
        self.direction(way).bytes.load(Ordering::SeqCst)
    }

    fn direction(&self, way: Way) -> &Direction {
        match way {
            Way::Up => &self.state.up,
            Way::Down => &self.state.down,
        }
    }
}

impl State {
    /// How many of `count` bytes still go downwards, and whether the link is cut then.
    fn left(&self, count: usize) -> (usize, bool) {
        let mut every = self.every.lock().unwrap();
        if every.0 == 0 {
            return (count, false);
        }
        let left = every.0 - every.1;
        if (count as u64) < left {
            every.1 += count as u64;
            return (count, false);
        }
        every.1 = 0;
        (usize::try_from(left).unwrap(), true)
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    // Each connection of it has the same.
    socket.set_send_buffer_size(BUFFER).unwrap();
    socket.bind(address).unwrap();
    socket.listen(64).unwrap()
}

async fn carry(state: Arc<State>, mut near: TcpStream, controller: SocketAddr) {
    let mut cut = state.cuts.subscribe();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(BUFFER).unwrap();
    socket.set_recv_buffer_size(BUFFER).unwrap();
    let Ok(mut far) = socket.connect(controller).await else { return };
    drop((near.set_nodelay(true), far.set_nodelay(true)));
    {
        let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
        let both = async {
            tokio::join!(pump(&state, Way::Up, near_read, far_write), pump(&state, Way::Down, far_read, near_write));
        };
        until_cut(both, &mut cut).await;
    }
    // As a link does that is gone: what is on its way is lost, and both ends learn of it.
    drop((near.set_zero_linger(), far.set_zero_linger()));
}

async fn until_cut(both: impl Future<Output = ()>, cut: &mut watch::Receiver<u64>) {
    tokio::select! {
        () = both => {}
        _ = cut.changed() => {}
    }
}

async fn pump(state: &State, way: Way, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
    let direction = if way == Way::Up { &state.up } else { &state.down };
    let mut flows = direction.flows.subscribe();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        if flows.wait_for(|flows| *flows).await.is_err() {
            return;
        }
        let (count, is_cut) = if way == Way::Down { state.left(count) } else { (count, false) };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        direction.bytes.fetch_add(count as u64, Ordering::SeqCst);
        if is_cut {
            state.cuts.send_modify(|cuts| *cuts += 1);
            return std::future::pending().await;
        }
        let rate = state.rate.load(Ordering::SeqCst);
        if way == Way::Down && rate > 0 {
            tokio::time::sleep(Duration::from_secs_f64(count as f64 / rate as f64)).await;
        }
    }
    drop(to.shutdown().await);
}

/// Bytes that do not compress, others for each seed: what is sent over it has its whole length.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}
