//! Decides the environment of a hook's process (`spec/behaviour.md` 4.9).

use std::ffi::OsString;

use shared::{Host, Name};

use crate::model::{Allocation, HookEvent, Promoted};

/// Where older SDKs look for the API; the whole address is in `HOOK_API_URL`.
const API_HOST: &str = "127.0.0.1";
/// The version of what was never deployed.
const NO_VERSION: &str = "0.0.0";

/// Every variable that maand sets. What the command itself was given under one of these names, as when it
/// is called by a hook, is not passed on.
const OURS: [&str; 22] = [
    "ALLOCATION_ID",
    "ALLOCATION_IP",
    "ALLOCATION_INDEX",
    "DISABLED",
    "JOB",
    "EVENT",
    "HOOK",
    "COMMAND",
    "CURRENT_VERSION",
    "NEW_VERSION",
    "JOB_COMMAND_API_HOST",
    "HOOK_API_URL",
    "HOOK_API_TOKEN",
    "BATCH_ALLOCATIONS",
    "BATCH_INDEX",
    "BATCH_COUNT",
    "DEPLOY_PHASE",
    "ROLLOUT_ORDER",
    "ROLLOUT_ORDER_SOURCE",
    "NEW_ALLOCATIONS",
    "UPDATED_ALLOCATIONS",
    "TARGET",
];

/// What a batch is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// First starts.
    New,
    /// What is there already.
    Update,
    /// Drains and removals.
    Stop,
}

impl Phase {
    /// As `DEPLOY_PHASE` has it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Update => "update",
            Self::Stop => "stop",
        }
    }
}

/// Where the order of a rollout comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderSource {
    /// `rollout_order` of the job's key-values.
    Kv,
    /// Worker position.
    Default,
}

/// What some events say besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Extras {
    /// Nothing.
    #[default]
    None,
    /// `after_allocation_started`, `after_allocation_stopped`.
    Batch {
        /// What the batch is of.
        phase: Phase,
        /// Its allocations' workers, in order.
        allocations: Vec<Host>,
        /// Counted from 0, within its phase.
        index: usize,
        /// How many there are.
        count: usize,
        /// The text of the order, and where it comes from; `None` for a stop.
        order: Option<(String, OrderSource)>,
    },
    /// `job_control` of a deploy.
    Control {
        /// Workers that get the job for the first time.
        new: Vec<Host>,
        /// Workers whose content or version changes.
        updated: Vec<Host>,
    },
    /// `job_control` of `maand job`: the target that was asked for.
    Target(String),
}

/// Of whom the environment is.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The allocation that the hook runs for.
    pub allocation: &'a Allocation,
    /// Its place among the job's allocations that are not removed, or its last one; empty if unknown.
    pub index: &'a str,
    /// What happens.
    pub event: HookEvent,
    /// The hook.
    pub hook: &'a Name,
}

/// The whole environment: `inherited` from the command, with ours over it.
pub fn environment(
    inherited: impl IntoIterator<Item = (OsString, OsString)>,
    subject: &Subject<'_>,
    extras: &Extras,
    api_url: &str,
    token: &str,
) -> Vec<(OsString, OsString)> {
    let of_command = inherited.into_iter().filter(|(name, _)| !OURS.iter().any(|ours| *ours == name));
    let set = |(name, value): (&str, String)| (OsString::from(name), OsString::from(value));
    let Subject { allocation, index, event, hook } = *subject;
    let promoted = allocation.promoted.as_ref();
    let own = [
        ("CURRENT_VERSION", promoted.map_or(NO_VERSION, |Promoted { version, .. }| version).to_owned()),
        ("NEW_VERSION", allocation.new_version.clone()),
        ("ALLOCATION_ID", allocation.alloc_id.to_string()),
        ("ALLOCATION_IP", allocation.host.to_string()),
        ("ALLOCATION_INDEX", index.to_owned()),
        ("DISABLED", u8::from(allocation.disabled).to_string()),
        ("JOB", allocation.job.to_string()),
        ("EVENT", event.word().to_owned()),
        ("HOOK", hook.to_string()),
        ("COMMAND", hook.to_string()),
        ("JOB_COMMAND_API_HOST", API_HOST.to_owned()),
        ("HOOK_API_URL", api_url.to_owned()),
        ("HOOK_API_TOKEN", token.to_owned()),
    ];
    of_command.chain(of(extras).into_iter().chain(own).map(set)).collect()
}

fn of(extras: &Extras) -> Vec<(&'static str, String)> {
    match extras {
        Extras::None => Vec::new(),
        Extras::Batch { phase, allocations, index, count, order } => {
            let (order, source) = match order {
                None => (String::new(), ""),
                Some((order, OrderSource::Kv)) => (order.clone(), "kv"),
                Some((order, OrderSource::Default)) => (order.clone(), "default"),
            };
            vec![
                ("BATCH_ALLOCATIONS", csv(allocations)),
                ("BATCH_INDEX", index.to_string()),
                ("BATCH_COUNT", count.to_string()),
                ("DEPLOY_PHASE", phase.word().to_owned()),
                ("ROLLOUT_ORDER", order),
                ("ROLLOUT_ORDER_SOURCE", source.to_owned()),
            ]
        }
        Extras::Control { new, updated } => {
            vec![("NEW_ALLOCATIONS", csv(new)), ("UPDATED_ALLOCATIONS", csv(updated))]
        }
        Extras::Target(target) => vec![("TARGET", target.clone())],
    }
}

fn csv(hosts: &[Host]) -> String {
    hosts.iter().map(Host::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::{AllocId, WorkerId};
    use uuid::Uuid;

    fn allocation() -> Allocation {
        Allocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            job: "api".parse().unwrap(),
            host: "10.0.0.1".parse().unwrap(),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(2)),
            disabled: true,
            removed: false,
            start_pending: false,
            deployment_seq: 0,
            new_version: "2.0.0".into(),
            bundle: None,
            promoted: None,
            rolled: None,
            render_inputs: None,
        }
    }

    fn text(event: HookEvent, extras: &Extras, inherited: &[(&str, &str)]) -> String {
        let allocation = allocation();
        let hook = "hook_x".parse().unwrap();
        let subject = Subject { allocation: &allocation, index: "3", event, hook: &hook };
        let inherited = inherited.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let all = environment(inherited, &subject, extras, "http://127.0.0.1:9", "secret");
        let line = |(name, value): &(OsString, OsString)| format!("{}={}\n", name.display(), value.display());
        all.iter().map(line).collect()
    }

    const OWN: &str = "CURRENT_VERSION=0.0.0\nNEW_VERSION=2.0.0\nALLOCATION_ID=00000000-0000-0000-0000-000000000001\n\
        ALLOCATION_IP=10.0.0.1\nALLOCATION_INDEX=3\nDISABLED=1\nJOB=api\nEVENT={event}\nHOOK=hook_x\nCOMMAND=hook_x\n\
        JOB_COMMAND_API_HOST=127.0.0.1\nHOOK_API_URL=http://127.0.0.1:9\nHOOK_API_TOKEN=secret\n";

    #[test]
    fn every_variable_and_no_other() {
        let own = |event: &str| OWN.replace("{event}", event);
        let nested = [("PATH", "/bin"), ("HOOK_API_TOKEN", "an outer hook's"), ("BATCH_INDEX", "7"), ("JOB", "other")];
        assert_eq!(text(HookEvent::PreDeploy, &Extras::None, &nested), format!("PATH=/bin\n{}", own("pre_deploy")));
        let (a, b): (Host, Host) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let batch = Extras::Batch {
            phase: Phase::Update,
            allocations: vec![a.clone(), b.clone()],
            index: 0,
            count: 2,
            order: Some(("10.0.0.2, 10.0.0.1".into(), OrderSource::Kv)),
        };
        let want = "BATCH_ALLOCATIONS=10.0.0.1,10.0.0.2\nBATCH_INDEX=0\nBATCH_COUNT=2\nDEPLOY_PHASE=update\n\
            ROLLOUT_ORDER=10.0.0.2, 10.0.0.1\nROLLOUT_ORDER_SOURCE=kv\n";
        let started = text(HookEvent::AfterAllocationStarted, &batch, &[]);
        assert_eq!(started, format!("{want}{}", own("after_allocation_started")));
        let stop = Extras::Batch { phase: Phase::Stop, allocations: vec![a], index: 0, count: 1, order: None };
        let want = "BATCH_ALLOCATIONS=10.0.0.1\nBATCH_INDEX=0\nBATCH_COUNT=1\nDEPLOY_PHASE=stop\nROLLOUT_ORDER=\n\
            ROLLOUT_ORDER_SOURCE=\n";
        let stopped = text(HookEvent::AfterAllocationStopped, &stop, &[]);
        assert_eq!(stopped, format!("{want}{}", own("after_allocation_stopped")));
        let control = Extras::Control { new: vec![b], updated: vec![] };
        let want = "NEW_ALLOCATIONS=10.0.0.2\nUPDATED_ALLOCATIONS=\n";
        assert_eq!(text(HookEvent::JobControl, &control, &[]), format!("{want}{}", own("job_control")));
        let target = Extras::Target("status".into());
        assert_eq!(text(HookEvent::JobControl, &target, &[]), format!("TARGET=status\n{}", own("job_control")));
    }
}
