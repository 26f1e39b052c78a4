//! Neither program can be looked into by its own user, nor leaves a core dump: of what cannot be dumped the kernel gives
//! what /proc tells to root, whoever runs it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::poll::{LONG, until};
use rustix::fs::{CWD, FileType, Mode, chown, mknodat};
use rustix::process::{Gid, Uid};

/// Nobody's.
const USER: u32 = 65_534;

/// A process that is ended with its test.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A command as somebody who is not root.
fn as_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned(), "--".to_owned()]);
    command.arg(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Waits until what /proc tells of a running program is root's, or its user's.
fn belongs(mut command: Command, name: &str, root: bool) {
    let held = Held(command.spawn().unwrap());
    let proc = Path::new("/proc").join(held.0.id().to_string());
    until(&format!("{name} whose /proc is root's: {root}"), LONG, || {
        let said = |error: std::io::Error| error.to_string();
        let comm = std::fs::read_to_string(proc.join("comm")).map_err(said)?;
        let status = std::fs::read_to_string(proc.join("status")).map_err(said)?;
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        let user = user.split_whitespace().next().unwrap_or_default().to_owned();
        let owner = std::fs::metadata(proc.join("environ")).map_err(said)?.uid();
        let wanted = if root { 0 } else { USER };
        let seen = (comm.trim() == name, user == USER.to_string(), owner == wanted);
        if seen == (true, true, true) { Ok(()) } else { Err(format!("{} of {user}, /proc of {owner}", comm.trim())) }
    });
}

#[test]
fn what_a_program_has_in_memory_is_roots_alone_whoever_runs_it() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("MAAND_CI").is_none(), "root is needed here");
        println!("skipped: root is needed to run a program as somebody else");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = |from: &str, name: &str| -> PathBuf {
        let to = dir.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    // A program waits for somebody who writes its settings: nobody does.
    let pipe = |path: &Path| {
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        chown(path, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER))).unwrap();
    };
    // Another program, to see that this tells the one from the other.
    let mut other = as_user(Path::new("sleep"));
    other.arg("600");
    belongs(other, "sleep", false);

    let agent = program(env!("CARGO_BIN_EXE_maand-agent-dup"), "maand-agent");
    let settings = dir.path().join("agent.toml");
    pipe(&settings);
    let mut command = as_user(&agent);
    command.arg("--config").arg(&settings).arg("run");
    belongs(command, "maand-agent", true);

    let maand = program(env!("CARGO_BIN_EXE_maand-dup"), "maand");
    let bucket = dir.path().join("bucket");
    std::fs::create_dir(&bucket).unwrap();
    chown(&bucket, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER))).unwrap();
    let made = as_user(&maand).arg("init").current_dir(&bucket).env("MAAND_BUCKET", &bucket).status().unwrap();
    assert!(made.success(), "{made}");
    std::fs::remove_file(bucket.join("maand.conf")).unwrap();
    pipe(&bucket.join("maand.conf"));
    let mut command = as_user(&maand);
    command.arg("build").current_dir(&bucket).env("MAAND_BUCKET", &bucket);
    belongs(command, "maand", true);
}
