//! Decides whether the workers have what their jobs reserve (`spec/behaviour.md` 2.14).

use std::collections::{BTreeMap, HashMap};

use shared::{Code, Diagnostic, Host, JobName};

use crate::model::{Allocation, Job, Worker};

/// Every worker that has too little. Drained allocations do not count.
pub fn check(workers: &[Worker], jobs: &[Job], allocations: &[Allocation]) -> Vec<Diagnostic> {
    let specs: HashMap<&JobName, _> = jobs.iter().map(|job| (&job.name, &job.spec)).collect();
    let mut needed: BTreeMap<&Host, (f64, f64, Vec<&JobName>)> = BTreeMap::new();
    for allocation in allocations.iter().filter(|a| a.is_active()) {
        let Some(spec) = specs.get(&allocation.job) else { continue };
        if spec.memory.reserved > 0.0 || spec.cpu.reserved > 0.0 {
            let (memory, cpu, who) = needed.entry(&allocation.host).or_default();
            *memory += spec.memory.reserved;
            *cpu += spec.cpu.reserved;
            who.push(&allocation.job);
        }
    }
    let mut problems = Vec::new();
    for worker in workers {
        let Some((memory, cpu, who)) = needed.get(&worker.host) else { continue };
        let who = who.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        for (what, unit, needed, declared) in
            [("memory", "mb", part(*memory), part(worker.memory_mb)), ("cpu", "mhz", part(*cpu), part(worker.cpu_mhz))]
        {
            let host = &worker.host;
            let (message, remedy) = if needed <= 0.0 || needed <= declared {
                continue;
            } else if declared <= 0.0 {
                (
                    format!("worker {host} must declare {what}: its jobs reserve {needed} {unit}"),
                    format!("add \"{what}\": \"{needed} {unit}\" or more to it"),
                )
            } else {
                (
                    format!("worker {host} has {declared} {unit} of {what}, its jobs reserve {needed} {unit}"),
                    "move a job away, lower a reservation, or correct what the worker has".to_owned(),
                )
            };
            let problem = Diagnostic::new(Code::Capacity, message).at(format!("workspace/workers.json {host}.{what}"));
            problems.push(problem.note(format!("its jobs with a reservation: {who}")).remedy(remedy));
        }
    }
    problems
}

/// To thousandths: what is written with decimals adds up to a little more or less than it says.
fn part(amount: f64) -> f64 {
    (amount * 1000.0).round() / 1000.0
}
