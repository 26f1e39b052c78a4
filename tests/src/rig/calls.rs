//! System calls as a tracer sees them: which one a thread is about to make, and how to have it fail. Knows
//! x86-64; elsewhere the rig says so.

use std::path::Path;

use nix::unistd::Pid;

#[cfg(target_arch = "x86_64")]
pub use known::{answer, mutating, refuse};
#[cfg(not(target_arch = "x86_64"))]
pub use unknown::{answer, mutating, refuse};

/// Whether calls can be told apart here.
pub fn supported() -> Result<(), String> {
    if cfg!(target_arch = "x86_64") { Ok(()) } else { Err("system calls are known on x86-64 alone".to_owned()) }
}

#[cfg(not(target_arch = "x86_64"))]
mod unknown {
    use super::{Path, Pid};

    /// Never asked.
    pub fn mutating(_: &Path, _: Pid) -> Option<String> {
        None
    }

    /// Never asked.
    pub fn refuse(_: Pid) {}

    /// Never asked.
    pub fn answer(_: Pid, _: i32) {}
}

#[cfg(target_arch = "x86_64")]
mod known {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use nix::libc;
    use nix::sys::ptrace;

    use super::{Path, Pid};

    /// The call that a thread is about to make becomes none.
    pub fn refuse(pid: Pid) {
        if let Ok(mut registers) = ptrace::getregs(pid) {
            registers.orig_rax = u64::MAX;
            let _gone = ptrace::setregs(pid, registers);
        }
    }

    /// The call that a thread has made answers with an error.
    pub fn answer(pid: Pid, errno: i32) {
        if let Ok(mut registers) = ptrace::getregs(pid) {
            registers.rax = (-i64::from(errno)).cast_unsigned();
            let _gone = ptrace::setregs(pid, registers);
        }
    }

    /// The call that a thread is about to make, if it is one that changes a file of `place`.
    pub fn mutating(place: &Path, pid: Pid) -> Option<String> {
        let registers = ptrace::getregs(pid).ok()?;
        let writes = i64::from(libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC);
        let (first, second, third) = (registers.rdi, registers.rsi, registers.rdx);
        let by_descriptor = |name: &str, descriptor: u64| {
            let file = std::fs::read_link(format!("/proc/{pid}/fd/{}", descriptor as i32)).ok()?;
            file.starts_with(place).then(|| format!("{name}({})", file.display()))
        };
        let by_path = |name: &str, address: u64| {
            let path = text(pid, address)?;
            (!path.starts_with('/') || Path::new(&path).starts_with(place)).then(|| format!("{name}({path})"))
        };
        let opening = |name: &str, address: u64, flags: u64| {
            if flags.cast_signed() & writes == 0 { None } else { by_path(name, address) }
        };
        match registers.orig_rax.cast_signed() {
            libc::SYS_open => opening("open", first, second),
            libc::SYS_openat => opening("openat", second, third),
            libc::SYS_write => by_descriptor("write", first),
            libc::SYS_pwrite64 => by_descriptor("pwrite64", first),
            libc::SYS_writev => by_descriptor("writev", first),
            libc::SYS_ftruncate => by_descriptor("ftruncate", first),
            libc::SYS_fallocate => by_descriptor("fallocate", first),
            libc::SYS_fsync => by_descriptor("fsync", first),
            libc::SYS_fdatasync => by_descriptor("fdatasync", first),
            libc::SYS_fchmod => by_descriptor("fchmod", first),
            libc::SYS_fchown => by_descriptor("fchown", first),
            libc::SYS_sendfile => by_descriptor("sendfile", first),
            libc::SYS_copy_file_range => by_descriptor("copy_file_range", third),
            libc::SYS_mkdir => by_path("mkdir", first),
            libc::SYS_rmdir => by_path("rmdir", first),
            libc::SYS_unlink => by_path("unlink", first),
            libc::SYS_rename => by_path("rename", first),
            libc::SYS_chmod => by_path("chmod", first),
            libc::SYS_chown => by_path("chown", first),
            libc::SYS_truncate => by_path("truncate", first),
            libc::SYS_mkdirat => by_path("mkdirat", second),
            libc::SYS_unlinkat => by_path("unlinkat", second),
            libc::SYS_renameat => by_path("renameat", second),
            libc::SYS_renameat2 => by_path("renameat2", second),
            libc::SYS_linkat => by_path("linkat", second),
            libc::SYS_fchmodat => by_path("fchmodat", second),
            libc::SYS_fchownat => by_path("fchownat", second),
            _ => None,
        }
    }

    fn text(pid: Pid, address: u64) -> Option<String> {
        let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
        let mut bytes = vec![0; 4096];
        // Not over the end of a page, which may be the last one.
        let most = 4096 - usize::try_from(address % 4096).ok()?;
        let mut read = memory.read_at(&mut bytes[..most], address).ok()?;
        if !bytes[..read].contains(&0) {
            read += memory.read_at(&mut bytes[read..], address + read as u64).ok()?;
        }
        let end = bytes[..read].iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}
