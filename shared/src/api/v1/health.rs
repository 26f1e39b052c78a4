//! Down: what is asked of a running job. Up: how it answers. Probes run in the agent, because nothing
//! connects to a worker; the manifest's side is `spec/behaviour.md` 2.5, what the checks mean 8.1.

use serde::{Deserialize, Serialize};

use crate::ActionId;

/// Most checks of a job.
pub const MAX_CHECKS: usize = 64;
/// Longest [`ObservedHealth::problem`], bytes; what is longer is cut by whoever takes it in.
pub const MAX_PROBLEM: usize = 512;

/// What is asked of a job that runs: all checks must be good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// At least one.
    #[serde(deserialize_with = "super::bounded::list::<MAX_CHECKS, _, _>")]
    pub checks: Vec<Check>,
    /// Time limit of each check, seconds.
    pub timeout_s: u64,
    /// Tries after a start, restart or reload before the job counts as unhealthy.
    pub attempts: u32,
    /// Seconds between those tries.
    pub interval_s: u64,
    /// Seconds between checks of a job that has been judged.
    #[serde(default = "every")]
    pub every_s: u64,
    /// Hooks beside the controller start and stop the job, and no make target of this agent: it counts as
    /// running once its files are in place, and every action that ends is judged anew, files only or not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hooks: bool,
}

/// [`HealthSpec::every_s`] unless something else is said, seconds.
pub const EVERY_S: u64 = 15;

fn every() -> u64 {
    EVERY_S
}

/// One check. Ports are numbers: their names are the manifest's.
///
/// `tcp` and `http` go to addresses of the worker's own, never beyond it: first those that its host in
/// workers.json stands for, where it has them, then loopback. The first one that answers decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Check {
    /// A connection is accepted.
    Tcp {
        /// 1 to 65535.
        port: u16,
    },
    /// A GET is answered with one status, after at most a few redirects.
    Http {
        /// 1 to 65535.
        port: u16,
        /// Begins with `/`.
        path: String,
        /// `https`: the certificate is verified by the job's own `certs/ca.crt`, where it has one, and
        /// by the system's roots.
        scheme: Scheme,
        /// What it must answer.
        expect_status: u16,
    },
    /// A line for `sh -c` in the job's directory exits with 0.
    Exec {
        /// The line.
        command: String,
    },
    /// A kind that this program does not know: it cannot be good.
    #[serde(other)]
    Unknown,
}

/// How an `http` check speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// In the clear.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// How a job answered last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedHealth {
    /// The judgement.
    pub state: HealthState,
    /// The last action that had ended before these checks began, files-only ones included. A gate
    /// counts only checks that name its own action. `None` while nothing was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<ActionId>,
    /// Tries in a row that failed.
    #[serde(default)]
    pub attempt: u32,
    /// No further try is owed before this judgement stands: the job was healthy after its last start,
    /// restart or reload, or its attempts are used up.
    #[serde(default, rename = "final")]
    pub is_final: bool,
    /// Since when the state is what it is, the agent's clock, milliseconds since 1970 UTC.
    pub since_ms: i64,
    /// When the last checks ended, the same clock; 0 before the first.
    #[serde(default)]
    pub checked_ms: i64,
    /// Which check failed, where and why, in one line of at most [`MAX_PROBLEM`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// All checks were good.
    Healthy,
    /// One was not.
    Unhealthy,
    /// Not checked: it does not run, or has only just been started. Also a word of a newer agent's.
    #[serde(other)]
    Unknown,
}

impl HealthState {
    /// The word that operators see.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_older_or_newer_program_says_can_be_read() {
        let old: HealthSpec =
            serde_json::from_value(json!({"checks": [], "timeout_s": 5, "attempts": 3, "interval_s": 1})).unwrap();
        assert_eq!(old.every_s, EVERY_S);
        let checks = json!([
            {"type": "tcp", "port": 80},
            {"type": "http", "port": 80, "path": "/", "scheme": "https", "expect_status": 204, "later": true},
            {"type": "exec", "command": "true"},
            {"type": "telepathy", "port": 1},
        ]);
        let checks: Vec<Check> = serde_json::from_value(checks).unwrap();
        let http = Check::Http { port: 80, path: "/".into(), scheme: Scheme::Https, expect_status: 204 };
        assert_eq!(checks[1..], [http, Check::Exec { command: "true".into() }, Check::Unknown]);
        let health: ObservedHealth = serde_json::from_value(json!({"state": "puzzled", "since_ms": 1})).unwrap();
        assert_eq!((health.state, health.is_final), (HealthState::Unknown, false));
    }
}
