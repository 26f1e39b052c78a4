//! Edge: running a make target or a script so that neither the end nor the upgrade of the agent ends it
//! or loses its result.
//!
//! A small process between the agent and make (`maand-agent __run DIR`, a session of its own) waits
//! for make, ends it when its time is over or when a file `cancel` appears, and writes `result.json`. Output goes to files, not to
//! pipes: a pipe's reader would have to outlive every background process of the job.
#![expect(clippy::disallowed_methods, reason = "edge: processes and the files of runs")]

mod between;
mod spec;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use shared::api::v1::report::{MAX_TAIL, Outcome};
use shared::text::clean;

use crate::state::durable;
use crate::{clock, failpoint};

pub use between::shim;
pub use spec::{CANCEL, Ended, LOGS, Program, SCRIPT, SPEC, Spec};

/// The hidden command of the process between.
pub const SHIM: &str = "__run";
/// How often a process is looked at that cannot be waited for.
const LOOK: Duration = Duration::from_millis(100);

/// Asks a run to end, whoever started it.
pub fn cancel(dir: &Path) -> io::Result<()> {
    durable::write_soon(&dir.join(CANCEL), b"", 0o600)
}

/// Runs `spec` to its end, in a directory that is new. Calls `tick` about twice a second.
///
/// `scope` is the name of a systemd scope to run in, so that stopping the agent's own unit ends no job.
pub fn perform(dir: &Path, spec: &Spec, scope: Option<&str>, mut tick: impl FnMut()) -> io::Result<Ended> {
    durable::private_dir(dir)?;
    write(dir, spec)?;
    // It was ahead when `left` was reckoned; what comes from now on counts by the file's time.
    if spec.until.is_some_and(|until| !until.is_ahead_of(clock::moment())) {
        return Ok(Ended::too_late());
    }
    let ended = settle(dir, Some(start(dir, scope)?), &mut tick);
    // Whether make began is on record, so this cannot run it twice.
    if scope.is_some() && ended.outcome == Outcome::Interrupted && !dir.join("begun").is_file() {
        tracing::warn!(scope, "scope_refused: run without one");
        return Ok(settle(dir, Some(start(dir, None)?), &mut tick));
    }
    Ok(ended)
}

fn write(dir: &Path, spec: &Spec) -> io::Result<()> {
    let spec = Spec { left: spec.until.map(|until| until.left(clock::moment())), ..spec.clone() };
    durable::write_soon(&dir.join(SPEC), &serde_json::to_vec(&spec)?, 0o600)
}

/// Removes all that is of a run that did not begin, so that it can be begun anew.
pub fn forget(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::warn!(dir = %dir.display(), %error, "run_not_forgotten");
    }
}

/// The name of the scope of a run, on a machine whose first process is systemd and under root.
pub fn scope(job: &str, action: &str) -> Option<String> {
    // sd_booted(3): exactly this directory.
    let booted = Path::new("/run/systemd/system").is_dir() && rustix::process::geteuid().is_root();
    booted.then(|| format!("maand-{job}-{action}"))
}

/// The program and arguments that become the process between: systemd-run registers the scope and then
/// becomes the program itself, with the same pid.
fn command(agent: &Path, dir: &Path, scope: Option<&str>) -> (PathBuf, Vec<std::ffi::OsString>) {
    let shim = [SHIM.into(), dir.as_os_str().to_owned()];
    match scope {
        None => (agent.to_owned(), shim.to_vec()),
        Some(scope) => {
            let mut args: Vec<std::ffi::OsString> = ["--scope", "--collect", "--quiet"].map(Into::into).to_vec();
            args.push(format!("--unit={scope}").into());
            args.extend(["--".into(), agent.as_os_str().to_owned()]);
            args.extend(shim);
            ("systemd-run".into(), args)
        }
    }
}

/// This program. A package that was upgraded has replaced its file, and the agent is not restarted yet: then
/// the one that runs.
fn own_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    if path.is_file() { Ok(path) } else { Ok(PathBuf::from(format!("/proc/{}/exe", std::process::id()))) }
}

/// Starts the process between, and lets it begin once it is on record who it is: an agent that ends
/// before that leaves a process that never runs make.
fn start(dir: &Path, scope: Option<&str>) -> io::Result<Child> {
    let (program, args) = command(&own_program()?, dir, scope);
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    failpoint::hit("run::spawned");
    // Not flushed: after a power cut nothing runs that it could tell of.
    let who = format!("{} {}", child.id(), starttime(child.id()).unwrap_or(0));
    let told = durable::write_soon(&dir.join("pid"), who.as_bytes(), 0o600).and_then(|()| match child.stdin.take() {
        Some(mut go) => go.write_all(b"\n"),
        None => Ok(()),
    });
    match told {
        // One that has ended already says so by having no result.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            drop(child.kill());
            drop(child.wait());
            Err(error)
        }
        _ => {
            failpoint::hit("run::released");
            Ok(child)
        }
    }
}

/// What became of a run whose process between has ended, or was never a child of this agent.
/// `child` is that process when it is ours. Calls `tick` about twice a second.
pub fn settle(dir: &Path, mut child: Option<Child>, mut tick: impl FnMut()) -> Ended {
    let interrupted = Ended::without(Outcome::Interrupted);
    let mut pause = Duration::from_millis(1);
    let mut ticked = clock::instant();
    loop {
        let alive = match &mut child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => !dir.join("result.json").is_file() && shim_alive(dir),
        };
        if !alive {
            let result = std::fs::read(dir.join("result.json")).ok();
            return result.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or(interrupted);
        }
        // A quick target is noticed quickly, a slow one costs next to nothing.
        std::thread::sleep(pause);
        pause = (pause * 5 / 4).min(LOOK);
        if ticked.elapsed() > Duration::from_millis(500) {
            tick();
            ticked = clock::instant();
        }
    }
}

/// Whether the process that wrote `pid` is still that process.
fn shim_alive(dir: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(dir.join("pid")) else { return false };
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    match (words.next(), words.next()) {
        (Some(Ok(pid)), Some(Ok(started))) => u32::try_from(pid).is_ok_and(|pid| starttime(pid) == Some(started)),
        _ => false,
    }
}

/// When a process started, in clock ticks since boot (field 22 of proc(5) stat): with the pid it
/// names a process for as long as the machine is up. `None` for one that is gone or a zombie.
fn starttime(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}

/// The end of a run's output, standard error last, fit for a terminal. Whole lines: the controller knows no half of
/// a secret.
pub fn tail(dir: &Path) -> Option<String> {
    let end = |name: &str, cap: u64| -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(dir.join(name))?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(cap)))?;
            let mut bytes = Vec::new();
            file.take(cap).read_to_end(&mut bytes)?;
            if len > cap {
                let begin = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
                bytes.drain(..begin);
            }
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    };
    let half = MAX_TAIL as u64 / 2;
    let text = format!("{}{}", end("out", half), end("err", half));
    let mut lines: Vec<String> = text.lines().map(clean).collect();
    // What moves cursors is longer when it is shown.
    let mut len = lines.iter().map(|line| line.len() + 1).sum::<usize>();
    let surplus = lines.iter().take_while(|line| {
        let over = len > MAX_TAIL + 1;
        len -= if over { line.len() + 1 } else { 0 };
        over
    });
    let surplus = surplus.count();
    lines.drain(..surplus);
    let text = lines.join("\n");
    (!text.is_empty()).then_some(text)
}

/// The directories of runs, oldest first.
pub fn recent(runs: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<_> = std::fs::read_dir(runs)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    dirs.sort();
    dirs.into_iter().map(|(_, path)| path).collect()
}

/// Removes the directories of all but the newest runs.
pub fn prune(runs: &Path, keep: &[PathBuf], newest: usize) {
    let dirs: Vec<_> = recent(runs).into_iter().filter(|path| !keep.contains(path)).collect();
    let surplus = dirs.len().saturating_sub(newest);
    for path in dirs.into_iter().take(surplus) {
        drop(std::fs::remove_dir_all(path));
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, Signal};
    use shared::RunId;
    use shared::api::v1::logs::Source;

    use super::between::perform_program;
    use super::*;
    use crate::reconcile::grant::Moment;

    fn spec(dir: &Path, makefile: &str, timeout_s: u64) -> Spec {
        std::fs::write(dir.join("Makefile"), makefile).unwrap();
        let path = std::env::var("PATH").unwrap();
        let id = |n| uuid::Uuid::from_u128(n);
        let source = Source::Action {
            action_id: shared::ActionId::from_uuid(id(1)),
            job: "api".parse().unwrap(),
            target: "start".into(),
        };
        let (dir, env) = (dir.to_owned(), [("PATH".into(), path)].into());
        let program = Program::Make { target: "start".into() };
        Spec { dir, program, timeout_s, env, source, run_id: RunId::from_uuid(id(2)), until: None, left: None }
    }

    fn run(makefile: &str, timeout_s: u64) -> (Ended, Option<String>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &spec(dir.path(), makefile, timeout_s)).unwrap();
        perform_program(dir.path()).unwrap();
        (settle(dir.path(), None, || {}), tail(dir.path()), dir)
    }

    #[test]
    fn what_may_begin_until_a_moment_does_not_begin_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let now = clock::moment();
        let soon = Moment { steady_ms: now.steady_ms + 60_000, wall_ms: now.wall_ms + 60_000 };
        for (until, begins) in [
            (soon, true),
            (Moment { steady_ms: now.steady_ms, ..soon }, false),
            (Moment { wall_ms: now.wall_ms, ..soon }, false),
        ] {
            let spec = Spec { until: Some(until), ..spec(dir.path(), "start:\n\t@touch begun-it\n", 20) };
            write(dir.path(), &spec).unwrap();
            perform_program(dir.path()).unwrap();
            let ended = settle(dir.path(), None, || {});
            let began = std::fs::remove_file(dir.path().join("begun-it")).is_ok();
            assert_eq!((began, ended.too_late, ended.outcome == Outcome::Ok), (begins, !begins, begins), "{until:?}");
            std::fs::remove_file(dir.path().join("result.json")).unwrap();
        }
    }

    #[test]
    fn exit_codes_and_output_come_back() {
        let (ended, tail, _dir) = run("start:\n\t@echo out; echo 'e\\033[2Jrr' >&2; exit 3\n", 20);
        assert_eq!(ended.outcome, Outcome::Failed { exit: 2 }, "make's own code");
        let tail = tail.unwrap();
        assert!(tail.starts_with("out\n") && !tail.contains('\x1b'), "{tail:?}");
        let (ended, tail, _dir) = run("start:\n\t@true\n", 20);
        assert_eq!((ended.outcome, tail), (Outcome::Ok, None));
    }

    #[test]
    fn the_end_of_output_begins_with_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let of = |out: &str| {
            std::fs::write(dir.path().join("out"), out).unwrap();
            tail(dir.path())
        };
        let long = format!("secret-{}\nlast\n", "x".repeat(MAX_TAIL));
        assert_eq!(of(&long), Some("last".to_owned()), "not the end of a line");
        assert_eq!(of(&"x".repeat(MAX_TAIL)), None);
        assert_eq!(of("a\nb"), Some("a\nb".to_owned()));
        let moved = "\x1b".repeat(MAX_TAIL / 4);
        let said = of(&format!("{moved}\nlast\n")).unwrap();
        assert!(said.len() <= MAX_TAIL && said.ends_with("last"), "{said}");
        assert_eq!(of(""), None);
    }

    #[test]
    fn what_takes_too_long_is_ended_with_its_children() {
        let (ended, _, dir) = run("start:\n\t@sleep 300 & echo $$! > child; sleep 300\n", 1);
        assert_eq!(ended.outcome, Outcome::TimedOut);
        let child = std::fs::read_to_string(dir.path().join("child")).unwrap().trim().parse().unwrap();
        // Killed it is; whoever inherited it may not have looked at it yet.
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while starttime(child).is_some() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(starttime(child), None);
    }

    #[test]
    fn a_background_process_neither_holds_make_up_nor_ends_with_it() {
        let (ended, _, dir) = run("start:\n\t@sleep 60 & echo $$! > child\n", 30);
        assert_eq!(ended.outcome, Outcome::Ok);
        let child: u32 = std::fs::read_to_string(dir.path().join("child")).unwrap().trim().parse().unwrap();
        assert!(starttime(child).is_some());
        let pid = Pid::from_raw(i32::try_from(child).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    #[test]
    fn a_script_runs_in_its_place_and_ends_when_it_is_cancelled() {
        let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = Source::Operation { operation_id: shared::OperationId::from_uuid(uuid::Uuid::from_u128(1)) };
        let spec = Spec { program: Program::Script, source, dir: place.path().to_owned(), ..spec(dir.path(), "", 60) };
        std::fs::write(dir.path().join(SPEC), serde_json::to_vec(&spec).unwrap()).unwrap();
        std::fs::write(dir.path().join(SCRIPT), "echo $PWD; touch begun; sleep 300 & wait").unwrap();
        let run = dir.path().to_owned();
        let running = std::thread::spawn(move || perform_program(&run));
        let end = clock::instant() + Duration::from_secs(20);
        while !place.path().join("begun").is_file() && clock::instant() < end {
            std::thread::sleep(LOOK);
        }
        cancel(dir.path()).unwrap();
        running.join().unwrap().unwrap();
        assert!(settle(dir.path(), None, || {}).cancelled);
        assert_eq!(tail(dir.path()).unwrap(), place.path().canonicalize().unwrap().to_str().unwrap());
    }

    #[test]
    fn under_systemd_make_has_a_scope_of_its_own() {
        let (program, args) = command(Path::new("/usr/bin/maand-agent"), Path::new("/r/1"), Some("maand-api-1"));
        let args: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        let want = "systemd-run --scope --collect --quiet --unit=maand-api-1 -- /usr/bin/maand-agent __run /r/1";
        assert_eq!(format!("{} {}", program.display(), args.join(" ")), want);
        let (program, args) = command(Path::new("/usr/bin/maand-agent"), Path::new("/r/1"), None);
        assert_eq!((program.to_str().unwrap(), args.len()), ("/usr/bin/maand-agent", 2));
    }

    #[test]
    fn a_run_that_left_no_result_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(settle(dir.path(), None, || {}).outcome, Outcome::Interrupted);
        // The pid is in use, by a process that started at another time.
        std::fs::write(dir.path().join("pid"), format!("{} 1", std::process::id())).unwrap();
        assert_eq!(settle(dir.path(), None, || {}).outcome, Outcome::Interrupted);
    }
}
