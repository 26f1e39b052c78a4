//! Edge: gets what is missing: a bundle's list, then a pack of the blobs that neither the store nor
//! the live tree has. Hashed while written; a wrong byte never gets a name in the store.
#![expect(clippy::disallowed_methods, reason = "edge: the store")]
#![expect(clippy::disallowed_types, reason = "edge: the store")]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use shared::api::v1::want::{BundleAnswer, WantList};
use shared::backoff::Backoff;
use shared::pack::{self, PackError, Sink};
use shared::{BlobDigest, Bundle, BundleDigest, Entry};
use thiserror::Error;
use tokio::runtime::Handle;

use crate::apply::tree::Tree;
use crate::client::{Client, Failed};
use crate::state::durable;
use crate::state::layout::Layout;
use crate::{clock, failpoint};

/// Bytes that a pack may have beyond its content: headers, and what does not compress.
const PACK_SLACK: u64 = 1 << 20;

/// A try that brought so many bytes before it was cut off is gone on with at once: the link breaks, and works.
const PROGRESS: u64 = 64 << 10;
/// The pause before that.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));

/// What the files of early downloads begin with.
pub const EARLY: &str = "early-";

/// Why something could not be fetched. All of it is tried again.
#[derive(Debug, Error)]
pub enum Error {
    /// The controller.
    #[error("fetching {what}")]
    Call {
        /// A list, or a pack.
        what: &'static str,
        /// Why not.
        source: Failed,
    },
    /// The list is not the one that was asked for.
    #[error("the list of bundle {digest} is wrong")]
    List {
        /// Which.
        digest: BundleDigest,
        /// Why.
        source: shared::bundle::BundleError,
    },
    /// The pack is not what was asked for.
    #[error("the pack is wrong")]
    Pack(#[source] PackError),
    /// The agent's own files.
    #[error("cannot {operation} {}", path.display())]
    Store {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The list of `digest`, by its difference from what is in place where there is something.
pub fn list(
    net: &Handle,
    client: &Client,
    layout: &Layout,
    digest: BundleDigest,
    base: Option<(BundleDigest, &Bundle)>,
) -> Result<Bundle, Error> {
    let scratch = scratch(layout)?;
    let answer = net.block_on(client.bundle(&digest, base.map(|(base, _)| base).as_ref(), scratch));
    let answer = answer.map_err(|source| Error::Call { what: "a bundle's list", source })?;
    let wrong = |source| Error::List { digest, source };
    let bundle = match (answer, base) {
        (BundleAnswer::Full(bundle), _) => bundle.checked(digest).map_err(wrong)?,
        (BundleAnswer::Diff { base: named, diff }, Some((base, list))) if named == base => {
            list.patched(diff, digest).map_err(wrong)?
        }
        (BundleAnswer::Diff { .. }, _) => Bundle::default().checked(digest).map_err(wrong)?,
    };
    failpoint::hit("fetch::after_list");
    Ok(bundle)
}

/// An empty file without a name: nobody else can mean the same one, and it is gone with whoever has it open.
fn scratch(layout: &Layout) -> Result<File, Error> {
    let own = layout.own();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(&own, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => Ok(File::from(file)),
        // A file system that has none such, or a kernel: it says so in one of these ways.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => named_scratch(layout),
        Err(error) => Err(Error::Store { operation: "open a file in", path: own, source: error.into() }),
    }
}

/// The same where every file has a name: one that is this call's alone, and taken away at once. An agent that is
/// ended in between leaves it for [`prune`].
fn named_scratch(layout: &Layout) -> Result<File, Error> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let name = format!("list-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = layout.download(&name);
        let failed = |operation| {
            let path = path.clone();
            move |source| Error::Store { operation, path, source }
        };
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            // An earlier agent's, with the same pid.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => {
                let file = opened.map_err(failed("open"))?;
                match std::fs::remove_file(&path) {
                    // Somebody tidied up.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove")(error)),
                    _ => return Ok(file),
                }
            }
        }
    }
}

/// Brings every blob of `wanted` (digest → length, private or not) into the store. `by` keeps the files
/// of two fetches apart that go on at once.
pub fn blobs(
    net: &Handle,
    client: &Client,
    layout: &Layout,
    wanted: &BTreeMap<(bool, BlobDigest), u64>,
    by: &str,
) -> Result<(), Error> {
    for private in [false, true] {
        let wants: BTreeMap<BlobDigest, u64> = wanted
            .iter()
            .filter(|((of, blob), _)| *of == private && !layout.blob(blob).is_file())
            .map(|((_, blob), len)| (*blob, *len))
            .collect();
        if !wants.is_empty() {
            fetch_pack(net, client, layout, &wants, private, by)?;
        }
    }
    Ok(())
}

fn fetch_pack(
    net: &Handle,
    client: &Client,
    layout: &Layout,
    wants: &BTreeMap<BlobDigest, u64>,
    private: bool,
    by: &str,
) -> Result<(), Error> {
    let name = format!("{by}{}", pack::digest(wants.keys().copied()).hex());
    let path = layout.download(&name);
    let tag_path = layout.download(&format!("{name}.etag"));
    let failed = |operation, path: &PathBuf| {
        let path = path.clone();
        move |source| Error::Store { operation, path, source }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    let cap = wants.values().sum::<u64>().saturating_add(wants.len() as u64 * 1024).saturating_add(PACK_SLACK);
    let want = WantList { blobs: wants.keys().copied().collect(), private };
    let mut most = 0;
    loop {
        // What an earlier try brought is gone on with, if it is of the very same pack.
        let have = file.metadata().map_err(failed("measure", &path))?.len();
        let tag = std::fs::read_to_string(&tag_path).ok();
        let began = {
            let file = file.try_clone().map_err(failed("open", &path))?;
            let tag_path = tag_path.clone();
            move |tag: Option<String>, resumed: bool| {
                if !resumed {
                    file.set_len(0)?;
                }
                match tag {
                    // Only a download that takes longer than a moment needs to be gone on with; the tag
                    // is written without being flushed: a lost one costs bytes, never correctness.
                    Some(tag) => std::fs::write(&tag_path, tag),
                    None => Ok(()),
                }
            }
        };
        most = have.max(most);
        let Err(source) = net.block_on(client.pack(&want, have, tag.as_deref(), cap, began, &mut file)) else { break };
        // A controller that is busy, or had trouble, has the rest of the same pack later.
        if matches!(&source, Failed::TooLong(_) | Failed::Refused { status: ..429, .. }) {
            drop(std::fs::remove_file(&path));
        }
        let has = file.metadata().map_err(failed("measure", &path))?.len();
        // Each try has more than any before it, so they are few. A controller that wants this pack here no more
        // refuses the next one.
        if !matches!(&source, Failed::Transport(_) | Failed::TooSlow(..)) || has < most.saturating_add(PROGRESS) {
            return Err(Error::Call { what: "a pack", source });
        }
        tracing::debug!(has, error = shared::diagnostic::chain(&source), "pack_cut_off");
        std::thread::sleep(AGAIN.delay(1, clock::random()));
    }
    failpoint::hit("fetch::after_pack");
    let read = File::open(&path).map_err(failed("open", &path))?;
    let unpacked = pack::read(io::BufReader::with_capacity(64 << 10, read), wants, &mut Store { layout, by });
    // Good or bad, these bytes have served.
    drop(std::fs::remove_file(&path));
    drop(std::fs::remove_file(&tag_path));
    unpacked.map_err(Error::Pack)
}

/// Copies blobs that other files of the live tree have into the store: a renamed file is not fetched.
pub fn reuse<'a>(
    tree: &Tree,
    layout: &Layout,
    last: impl Iterator<Item = &'a Entry>,
    wanted: &mut BTreeMap<(bool, BlobDigest), u64>,
) {
    for entry in last {
        let key = (entry.private, entry.blob);
        if wanted.contains_key(&key) && !layout.blob(&entry.blob).is_file() {
            let copy = || -> io::Result<bool> {
                // Not more of it than there should be: its owner may have made it of any length.
                let mut file = tree.read(&entry.path)?.take(entry.len.saturating_add(1));
                let mut sink = Store { layout, by: "" };
                let mut writer = shared::digest::HashingWriter::new(sink.begin(&entry.blob, entry.len)?);
                io::copy(&mut file, &mut writer)?;
                let (blob, digest, _) = writer.finish();
                let same = digest == entry.blob;
                if same {
                    sink.commit(&digest, blob)?;
                }
                Ok(same)
            };
            // Not there, or edited: then it is fetched.
            if copy().is_ok_and(|same| same) {
                wanted.remove(&key);
            }
        }
    }
}

struct Store<'a> {
    layout: &'a Layout,
    by: &'a str,
}

/// A blob on its way into the store; its temporary goes if it does not get there.
struct Incoming {
    file: File,
    temporary: PathBuf,
    kept: bool,
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.kept {
            drop(std::fs::remove_file(&self.temporary));
        }
    }
}

impl Sink for Store<'_> {
    type Blob = Incoming;

    fn begin(&mut self, digest: &BlobDigest, _: u64) -> io::Result<Incoming> {
        let path = self.layout.blob(digest);
        if let Some(dir) = path.parent().filter(|dir| !dir.is_dir()) {
            durable::private_dir(dir)?;
        }
        let temporary = path.with_extension(format!("{}tmp{}", self.by, std::process::id()));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        Ok(Incoming { file, temporary, kept: false })
    }

    fn commit(&mut self, digest: &BlobDigest, mut blob: Incoming) -> io::Result<()> {
        // Not flushed: activate hashes what it takes from here, and a blob that a power cut tore is
        // dropped there and fetched again.
        failpoint::hit("store::before_rename");
        std::fs::rename(&blob.temporary, self.layout.blob(digest))?;
        blob.kept = true;
        Ok(())
    }
}

/// Removes blobs that no bundle of `keep` names, and packs that nobody goes on with: nothing is being fetched but
/// what is fetched early.
pub fn prune(layout: &Layout, keep: &[&Bundle]) -> io::Result<()> {
    let early = format!("pack-{EARLY}");
    for file in std::fs::read_dir(layout.own())? {
        let file = file?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("pack-") && !name.starts_with(&early) {
            std::fs::remove_file(file.path())?;
        }
    }
    let keep: std::collections::BTreeSet<String> =
        keep.iter().flat_map(|bundle| bundle.entries()).map(|entry| entry.blob.hex()).collect();
    let store = layout.store();
    if !store.is_dir() {
        return Ok(());
    }
    for dir in std::fs::read_dir(store)? {
        for blob in std::fs::read_dir(dir?.path())? {
            let blob = blob?;
            if !keep.contains(&*blob.file_name().to_string_lossy()) {
                std::fs::remove_file(blob.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use shared::BucketId;

    use super::*;

    #[test]
    fn two_lists_that_come_at_once_have_a_file_each_and_leave_none() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), BucketId::from_uuid(uuid::Uuid::from_u128(1)));
        durable::private_dir(&layout.own()).unwrap();
        // What an agent with this pid left that was ended between the two steps.
        std::fs::write(layout.download(&format!("list-{}-0", std::process::id())), "old").unwrap();
        for make in [scratch as fn(&Layout) -> Result<File, Error>, named_scratch] {
            let make = |text: String| {
                let mut file = make(&layout).unwrap();
                file.write_all(text.as_bytes()).unwrap();
                (file, text)
            };
            let made: Vec<_> = std::thread::scope(|scope| {
                let each: Vec<_> = (0..16).map(|n| scope.spawn(move || make(format!("list {n}")))).collect();
                each.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for (mut file, text) in made {
                let mut read = String::new();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.read_to_string(&mut read).unwrap();
                assert_eq!(read, text);
            }
        }
        let left: Vec<_> = std::fs::read_dir(layout.own()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left.len(), 1, "{left:?}");
        prune(&layout, &[]).unwrap();
        assert_eq!(std::fs::read_dir(layout.own()).unwrap().count(), 0);
    }
}
