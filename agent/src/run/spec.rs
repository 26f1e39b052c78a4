//! What a run is to do, and how it ended: two files of its directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use shared::RunId;
use shared::api::v1::logs::Source;
use shared::api::v1::report::Outcome;

use crate::facts;
use crate::reconcile::grant::{Left, Moment};

/// What to run; `spec.json` of the run's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Where.
    pub dir: PathBuf,
    /// What.
    pub program: Program,
    /// Time limit, seconds.
    pub timeout_s: u64,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Whose output it is, for sending it later.
    pub source: Source,
    /// The same.
    pub run_id: RunId,
    /// Until when it may begin; any time without one.
    #[serde(skip)]
    pub until: Option<Moment>,
    /// The same for the process between, as of when this was written.
    #[serde(default)]
    pub left: Option<Left>,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// `make -s -C <dir> TARGET`.
    Make {
        /// The Makefile target.
        target: String,
    },
    /// The file [`SCRIPT`] of the run's directory, by bash, or by sh where there is no bash.
    Script,
    /// What the job in that directory wrote into its own `logs/`.
    Logs {
        /// Lines from the end of each file.
        tail: u32,
        /// And what is written from there on.
        follow: bool,
    },
}

/// The hidden command that shows a job's logs.
pub const LOGS: &str = "__logs";

/// What is to be run, in its run's directory.
pub const SPEC: &str = "spec.json";
/// A script's text, in its run's directory.
pub const SCRIPT: &str = "script";
/// The file in a run's directory that asks for its end.
pub const CANCEL: &str = "cancel";

impl Program {
    /// Its name, for people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Make { .. } => "make",
            Self::Script if facts::on_path("bash") => "bash",
            Self::Script => "sh",
            Self::Logs { .. } => "maand-agent",
        }
    }

    pub(super) fn command(&self, run: &Path, spec: &Spec) -> Command {
        let own = || std::env::current_exe().unwrap_or_else(|_| self.name().into());
        let mut command = Command::new(if matches!(self, Self::Logs { .. }) { own() } else { self.name().into() });
        match self {
            Self::Make { target } => command.args(["-s", "-C"]).arg(&spec.dir).arg(target),
            Self::Script => command.arg(run.join(SCRIPT)).current_dir(&spec.dir),
            Self::Logs { tail, follow } => {
                let follow = follow.then_some("--follow");
                command.arg(LOGS).arg(&spec.dir).args(["--tail", &tail.to_string()]).args(follow)
            }
        };
        command
    }
}

/// How it ended; `result.json` of the run's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// What became of it.
    pub outcome: Outcome,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// It was ended because [`cancel`](super::cancel) asked; the outcome says nothing.
    #[serde(default)]
    pub cancelled: bool,
    /// It was not begun: the moment until which it might be was over. The outcome says nothing.
    #[serde(default)]
    pub too_late: bool,
}

impl Ended {
    /// Not begun.
    pub fn too_late() -> Self {
        Self { too_late: true, ..Self::without(Outcome::Interrupted) }
    }

    /// Without a run.
    pub fn without(outcome: Outcome) -> Self {
        Self { outcome, duration_ms: 0, cancelled: false, too_late: false }
    }
}
