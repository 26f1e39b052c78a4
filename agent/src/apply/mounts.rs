//! Which files of a job's directory are mounted by themselves somewhere (`docker run -v …/app.conf:…`).
//! Renaming over such a file leaves the container on the old content, so it is written in place
//! when nothing is restarted. Directories that are mounted need no such care: they are never replaced.

use std::collections::BTreeSet;

use shared::RelPath;

/// A line of proc_pid_mountinfo(5), as far as it is needed.
struct Mount {
    device: String,
    /// What of the file system is mounted.
    root: Vec<u8>,
    /// Where.
    point: Vec<u8>,
}

/// The files below `dir` (absolute, no links in it) that one of `others` has as a mount of its own.
/// `own` and `others` are texts of mountinfo; only their device and path within it are compared,
/// which are the same in every mount namespace.
pub fn mounted_files<'a>(
    dir: &[u8],
    own: &'a [u8],
    others: impl IntoIterator<Item = &'a [u8]>,
    files: &BTreeSet<RelPath>,
) -> BTreeSet<RelPath> {
    // The last of equally long mount points is the one on top.
    let holder = mounts(own).filter(|mount| below(&mount.point, dir).is_some()).max_by_key(|mount| mount.point.len());
    let Some((holder, rest)) =
        holder.and_then(|mount| below(&mount.point, dir).map(<[u8]>::to_vec).map(|r| (mount, r)))
    else {
        return BTreeSet::new();
    };
    let base = join(&holder.root, &rest);
    let mut found = BTreeSet::new();
    for text in std::iter::once(own).chain(others) {
        for mount in mounts(text).filter(|mount| mount.device == holder.device) {
            let Some(path) = below(&base, &mount.root) else { continue };
            let path = std::str::from_utf8(path).ok().and_then(|path| path.parse::<RelPath>().ok());
            found.extend(path.filter(|path| files.contains(path)));
        }
    }
    found
}

fn mounts(text: &[u8]) -> impl Iterator<Item = Mount> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        Some(Mount { device, root: unescaped(fields.next()?), point: unescaped(fields.next()?) })
    })
}

/// What is left of `path` below `base`, without a slash in front; empty for `base` itself.
fn below<'a>(base: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let base = base.strip_suffix(b"/").unwrap_or(base);
    let rest = path.strip_prefix(base)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

fn join(base: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut path = base.strip_suffix(b"/").unwrap_or(base).to_vec();
    if !rest.is_empty() {
        path.push(b'/');
        path.extend_from_slice(rest);
    }
    path
}

/// The kernel writes blank, tab, newline and backslash as `\ooo`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *byte == b'\\');
        let octal = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*byte));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "24 1 254:0 / / rw - ext4 /dev/vda rw\n\
        30 24 254:16 /vol /opt/my\\040worker rw - ext4 /dev/vdb rw\n";
    const CONTAINER: &str = "90 80 0:50 / / rw - overlay overlay rw\n\
        91 90 254:16 /vol/b/jobs/api/app.conf /etc/app.conf rw - ext4 /dev/vdb rw\n\
        92 90 254:16 /vol/b/jobs/api/old.conf//deleted /etc/old.conf rw - ext4 /dev/vdb rw\n\
        93 90 254:16 /vol/b/jobs/api/conf.d /etc/conf.d rw - ext4 /dev/vdb rw\n\
        94 90 254:16 /vol/b/jobs/apis/app.conf /x rw - ext4 /dev/vdb rw\n\
        95 90 254:0 /vol/b/jobs/api/other.conf /y rw - ext4 /dev/vda rw\n";

    #[test]
    fn a_file_that_a_container_mounted_is_found_by_its_place_in_the_file_system() {
        let files = ["app.conf", "old.conf", "other.conf", "conf.d/a", "Makefile"];
        let files = files.iter().map(|path| path.parse().unwrap()).collect();
        let found = mounted_files(b"/opt/my worker/b/jobs/api", OWN.as_bytes(), [CONTAINER.as_bytes()], &files);
        assert_eq!(found.iter().map(RelPath::as_str).collect::<Vec<_>>(), ["app.conf"]);
        let found = mounted_files(b"/srv", OWN.as_bytes(), [CONTAINER.as_bytes()], &files);
        assert!(found.is_empty());
    }
}
