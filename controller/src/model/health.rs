//! Health checks as a manifest declares them (`spec/behaviour.md` 2.5).

use serde::{Deserialize, Serialize};
use shared::Name;
use shared::api::v1::health::{Check, EVERY_S, HealthSpec, Scheme};

use super::JobSpec;

/// What is asked of a running job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Probe {
    /// A connection to one of the job's ports.
    Tcp {
        /// Its name.
        port: Name,
    },
    /// A GET that answers with one status.
    Http {
        /// The port's name.
        port: Name,
        /// Begins with `/`.
        path: String,
        /// `http` or `https`.
        scheme: String,
        /// What it must answer.
        expect_status: u16,
    },
    /// A shell line that exits with 0.
    Exec {
        /// The line.
        command: String,
    },
}

/// A manifest's health checks; no probes means none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// All must be good.
    pub checks: Vec<Probe>,
    /// For each probe, seconds.
    pub timeout_s: u64,
    /// Tries of a gate.
    pub attempts: u32,
    /// Seconds between them.
    pub interval_s: u64,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { checks: Vec::new(), timeout_s: 5, attempts: 30, interval_s: 1 }
    }
}

/// What an agent is told to ask of the job: port names become numbers. `None` without checks.
pub fn spec(job: &JobSpec) -> Option<HealthSpec> {
    let HealthCheck { checks, timeout_s, attempts, interval_s } = &job.health_check;
    // build refuses a check whose port is not the job's; 0 can only fail, and says so.
    let number = |port: &Name| job.ports.get(port).copied().unwrap_or(0);
    let check = |probe: &Probe| match probe {
        Probe::Tcp { port } => Check::Tcp { port: number(port) },
        Probe::Http { port, path, scheme, expect_status } => Check::Http {
            port: number(port),
            path: path.clone(),
            scheme: if scheme == Scheme::Https.word() { Scheme::Https } else { Scheme::Http },
            expect_status: *expect_status,
        },
        Probe::Exec { command } => Check::Exec { command: command.clone() },
    };
    (!checks.is_empty()).then(|| HealthSpec {
        checks: checks.iter().map(check).collect(),
        timeout_s: *timeout_s,
        attempts: *attempts,
        interval_s: *interval_s,
        every_s: EVERY_S,
        by_hooks: job.controlled(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Hook, HookEvent};

    #[test]
    fn an_agent_is_told_numbers_and_a_job_without_checks_nothing() {
        let mut job = JobSpec::default();
        assert_eq!(spec(&job), None);
        let name = |text: &str| -> Name { text.parse().unwrap() };
        job.ports.insert(name("api_http"), 8080);
        job.health_check.checks = vec![
            Probe::Tcp { port: name("api_http") },
            Probe::Http { port: name("api_http"), path: "/up".into(), scheme: "https".into(), expect_status: 204 },
            Probe::Exec { command: "./ok".into() },
        ];
        let told = spec(&job).unwrap();
        let http = Check::Http { port: 8080, path: "/up".into(), scheme: Scheme::Https, expect_status: 204 };
        assert_eq!(told.checks, [Check::Tcp { port: 8080 }, http, Check::Exec { command: "./ok".into() }]);
        assert_eq!((told.timeout_s, told.attempts, told.interval_s, told.every_s), (5, 30, 1, 15));
        assert!(!told.by_hooks);
        let executed_on = [HookEvent::JobControl].into();
        job.hooks.insert(name("hook_x"), Hook { executed_on, demand: None, timeout_s: 1 });
        assert!(spec(&job).unwrap().by_hooks);
    }
}
