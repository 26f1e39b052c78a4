//! Ends of the agent, of every kind, end no job's process and lose no result.

use harness::booted::Machine;
use harness::poll;

use super::fleet::{BUCKET, Fleet, as_user, process, property};

fn active(machine: &Machine, unit: &str) {
    poll::until("the unit to be active", poll::LONG, || match property(machine, unit, "ActiveState").as_str() {
        "active" => Ok(()),
        other => Err(other.to_owned()),
    });
}

/// With everything started: stop, start, restart, SIGKILL, and a hang that the watchdog ends.
pub fn after_start(fleet: &mut Fleet) {
    let worker = &fleet.workers[0];
    let before = (process(worker, "plain").expect("it runs"), property(worker, "unit-job", "MainPID"));
    let same = |how: &str| {
        let now = (process(worker, "plain").unwrap_or_default(), property(worker, "unit-job", "MainPID"));
        assert_eq!(now, before, "after {how}");
    };
    worker.get("systemctl restart maand-agent");
    same("restart");
    worker.get("systemctl stop maand-agent");
    same("stop");
    worker.get("systemctl start maand-agent");
    let pid = property(worker, "maand-agent", "MainPID");
    worker.get(&format!("kill -KILL {pid}"));
    poll::until("another agent", poll::LONG, || match property(worker, "maand-agent", "MainPID") {
        now if now != pid && now != "0" => Ok(()),
        now => Err(now),
    });
    active(worker, "maand-agent");
    same("SIGKILL");

    let units = [(worker, "maand-agent"), (&fleet.controller, "maand-serve"), (&fleet.controller, "maand-drive")];
    for (machine, unit) in units {
        // As an operator would, so that the test need not wait a minute.
        machine.get(&format!(
            "mkdir -p /etc/systemd/system/{unit}.service.d && cd /etc/systemd/system/{unit}.service.d && \
             printf '[Service]\\nWatchdogSec=4s\\n' > soon.conf && systemctl daemon-reload && systemctl restart {unit}"
        ));
    }
    let fed = |machine: &Machine, unit| property(machine, unit, "WatchdogTimestampMonotonic").parse::<u64>().unwrap();
    let begun = units.map(|(machine, unit)| fed(machine, unit));
    for ((machine, unit), begun) in units.into_iter().zip(begun) {
        // Longer than its limit.
        poll::until("the watchdog to be fed", poll::LONG, || match fed(machine, unit) {
            now if now > begun + 5_000_000 => Ok(()),
            now => Err((unit, begun, now)),
        });
        assert_eq!(property(machine, unit, "NRestarts"), "0", "{unit} gets on");
    }
    let stopped = units.map(|(machine, unit)| {
        let pid = property(machine, unit, "MainPID");
        machine.get(&format!("kill -STOP {pid}"));
        pid
    });
    for ((machine, unit), pid) in units.into_iter().zip(stopped) {
        poll::until("another process", poll::LONG, || match property(machine, unit, "MainPID") {
            now if now != pid && now != "0" => Ok(()),
            now => Err((unit, now)),
        });
        active(machine, unit);
        let journal = machine.get(&format!("journalctl --no-pager -u {unit}"));
        assert!(journal.contains("Watchdog timeout"), "{journal}");
        machine.get(&format!(
            "rm -r /etc/systemd/system/{unit}.service.d && systemctl daemon-reload && systemctl restart {unit}"
        ));
    }
    same("a hang");
    fleet.operator("maand deploy");
}

/// While a `make start` of ten seconds runs, as part of a rollout: SIGKILL, stop and start, upgrade of the package.
pub fn during_start(fleet: &mut Fleet) {
    fleet.write("workspace/jobs/slow/manifest.json", "{\"version\":\"1.0.0\",\"selectors\":[\"one\"]}");
    fleet.write(
        "workspace/jobs/slow/Makefile",
        "start:\n\t@mkdir -p data && echo begun >> data/log && sleep 10 && echo ended >> data/log\n\
         \t@setsid sleep 100000 < /dev/null > /dev/null 2>&1 & echo $$! > data/pid\nstop:\n\t@kill $$(cat data/pid) || true\nrestart: stop start",
    );
    fleet.operator("maand build");
    let (worker, controller) = (&fleet.workers[0], &fleet.controller);
    let log = || worker.run("cat /opt/worker/*/jobs/slow/data/log").stdout;
    let plain = process(worker, "plain");
    let deployed = std::thread::scope(|scope| {
        let deploy = scope.spawn(|| controller.run(&as_user("op", "maand deploy")));
        poll::until("make start", poll::LONG, || if log() == "begun\n" { Ok(()) } else { Err(log()) });
        poll::until("the status line", poll::LONG, || match property(worker, "maand-agent", "StatusText") {
            status if status.contains("slow: running make") => Ok(()),
            status => Err(status),
        });
        let pid = property(worker, "maand-agent", "MainPID");
        worker.get(&format!("kill -KILL {pid}"));
        worker.get("systemctl restart maand-agent");
        worker.get("systemctl stop maand-agent && systemctl start maand-agent");
        let said = worker.get("dpkg -i /packages/new/maand-agent_*.deb");
        assert!(said.contains("Unpacking maand-agent"), "{said}");
        active(worker, "maand-agent");
        assert_eq!(log(), "begun\n", "all of that happened while it ran");
        deploy.join().unwrap()
    });
    assert_eq!(deployed.code, 0, "{deployed:?}");
    assert_eq!(log(), "begun\nended\n", "once, and to its end");
    assert!(process(worker, "slow").is_some());
    assert_eq!(process(worker, "plain"), plain);
    let said = fleet.operator(&format!("cd {BUCKET} && maand deploy --dry-run"));
    assert!(said.contains("no deployment required"), "{said}");
}
