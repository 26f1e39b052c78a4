//! From nothing to jobs that run.

use super::fleet::{BUCKET, Fleet, as_user, process, property};

/// Installs, and asks systemd what it thinks of the units.
pub fn units(fleet: &mut Fleet) {
    fleet.controller.get("dpkg -i /packages/old/maand_*.deb");
    for worker in &fleet.workers {
        worker.get("dpkg -i /packages/old/maand-agent_*.deb");
        assert_eq!(property(worker, "maand-agent", "ActiveState"), "inactive", "not before it has joined");
    }
    let verify = |machine: &harness::booted::Machine, units: &str| {
        let said = machine.run(&format!("systemd-analyze verify --man=no {units}"));
        assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (0, "", ""), "{units}");
    };
    verify(
        &fleet.controller,
        "maand-serve.socket maand-serve.service maand-drive.service maand-backup.timer maand-serve@shop.service \
         maand-drive@shop.service maand-backup@shop.timer",
    );
    verify(&fleet.workers[0], "maand-agent.service maand-agent@shop.service");
    for (machine, unit, most) in [
        (&fleet.controller, "maand-serve", 1.5),
        (&fleet.controller, "maand-drive", 5.0),
        (&fleet.controller, "maand-backup", 1.0),
        (&fleet.controller, "maand-serve@shop", 1.5),
        (&fleet.controller, "maand-drive@shop", 5.0),
        (&fleet.controller, "maand-backup@shop", 1.0),
        // No sandbox, by reason: see the unit.
        (&fleet.workers[0], "maand-agent", 10.0),
    ] {
        let said = machine.get(&format!("systemd-analyze security --no-pager {unit} | grep 'Overall exposure'"));
        let level: f32 = said.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        println!("          {unit}: {level}");
        assert!(level <= most, "{said}");
    }
}

/// Two operators without root, one bucket, and nobody else.
pub fn bucket(fleet: &mut Fleet) {
    fleet.controller.get("useradd -m -G maand op && useradd -m -G maand other && useradd -m stranger");
    let said = fleet.operator(&format!("maand -C {BUCKET} init"));
    assert!(said.contains("made secrets/kv.key"), "{said}");
    let modes = format!("stat -c %a:%G {BUCKET} {BUCKET}/secrets {BUCKET}/secrets/kv.key {BUCKET}/data/maand.db");
    assert_eq!(fleet.controller.get(&modes), "2770:maand\n2770:maand\n660:maand\n660:maand");
    assert_ne!(fleet.controller.run(&as_user("stranger", &format!("ls {BUCKET}"))).code, 0);

    let conf = "advertise = \"https://10.201.0.1:7443\"\npickup_timeout = 30";
    fleet.write("maand.conf", conf);
    let hosts =
        "[{\"host\":\"10.201.0.2\",\"labels\":[\"web\",\"one\"]},{\"host\":\"10.201.0.3\",\"labels\":[\"web\"]}]";
    fleet.write("workspace/workers.json", hosts);
    let plain = "{\"version\":\"1.0.0\",\"selectors\":[\"web\"],\"hooks\":{\"hook_before\":{\"executed_on\":[\"pre_deploy\"]}}}";
    fleet.write("workspace/jobs/plain/manifest.json", plain);
    fleet.write("workspace/jobs/plain/_modules/hook_before.py", "print(\"the hook ran\")");
    fleet.write(
        "workspace/jobs/plain/Makefile",
        "start:\n\t@mkdir -p data && echo start >> data/starts\n\t@setsid sleep 100000 < /dev/null > /dev/null 2>&1 & echo $$! > data/pid\n\
         stop:\n\t@kill $$(cat data/pid) || true\nrestart: stop start",
    );
    fleet.write("workspace/jobs/unit/manifest.json", "{\"version\":\"1.0.0\",\"selectors\":[\"one\"]}");
    fleet.write(
        "workspace/jobs/unit/Makefile",
        "start:\n\t@systemd-run --quiet --unit=unit-job sleep 100000\nstop:\n\t@systemctl stop unit-job || true\nrestart: stop start",
    );
    fleet.write("workspace/jobs/broken/manifest.json", "{\"version\":\"1.0.0\",\"selectors\":[\"one\"]}");
    fleet.write(
        "workspace/jobs/broken/Makefile",
        "start:\n\t@echo no such luck; exit 7\nstop:\n\t@true\nrestart: start",
    );
    // At home is no bucket: the controller's is meant.
    fleet.operator("maand build");
    fleet.controller.get(&as_user("other", "maand build"));

    fleet.controller.get("systemctl enable --quiet --now maand-serve maand-drive");
    assert_eq!(property(&fleet.controller, "maand-serve.socket", "ActiveState"), "active");
    let status = property(&fleet.controller, "maand-serve", "StatusText");
    assert_eq!(status, "listening on [::]:7443; 0 agents connected");
    assert_eq!(property(&fleet.controller, "maand-drive", "StatusText"), "waiting for what is detached or deferred");
}

/// Enrols both, and starts their units.
pub fn join(fleet: &mut Fleet) {
    for (worker, host) in fleet.workers.iter().zip(["10.201.0.2", "10.201.0.3"]) {
        let line = fleet.operator(&format!("maand agent token {host}"));
        let join = line.lines().find_map(|line| line.trim().strip_prefix("maand-agent join ")).expect(&line);
        let (url, token) = join.split_once(' ').unwrap();
        let said = worker.get(&format!("echo {token} | maand-agent join --now {url} -"));
        assert!(said.contains("maand-agent.service is enabled and runs"), "{said}");
        assert_eq!(worker.get("systemctl is-enabled maand-agent"), "enabled");
        assert_eq!(worker.get("dpkg --verify maand-agent"), "", "the operator's file is as the package made it");
        let moment = |name| property(worker, "maand-agent", name).parse::<u64>().unwrap();
        let took = moment("ActiveEnterTimestampMonotonic") - moment("ExecMainStartTimestampMonotonic");
        println!("          {host}: ready after {} ms", took / 1000);
        // Its key and its ledger are root's alone.
        worker.get("test $(stat -c %a /var/lib/maand-agent) = 700");
    }
}

/// One job that leaves a process, one that drives a unit, one that fails.
pub fn deploy(fleet: &mut Fleet) {
    let said = fleet.controller.run(&as_user("op", "maand deploy"));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("broken"), "{said:?}");
    let [one, two] = &fleet.workers;
    for worker in [one, two] {
        let pid = process(worker, "plain").expect("plain runs");
        let group = worker.get(&format!("cat /proc/{pid}/cgroup"));
        assert!(group.contains("/maand-plain-"), "in a scope of its own: {group}");
        assert_eq!(worker.get(&format!("cat /proc/{pid}/oom_score_adj")), "0");
        let core = worker.get(&format!("grep 'core file' /proc/{pid}/limits"));
        assert!(core.contains("unlimited"), "{core}");
    }
    assert_eq!(one.get("systemctl is-active unit-job"), "active");
    harness::poll::until("the jobs in the status", harness::poll::LONG, || {
        let status = property(one, "maand-agent", "StatusText");
        if status.starts_with("update_seq 1, 3 jobs") { Ok(()) } else { Err(status) }
    });
    harness::poll::until("both in the status", harness::poll::LONG, || {
        let status = property(&fleet.controller, "maand-serve", "StatusText");
        if status.contains("2 agents connected") { Ok(()) } else { Err(status) }
    });

    fleet.write("workspace/jobs/broken/Makefile", "start:\n\t@true\nstop:\n\t@true\nrestart: start");
    fleet.operator("maand build && maand deploy");
}

/// What nobody waits for is driven by the service, and hooks run under its hardening.
pub fn detached(fleet: &mut Fleet) {
    fleet.operator(&format!("sed -i s/1.0.0/1.0.1/ {BUCKET}/workspace/jobs/plain/manifest.json"));
    fleet.operator("maand build && maand deploy --detach");
    harness::poll::until("the end of the rollout", harness::poll::LONG, || {
        let said = fleet.controller.get("journalctl --no-pager -u maand-drive");
        if said.contains(": done") { Ok(()) } else { Err(said) }
    });
    let said = fleet.controller.get("journalctl --no-pager -u maand-drive");
    assert!(said.contains("plain@10.201.0.2"), "{said}");
    for (who, why) in [("deploy", "as the operator"), ("drive", "as the service")] {
        let ran = format!("maand={who} worker=10.201.0.2 job=plain phase=pre_deploy action=hook_before stream=stdout");
        let logs = fleet.operator(&format!("grep 'the hook ran' {BUCKET}/logs/10.201.0.2.log"));
        assert!(logs.contains(&ran), "{why}: {logs}");
    }
}
