//! Edge: agent.toml: written by `join`, read by every other command.
#![expect(clippy::disallowed_types, reason = "edge: reads agent.toml")]

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use shared::{BucketId, Code, Diagnostic, WorkerId};

use crate::state::durable;

/// Longest agent.toml, bytes.
const CAP: u64 = 1 << 20;

/// The agent's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The controller's URL, without a slash at its end.
    pub controller: String,
    /// The bucket that this agent serves.
    pub bucket_id: BucketId,
    /// Who it is; its certificate is what counts.
    pub worker_id: WorkerId,
    /// Where jobs live: `<root>/<bucket_id>/jobs/<job>`.
    pub root: PathBuf,
    /// Where key and certificate live: `<state>/<bucket_id>/`.
    pub state: PathBuf,
    /// Seconds between polls, for a proxy that allows no waiting; without it the agent holds a request open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_interval_seconds: Option<u32>,
    /// Seconds between two looks at whether files that the agent put in place were edited; 0: never. Without it
    /// an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift_check_seconds: Option<u32>,
    /// Kinds of ad-hoc work that this agent does for its controller: `make` (targets of deployed jobs),
    /// `script` (whatever `maand run_command` is given), `probe` (health checks on demand),
    /// `logs` (reading what jobs wrote into their own logs/). Without it all; what deploys do is not ad hoc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Kind>>,
}

/// A kind of ad-hoc work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Makefile targets.
    Make,
    /// Scripts.
    Script,
    /// Health checks.
    Probe,
    /// Reading jobs' own logs.
    Logs,
}

impl Kind {
    /// Its word in agent.toml.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Make => "make",
            Self::Script => "script",
            Self::Probe => "probe",
            Self::Logs => "logs",
        }
    }
}

/// Where jobs live, if nobody says otherwise.
pub const ROOT: &str = "/opt/worker";
/// Where keys and certificates live, if nobody says otherwise.
pub const STATE: &str = "/var/lib/maand-agent";

/// What a file may say: all of it, or of what the operator wants to be different alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partial {
    controller: Option<String>,
    /// The bucket, once this agent has joined.
    pub bucket_id: Option<BucketId>,
    worker_id: Option<WorkerId>,
    /// Where jobs live.
    pub root: Option<PathBuf>,
    /// Where keys and certificates live.
    pub state: Option<PathBuf>,
    poll_interval_seconds: Option<u32>,
    drift_check_seconds: Option<u32>,
    allow: Option<Vec<Kind>>,
}

/// What is in a regular file of at most [`CAP`] bytes: opening a pipe would wait for somebody to write into it.
fn text(path: &Path) -> io::Result<String> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if meta.len() > CAP {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {} KiB", CAP >> 10)));
    }
    let mut text = String::new();
    file.take(CAP).read_to_string(&mut text)?;
    Ok(text)
}

impl Partial {
    /// Reads `path`; `None` without one.
    pub fn load(path: &Path) -> Result<Option<Self>, Diagnostic> {
        let problem = |message: &str| Diagnostic::new(Code::Settings, message).at(path.display());
        match text(path) {
            Ok(text) => Self::parse(&text, path).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(problem("the agent's settings cannot be read").cause(&error)),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Diagnostic> {
        toml::from_str(text).map_err(|error| {
            Diagnostic::new(Code::Settings, "the agent's settings are not of their form")
                .at(path.display())
                .note(error.message())
                .remedy("correct the file, or join again")
        })
    }

    /// This one's word where it has one, else the other's.
    fn over(self, other: Self) -> Self {
        Self {
            controller: self.controller.or(other.controller),
            bucket_id: self.bucket_id.or(other.bucket_id),
            worker_id: self.worker_id.or(other.worker_id),
            root: self.root.or(other.root),
            state: self.state.or(other.state),
            poll_interval_seconds: self.poll_interval_seconds.or(other.poll_interval_seconds),
            drift_check_seconds: self.drift_check_seconds.or(other.drift_check_seconds),
            allow: self.allow.or(other.allow),
        }
    }

    fn whole(self) -> Option<Config> {
        Some(Config {
            controller: self.controller?.trim_end_matches('/').to_owned(),
            bucket_id: self.bucket_id?,
            worker_id: self.worker_id?,
            root: self.root.unwrap_or_else(|| ROOT.into()),
            state: self.state.unwrap_or_else(|| STATE.into()),
            poll_interval_seconds: self.poll_interval_seconds,
            drift_check_seconds: self.drift_check_seconds,
            allow: self.allow,
        })
    }
}

/// Beside a file of settings that is the operator's: what `join` learned. `/etc/maand/agent.toml` has
/// `/etc/maand/agent.joined.toml`.
pub fn joined(path: &Path) -> PathBuf {
    path.with_extension("joined.toml")
}

/// Where `join` writes: the file itself when there is none, or one that an earlier `join` wrote; beside it when
/// it is the operator's.
pub fn written_by_join(path: &Path) -> Result<PathBuf, Diagnostic> {
    Ok(match Partial::load(path)? {
        Some(Partial { bucket_id: None, .. }) => joined(path),
        Some(_) | None => path.to_owned(),
    })
}

impl Config {
    /// Reads `path`, and what `join` wrote beside it.
    pub fn load(path: &Path) -> Result<Self, Diagnostic> {
        let (own, joined) = (Partial::load(path)?, Partial::load(&joined(path))?);
        Self::of(own.unwrap_or_default().over(joined.unwrap_or_default()), path)
    }

    /// Reads the text of `path`, which says all of it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Diagnostic> {
        Self::of(Partial::parse(text, path)?, path)
    }

    fn of(said: Partial, path: &Path) -> Result<Self, Diagnostic> {
        said.whole().ok_or_else(|| {
            Diagnostic::new(Code::Settings, "this agent has not joined a bucket").at(path.display()).remedy(
                "run the line that `maand agent token HOST` prints on the controller, or name another file with --config",
            )
        })
    }

    /// Writes `path`, durably.
    pub fn save(&self, path: &Path) -> Result<(), Diagnostic> {
        let failed = |error: &dyn std::error::Error| {
            Diagnostic::new(Code::Settings, format!("cannot write {}", path.display())).cause(error)
        };
        let text = toml::to_string(self).map_err(|error| failed(&error))?;
        let text = format!(
            "# Written by maand-agent join. `maand-agent run` reads it when it starts.\n{text}\n\
             # Ad-hoc work that this agent does for its controller; without the line all of it.\n\
             # allow = [\"make\", \"script\", \"probe\", \"logs\"]\n"
        );
        durable::write(path, text.as_bytes(), 0o644).map_err(|error| failed(&error))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "test files")]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_no_file_or_endless_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("agent.toml");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
        for path in [&pipe, Path::new("/dev/zero")] {
            let said = Partial::load(path).unwrap_err().to_string();
            assert!(said.contains("cannot be read") && said.contains("no regular file"), "{said}");
        }
        let long = dir.path().join("long.toml");
        std::fs::write(&long, "#".repeat(usize::try_from(CAP).unwrap() + 1)).unwrap();
        let said = Partial::load(&long).unwrap_err().to_string();
        assert!(said.contains("longer than 1024 KiB"), "{said}");
    }

    #[test]
    fn what_join_learned_is_beside_the_operators_own_file_and_gives_way_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        assert_eq!(written_by_join(&path).unwrap(), path, "without a file it is join's");
        std::fs::write(&path, "# root = \"/opt/worker\"\nallow = [\"make\"]\n").unwrap();
        assert!(Config::load(&path).unwrap_err().to_string().contains("has not joined"));
        let beside = written_by_join(&path).unwrap();
        assert_eq!(beside, dir.path().join("agent.joined.toml"));
        let id = uuid::Uuid::from_u128(1);
        let learned = Config {
            controller: "https://a:1".into(),
            bucket_id: BucketId::from_uuid(id),
            worker_id: WorkerId::from_uuid(id),
            root: "/r".into(),
            state: "/s".into(),
            poll_interval_seconds: None,
            drift_check_seconds: None,
            allow: None,
        };
        learned.save(&beside).unwrap();
        let known = Config::load(&path).unwrap();
        assert_eq!(known, Config { allow: Some(vec![Kind::Make]), ..learned.clone() });
        std::fs::write(&path, "controller = \"https://b:1/\"\n").unwrap();
        assert_eq!(Config::load(&path).unwrap(), Config { controller: "https://b:1".into(), ..learned });
        std::fs::write(&path, "contoller = \"https://b:1/\"\n").unwrap();
        assert!(Config::load(&path).is_err(), "a word that is no setting");
    }
}
