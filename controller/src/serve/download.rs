//! Packs on their way: few at once for one worker, not too many private bytes in memory for all, and an
//! end to each however slowly it is taken. A download that is cut goes on where it stopped.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use shared::WorkerId;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Packs of one worker at once. An agent fetches one after the other, and early ones beside them.
const PER_WORKER: u32 = 4;
/// Private bytes in memory at once, KiB.
const PRIVATE_KIB: usize = 256 << 10;
/// How long a download may take: this, and what its length takes at [`SLOWEST`].
const GRACE: Duration = Duration::from_secs(60);
/// Bytes a second.
const SLOWEST: u64 = 8 << 10;

/// The downloads of a server.
#[derive(Debug, Clone)]
pub(crate) struct Downloads {
    workers: Arc<Mutex<HashMap<WorkerId, u32>>>,
    private: Arc<Semaphore>,
}

/// One download's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Download {
    workers: Arc<Mutex<HashMap<WorkerId, u32>>>,
    worker: WorkerId,
    private: Option<OwnedSemaphorePermit>,
}

impl Default for Downloads {
    fn default() -> Self {
        Self { workers: Arc::default(), private: Arc::new(Semaphore::new(PRIVATE_KIB)) }
    }
}

impl Downloads {
    /// A place for one more of `worker`; `None` when it has enough of them.
    pub(crate) fn begin(&self, worker: WorkerId) -> Option<Download> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let own = workers.entry(worker).or_insert(0);
        if *own >= PER_WORKER {
            return None;
        }
        *own += 1;
        drop(workers);
        Some(Download { workers: self.workers.clone(), worker, private: None })
    }

    /// Room for `bytes` of private content, waited for; false when there is none for long.
    pub(crate) async fn has_room(&self, download: &mut Download, bytes: u64, patience: Duration) -> bool {
        let kib = bytes.div_ceil(1024).min(PRIVATE_KIB as u64);
        let room = self.private.clone().acquire_many_owned(u32::try_from(kib).unwrap_or(u32::MAX));
        match tokio::time::timeout(patience, room).await {
            Ok(Ok(permit)) => {
                download.private = Some(permit);
                true
            }
            _ => false,
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = workers.get_mut(&self.worker) {
            *own -= 1;
            if *own == 0 {
                workers.remove(&self.worker);
            }
        }
    }
}

/// The bytes of a download, which ends with an error when it takes too long.
#[derive(Debug)]
pub(crate) struct Paced<R> {
    inner: R,
    end: Pin<Box<Sleep>>,
    _download: Download,
}

impl<R> Paced<R> {
    /// `inner` has `len` bytes.
    pub(crate) fn new(inner: R, len: u64, download: Download) -> Self {
        let end = Box::pin(sleep(GRACE + Duration::from_secs(len / SLOWEST)));
        Self { inner, end, _download: download }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Paced<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the download took too long")));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    fn worker(n: u128) -> WorkerId {
        WorkerId::from_uuid(uuid::Uuid::from_u128(n))
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_for_each_worker_and_all_places_come_back() {
        let downloads = Downloads::default();
        let held: Vec<_> = (0..10).filter_map(|_| downloads.begin(worker(1))).collect();
        assert_eq!(held.len(), 4);
        assert!(downloads.begin(worker(2)).is_some());
        drop(held);
        assert!(downloads.workers.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn private_bytes_in_memory_are_bounded() {
        let downloads = Downloads::default();
        let patience = Duration::from_secs(20);
        let mut held = Vec::new();
        for n in 0..4 {
            let mut download = downloads.begin(worker(n)).unwrap();
            assert!(downloads.has_room(&mut download, 64 << 20, patience).await);
            held.push(download);
        }
        let mut more = downloads.begin(worker(9)).unwrap();
        assert!(!downloads.has_room(&mut more, 1, patience).await);
        held.pop();
        assert!(downloads.has_room(&mut more, 64 << 20, patience).await);
    }

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "the clock of the test is tokio's, and paused")]
    async fn a_download_ends_however_slowly_it_is_taken() {
        let download = Downloads::default().begin(worker(1)).unwrap();
        let mut paced = Paced::new(tokio::io::repeat(7), 80 << 10, download);
        let begin = tokio::time::Instant::now();
        let mut read = 0;
        let error = loop {
            match paced.read(&mut [0; 100]).await {
                Ok(count) => read += count,
                Err(error) => break error,
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        assert_eq!((error.kind(), begin.elapsed().as_secs(), read), (io::ErrorKind::TimedOut, 70, 7000));
    }
}
