//! Edge: agent.toml: written by `join`, read by every other command.
#![expect(clippy::disallowed_methods, reason = "edge: reads and writes agent.toml")]

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::{BucketId, Code, Diagnostic, WorkerId};

use crate::state::durable;

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

impl Config {
    /// Reads `path`.
    pub fn load(path: &Path) -> Result<Self, Diagnostic> {
        let problem = |message: String| Diagnostic::new(Code::Settings, message).at(path.display());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(problem("this agent has not joined a bucket: there is no such file".into()).remedy(
                    "run the line that `maand agent token HOST` prints on the controller, or name another file with --config",
                ));
            }
            Err(error) => return Err(problem("the agent's settings cannot be read".into()).cause(&error)),
        };
        Self::parse(&text, path)
    }

    /// Reads the text of `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Diagnostic> {
        toml::from_str(text).map_err(|error| {
            Diagnostic::new(Code::Settings, "the agent's settings are not of their form")
                .at(path.display())
                .note(error.message())
                .remedy("correct the file, or join again")
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
