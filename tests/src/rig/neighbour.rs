//! A hostile neighbour: a process of another user, who owns part of a job's tree (`chown -R 999 ./certs`), swaps
//! links, FIFOs, directories, second names and files of a terabyte for what the agent is about to write, as fast
//! as it can, while the agent applies one state after the other. Nothing outside of the job may change, and the
//! agent may be held up, but hangs nowhere.

use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, mkfifoat};
use shared::Bundle;
use shared::api::v1::desired::RunState;

use super::Rig;
use super::oracle;
use super::point::{Agent, Way};
use super::scenario::{self, File, Wish};
use super::sweep::Tally;
use super::tree;

/// The user that a container would run as.
const NEIGHBOUR: u32 = 999;
/// The word under which the rig's program is the neighbour.
pub const WORD: &str = "__neighbour";
/// Longest time that is waited for one apply: then the next state comes.
const PATIENCE: Duration = Duration::from_millis(300);
/// Longest time in which not one apply gets through.
const STUCK: Duration = Duration::from_secs(60);

/// What the neighbour wants to lay hands on; its own paths are in the directory that it is started in.
const NAMES: &[&str] = &["ca.crt", "key", "sub", "sub/x", "sub/deep", "sub/deep/y", "new"];

/// Misbehaves in the directory that the process is in, for ever. `precious` is a directory of somebody else.
pub fn misbehave(precious: &Path) -> ! {
    let mut state = u64::from(std::process::id()) | 1;
    let mut random = move |below: u64| {
        // xorshift: as good as anything for being unpleasant.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    loop {
        let mut names: Vec<String> = NAMES.iter().map(|&name| name.to_owned()).collect();
        for dir in [".", "sub"] {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let temporary = entries.map(|entry| format!("{dir}/{}", entry.file_name().to_string_lossy()));
            names.extend(temporary.filter(|name| tree::is_temporary(name)));
        }
        let name = &names[usize::try_from(random(names.len() as u64)).unwrap_or(0)];
        let aside = format!("aside-{}", random(4));
        // What is there goes, one way or another.
        drop(std::fs::rename(name, &aside));
        drop(std::fs::remove_file(&aside));
        drop(std::fs::remove_dir_all(&aside));
        match random(9) {
            0 => drop(symlink(precious.join("key"), name)),
            1 => drop(symlink(precious, name)),
            2 => drop(mkfifoat(CWD, name, Mode::RUSR | Mode::WUSR)),
            3 => drop(std::fs::create_dir(name)),
            4 => drop(std::fs::hard_link(precious.join("shared"), name)),
            // Never into a file that is there: it may be a second name of what is anybody's to write.
            5 => drop(std::fs::File::create_new(name).and_then(|file| file.set_len(1 << 40))),
            6 => drop(std::fs::File::create_new(name)),
            7 => drop(std::fs::rename(&names[usize::try_from(random(names.len() as u64)).unwrap_or(0)], name)),
            _ => {}
        }
        // Now as fast as it can, now with pauses in which something may get through.
        if random(6) == 0 {
            std::thread::sleep(Duration::from_micros(random(20_000)));
        }
    }
}

fn files(round: usize) -> Vec<File> {
    let text = |name: &str| format!("{name} of round {}", round % 2);
    let mut all = vec![
        ("Makefile", 0o644, "start:\n".to_owned(), false),
        ("certs/ca.crt", 0o644, text("ca"), false),
        ("certs/key", if round.is_multiple_of(2) { 0o640 } else { 0o600 }, "the same".to_owned(), false),
        ("certs/sub/x", 0o644, text("x"), false),
    ];
    if round.is_multiple_of(2) {
        all.extend([("certs/new", 0o755, text("new"), false), ("certs/sub/deep/y", 0o644, text("y"), false)]);
    }
    all
}

impl Rig {
    /// `applies` states, one after the other, beside a neighbour.
    pub fn neighbour(&mut self, applies: usize, limit: Option<Duration>, tally: &mut Tally) -> Result<(), String> {
        self.ground.restore("nothing")?;
        let precious = self.ground.place().join("sentinel");
        // Anybody may write it, and so give it a second name; and it is what a managed file should be, but for its mode.
        std::fs::write(precious.join("shared"), "the same").unwrap();
        std::fs::set_permissions(precious.join("shared"), PermissionsExt::from_mode(0o666)).unwrap();
        self.controller.forget_reports();
        let mut agent = Agent::Plain(self.start());
        self.apply(0, &mut agent, Duration::from_secs(40)).map_err(|way| format!("the first apply: {way:?}"))?;
        let certs = self.job_dir().join("certs");
        for own in ["", "sub", "sub/deep"] {
            lchown(certs.join(own), Some(NEIGHBOUR), Some(NEIGHBOUR)).map_err(|error| format!("chown: {error}"))?;
        }
        let outside = self.outside();
        let mut neighbour = Command::new(self.ground.file("maand-agent"));
        neighbour.arg0("rig-crash").arg(WORD).arg(&precious).current_dir(&certs).uid(NEIGHBOUR).gid(NEIGHBOUR);
        let mut neighbour =
            neighbour.stdin(Stdio::null()).spawn().map_err(|error| format!("the neighbour: {error}"))?;

        let (began, mut placed, mut last) = (Instant::now(), 0usize, Instant::now());
        for round in 1..=applies {
            if limit.is_some_and(|limit| began.elapsed() > limit) {
                tally.left_out += applies + 1 - round;
                break;
            }
            tally.points += 1;
            match self.apply(round, &mut agent, PATIENCE) {
                Ok(()) => (placed, last) = (placed + 1, Instant::now()),
                Err(Way::Ended) => return Err(format!("the agent ended:\n{}", self.log())),
                Err(_) if last.elapsed() > STUCK => {
                    tally.violations.push(format!("neighbour: nothing was placed for {STUCK:?}:\n{}", self.log()));
                    break;
                }
                Err(_) => {}
            }
        }
        let ended = neighbour.try_wait().map_err(|error| error.to_string())?;
        drop(neighbour.kill());
        drop(neighbour.wait());
        if let Some(status) = ended {
            return Err(format!("the neighbour ended early: {status}"));
        }
        // What it left where files should be, an operator moves away.
        let (even, odd, dirs) = (2 * applies + 2, 2 * applies + 3, ["certs/sub", "certs/sub/deep"]);
        for path in files(even).iter().map(|file| file.0).chain(dirs) {
            let path = self.job_dir().join(path);
            let is_dir = std::fs::symlink_metadata(&path).is_ok_and(|stat| stat.is_dir());
            let should_be = dirs.iter().any(|dir| path.ends_with(dir));
            if is_dir && !should_be {
                drop(std::fs::remove_dir_all(&path));
            } else if !is_dir && should_be {
                drop(std::fs::remove_file(&path));
            }
        }
        // Both: the one that was placed last is in place, and what was done to it since is drift.
        for round in [even, odd] {
            if let Err(way) = self.apply(round, &mut agent, Duration::from_secs(60)) {
                let log = self.log();
                tally.violations.push(format!("neighbour: it is gone, and still nothing gets on: {way:?}\n{log}"));
            }
        }
        let now = tree::list(&self.job_dir());
        for (path, _, content, _) in files(odd) {
            let wanted = shared::BlobDigest::of(content.as_bytes()).hex();
            if now.get(path).is_none_or(|item| item.kind != "file" || item.content != wanted) {
                tally.violations.push(format!("neighbour: {path} is not what it should be: {:?}", now.get(path)));
            }
        }
        tally.violations.extend(oracle::outside(&outside, &self.outside(), &[]));
        tally.note = Some(format!("{placed} placed under attack, the others overtaken while they were held up"));
        Ok(())
    }

    fn apply(&mut self, round: usize, agent: &mut Agent, patience: Duration) -> Result<(), Way> {
        let bundle: Bundle = scenario::bundle(&files(round));
        self.offer(&files(round));
        let wish = Wish { state: RunState::Running, version: round, action: None };
        let state = self.document(&wish, &bundle);
        self.controller.forget_reports();
        self.controller.want(Some(&state));
        match self.wait(&wish, &bundle, &state, agent, patience, false) {
            Way::Done(_) => Ok(()),
            other => Err(other),
        }
    }
}
