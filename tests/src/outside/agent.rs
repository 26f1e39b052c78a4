//! What an agent reads on its worker.

use std::collections::BTreeSet;

use ::agent::apply::mounts::mounted_files;
use shared::RelPath;

/// Texts of mountinfo: the agent's own, and behind a line of `--` that of another process.
pub(super) fn mountinfo(bytes: &[u8]) {
    let files: BTreeSet<RelPath> =
        ["app.conf", "conf.d/a", "Makefile"].iter().map(|path| path.parse().unwrap()).collect();
    let middle = bytes.windows(4).position(|window| window == b"\n--\n");
    let (own, other) = middle.map_or((bytes, &b""[..]), |at| (&bytes[..at], &bytes[at + 4..]));
    let found = mounted_files(b"/opt/worker/b/jobs/api", own, [other], &files);
    assert!(found.is_subset(&files));
}
