//! What an operator is told of agents that could not be asked, and of what did not go well.

use shared::api::v1::operation::{Ended, Work};
use shared::text::clean;
use shared::{Code, Diagnostic, Host, RunId};

use super::Answer;
use crate::cli::table::time;
use crate::drive::operations::{Asked, End, Standing};
use crate::model::Snapshot;

/// Why an agent cannot be asked, and what to do about it.
pub fn absent(host: &Host, standing: &Standing, snapshot: &Snapshot) -> Diagnostic {
    match standing {
        Standing::NotJoined => Diagnostic::new(Code::NotJoined, format!("no agent has joined for {host}"))
            .remedy(format_args!("run `maand agent token {host}`, and on that worker the line that it prints")),
        Standing::Offline(since) => {
            let since = since.map_or_else(|| "it never called".to_owned(), |ms| format!("offline since {}", time(ms)));
            Diagnostic::new(Code::AgentOffline, format!("the agent of {host} is not there: {since}"))
                .remedy("start maand-agent on that worker, or look at its log; maand cat agents shows all of them")
        }
        Standing::Refuses(reason) => Diagnostic::new(
            Code::Refused,
            format!("the agent of {host} refuses what this controller says: {}", clean(reason)),
        )
        .remedy("compare maand info with worker.json on that worker"),
        Standing::Behind { has } => {
            let has = has.map_or_else(|| "none".to_owned(), |seq| seq.to_string());
            Diagnostic::new(
                Code::AgentBehind,
                format!("the agent of {host} is behind: it has update_seq {has}, the bucket {}", snapshot.update_seq),
            )
            .remedy("run maand deploy: every agent hears of it, also when there is nothing to roll")
        }
        Standing::Ready => Diagnostic::new(Code::Bug, format!("the agent of {host} is there and counts as missing")),
    }
}

/// What went wrong with an answer, if something did.
pub fn problem(answer: &Answer, run: RunId) -> Option<Diagnostic> {
    let Asked { host, work, .. } = &answer.asked;
    let what = match work {
        Work::Make { job, target, .. } => format!("job {job}: make {target} on {host}"),
        Work::Probe { job, .. } => format!("job {job} on {host}"),
        Work::Logs { job, .. } => format!("job {job}: reading its logs on {host}"),
        Work::Script { .. } | Work::Unknown => format!("the script on {host}"),
    };
    let failed = |text: &str| Diagnostic::new(Code::OperationFailed, format!("{what} {text}"));
    let log = format!("its output is in logs/{host}.log (run {run})");
    let said = match &answer.end {
        End::NotPickedUp => {
            return Some(
                Diagnostic::new(
                    Code::NotPickedUp,
                    format!("{what} was not begun: the agent did not pick it up in time"),
                )
                .remedy("look at maand cat agents; it will not be begun later"),
            );
        }
        End::NoResult => {
            return Some(failed("was begun, and its agent said no more").remedy("look at maand cat agents").note(log));
        }
        End::Left => return Some(failed("had not ended; its agent was told to end it")),
        End::Said(said) => said,
    };
    Some(match said.outcome.as_ref()? {
        Ended::Ok => return None,
        Ended::Failed { exit } => failed(&format!("failed with exit code {exit}")).note(log),
        Ended::Unhealthy { problem } => {
            Diagnostic::new(Code::Unhealthy, format!("{what} is unhealthy: {}", clean(problem)))
        }
        Ended::TimedOut => failed("took too long and was ended").note(log),
        Ended::Interrupted => failed("was cut off: its agent was ended meanwhile, nobody knows how it went").note(log),
        Ended::Refused { reason } => Diagnostic::new(Code::Refused, format!("{what} was refused: {}", clean(reason))),
        Ended::Expired => failed("was not begun: something else was at work there for too long")
            .remedy("look at maand cat deployments, then try again"),
        Ended::Cancelled => failed("was cancelled"),
    })
}

/// `job@host`, or `host`.
pub fn label(asked: &Asked) -> String {
    match asked.work.job() {
        Some(job) => format!("{job}@{}", asked.host),
        None => asked.host.to_string(),
    }
}

/// What is run, for the log; checks run nothing.
pub fn command(work: &Work) -> Option<String> {
    match work {
        Work::Make { job, target, .. } => Some(format!("make -s -C jobs/{job} {target}")),
        Work::Script { body } => Some(body.clone()),
        Work::Probe { .. } | Work::Logs { .. } | Work::Unknown => None,
    }
}
