//! What became of the hooks of one event, and the one failure that it comes to.

use std::fmt;

use shared::text::clean;
use shared::{AllocId, Code, Diagnostic, Host, JobName, Name};

use super::output::Line;
use super::run::Outcome;
use crate::model::HookEvent;

/// Hosts whose last lines a failure shows; of the others it says the cause.
const SHOWN: usize = 3;
/// Hosts that a failure names.
const NAMED: usize = 20;

/// One process of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The hook.
    pub hook: Name,
    /// The allocation.
    pub alloc_id: AllocId,
    /// Its worker's name.
    pub host: Host,
    /// What became of it.
    pub outcome: Outcome,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// The last lines that it printed.
    pub last: Vec<Line>,
}

/// Everything that ran, in the order of hooks and targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The job.
    pub job: JobName,
    /// Why.
    pub event: HookEvent,
    /// Each process; empty when the job has no hook for the event, or no target was given.
    pub ran: Vec<Ran>,
    /// Whether the job's manifest lets its failing hook be run by hand.
    pub(super) by_hand: Vec<Name>,
}

impl Report {
    /// Whether nothing failed.
    pub fn is_ok(&self) -> bool {
        self.ran.iter().all(|ran| ran.outcome == Outcome::Ok)
    }

    /// Whether the operator interrupted it.
    pub fn is_interrupted(&self) -> bool {
        self.ran.iter().any(|ran| ran.outcome == Outcome::Interrupted)
    }

    /// The failure of each hook that failed, all of its hosts and causes in one.
    pub fn problems(&self) -> Vec<Diagnostic> {
        let mut hooks: Vec<&Name> =
            self.ran.iter().filter(|ran| ran.outcome != Outcome::Ok).map(|ran| &ran.hook).collect();
        hooks.dedup();
        hooks.into_iter().map(|hook| self.problem(hook)).collect()
    }

    /// Each process that failed, in a line.
    pub fn failures(&self) -> Vec<(Option<AllocId>, String)> {
        let failed = self.ran.iter().filter(|ran| ran.outcome != Outcome::Ok);
        failed.map(|ran| (Some(ran.alloc_id), format!("{} on {}: {}", ran.hook, ran.host, ran.outcome))).collect()
    }

    fn problem(&self, hook: &Name) -> Diagnostic {
        let all = self.ran.iter().filter(|ran| ran.hook == *hook).count();
        let failed: Vec<&Ran> = self.ran.iter().filter(|ran| ran.hook == *hook && ran.outcome != Outcome::Ok).collect();
        let (job, event) = (&self.job, self.event.word());
        let of = if all == 1 { String::new() } else { format!(" for {} of {all} allocations", failed.len()) };
        let interrupted = failed.iter().all(|ran| ran.outcome == Outcome::Interrupted);
        let what = if interrupted { "was interrupted" } else { "failed" };
        let mut problem = Diagnostic::new(Code::HookFailed, format!("job {job}: {hook} {what}{of} ({event})"));
        for (n, ran) in failed.iter().take(NAMED).enumerate() {
            problem = problem.note(format!("{}: {}", ran.host, ran.outcome));
            let lines = ran.last.iter().filter(|_| n < SHOWN);
            for (stderr, line) in lines {
                let end = line.floor_char_boundary(400);
                problem = problem.note(format!("  {} {}", if *stderr { '!' } else { '|' }, clean(&line[..end])));
            }
        }
        if failed.len() > NAMED {
            problem = problem.note(format!("and {} more", failed.len() - NAMED));
        }
        problem = match failed[..] {
            [one] => problem.note(format!("the whole output is in logs/{}.log", one.host)),
            _ => problem.note("the whole output of each is in logs/<host>.log"),
        };
        if interrupted {
            return problem;
        }
        let timed_out = failed.iter().any(|ran| matches!(ran.outcome, Outcome::TimedOut { .. }));
        match (timed_out, self.by_hand.contains(hook)) {
            (true, _) => problem.remedy(format_args!(
                "find what it waits for, or raise hooks.{hook}.timeout_seconds in workspace/jobs/{job}/manifest.json"
            )),
            (false, true) => problem
                .remedy(format_args!("correct it and maand build; try it with maand hooks {hook} {job} --verbose")),
            (false, false) => problem.remedy(format_args!(
                "correct workspace/jobs/{job}/_modules/{hook}.*, then maand build and again; with \"cli\" among its \
                 executed_on it can be tried with maand hooks"
            )),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Failed { exit } => write!(f, "exit code {exit}"),
            Self::Killed { signal } => write!(f, "ended by signal {signal}"),
            Self::TimedOut { after_s } => write!(f, "did not end within {after_s} s and was ended"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::NotStarted { why } => write!(f, "not started: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn one_failure_names_every_host_and_cause() {
        let ran = |host: &str, outcome, last: &[(bool, &str)]| Ran {
            hook: "hook_x".parse().unwrap(),
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            host: host.parse().unwrap(),
            outcome,
            duration_ms: 1,
            last: last.iter().map(|(stderr, line)| (*stderr, (*line).to_owned())).collect(),
        };
        let report = Report {
            job: "api".parse().unwrap(),
            event: HookEvent::Cli,
            ran: vec![
                ran("w1", Outcome::Failed { exit: 3 }, &[(false, "one"), (true, "e\x1b[2Jrr")]),
                ran("w2", Outcome::Ok, &[]),
                ran("w3", Outcome::Killed { signal: 9 }, &[]),
            ],
            by_hand: vec!["hook_x".parse().unwrap()],
        };
        assert!(!report.is_ok());
        let problems = report.problems();
        assert_eq!(problems.len(), 1);
        assert_eq!(
            problems[0].to_string(),
            "error[MD0090]: job api: hook_x failed for 2 of 3 allocations (cli)\n  w1: exit code 3\n    | one\n    ! \
             e\\u{1b}[2Jrr\n  w3: ended by signal 9\n  the whole output of each is in logs/<host>.log\n  do: correct it and maand \
             build; try it with maand hooks hook_x api --verbose"
        );
    }
}
