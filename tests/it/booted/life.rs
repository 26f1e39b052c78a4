//! Upgrade, downgrade, a boot, and the end.

use harness::poll;

use super::fleet::{BUCKET, Fleet, process, property};

/// With agents connected: the port stays open, and nobody sees an error.
pub fn controller_upgrade(fleet: &mut Fleet) {
    let (one, controller) = (&fleet.workers[0], &fleet.controller);
    let pid = property(controller, "maand-serve", "MainPID");
    let since = one.get("date +%s");
    // Dials in a circle meanwhile, as agents do.
    one.get("cat > /tmp/dial <<'END'\nwhile [ ! -e /tmp/enough ]; do\n  (exec 3<>/dev/tcp/10.201.0.1/7443) 2>/dev/null && echo in >> /tmp/dialled || echo out >> /tmp/dialled\n  sleep 0.05\ndone\nEND");
    std::thread::scope(|scope| {
        let dials = scope.spawn(|| one.run("bash /tmp/dial"));
        controller.get("dpkg -i /packages/new/maand_*.deb");
        assert_ne!(property(controller, "maand-serve", "MainPID"), pid, "it was started anew");
        poll::until("both agents", poll::LONG, || match property(controller, "maand-serve", "StatusText") {
            status if status.contains("2 agents connected") => Ok(()),
            status => Err(status),
        });
        one.get("touch /tmp/enough");
        drop(dials.join());
    });
    let dialled = one.get("sort /tmp/dialled | uniq -c");
    assert!(dialled.contains("in") && !dialled.contains("out"), "{dialled}");
    println!("          dialled meanwhile:{}", dialled.replace('\n', " "));
    for worker in &fleet.workers {
        let journal = worker.get(&format!("journalctl --no-pager -u maand-agent --since=@{since}"));
        assert!(!journal.contains("poll_failed"), "{journal}");
    }
    fleet.operator("maand deploy --force --jobs plain");
}

/// What is older than a ledger or a catalog is not installed, and says why; a backup as the timer makes it.
pub fn downgrade_and_backup(fleet: &mut Fleet) {
    let (one, controller) = (&fleet.workers[0], &fleet.controller);
    let plain = process(one, "plain").expect("it runs");
    one.get("systemctl stop maand-agent");
    let ledger = format!("{}.maand/ledger.db", fleet.places[0]);
    let schema = |path: &std::path::Path, change: &dyn Fn(u32) -> u32| {
        let connection = rusqlite::Connection::open(path).unwrap();
        let now: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        connection.pragma_update(None, "user_version", change(now)).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        now
    };
    let known = schema(&one.path(&ledger), &|_| 99);
    let refused = one.run("dpkg -i /packages/old/maand-agent_*.deb");
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("maand-agent 0.1.0 is not installed"), "{refused:?}");
    assert!(refused.stderr.contains(&format!("has schema 99, this version knows {known}")), "{refused:?}");
    assert_eq!(one.get("dpkg-query -W -f '${Status} ${Version}' maand-agent"), "install ok installed 0.1.1");
    // A program that is there all the same does not start, and is not tried for ever.
    one.run("systemctl start maand-agent");
    assert_eq!(property(one, "maand-agent", "ExecMainStatus"), "4");
    assert_eq!(property(one, "maand-agent", "ActiveState"), "failed");
    assert!(one.get("journalctl --no-pager -u maand-agent").contains("MD0096"));
    assert_eq!(process(one, "plain").as_ref(), Some(&plain));
    schema(&one.path(&ledger), &|_| known);
    one.get("systemctl start maand-agent");

    controller.get("systemctl stop maand-drive maand-serve");
    let catalog = controller.path(&format!("{BUCKET}/data/maand.db"));
    let known = schema(&catalog, &|_| 99);
    let refused = controller.run("dpkg -i /packages/old/maand_*.deb");
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("maand 0.1.0 is not installed"), "{refused:?}");
    schema(&catalog, &|_| known);
    controller.get("systemctl start maand-serve maand-drive");

    assert_eq!(controller.run("systemctl is-enabled maand-backup.timer").stdout.trim(), "disabled");
    controller.get("systemctl start maand-backup");
    let made = controller.get("stat -c '%a %U' /var/lib/maand/backup/bucket-*.tar.zst");
    assert_eq!(made, "600 maand");
}

/// A worker that comes up while the controller is away runs what it should.
pub fn boot(fleet: &mut Fleet) {
    fleet.controller.get("systemctl stop maand-serve.socket maand-serve maand-drive");
    let worker = &mut fleet.workers[0];
    worker.off();
    worker.boot();
    poll::until("the agent", poll::LONG, || match property(worker, "maand-agent", "StatusText") {
        status if status.contains("without the controller") => Ok(()),
        status => Err(status),
    });
    for job in ["plain", "slow"] {
        poll::until("what was running", poll::LONG, || process(worker, job).ok_or(job));
    }
    poll::until("the unit of a job", poll::LONG, || match property(worker, "unit-job", "ActiveState").as_str() {
        "active" => Ok(()),
        other => Err(other.to_owned()),
    });
    fleet.controller.get("systemctl start maand-serve.socket maand-serve maand-drive");
    fleet.operator("maand deploy");
}

/// One worker leaves; from the other the package is taken away, and then its settings.
pub fn leave_remove_purge(fleet: &mut Fleet) {
    let [one, two] = &fleet.workers;
    let refused = two.run("maand-agent leave");
    assert_eq!(refused.code, 2, "nobody is there to be asked: {refused:?}");
    let said = two.get("maand-agent leave --yes");
    assert!(said.contains("job plain: stopped") && said.contains("ended this agent's certificate"), "{said}");
    assert_eq!(process(two, "plain"), None);
    two.get("test -e /opt/worker/*/jobs/plain/data/starts && test ! -e /opt/worker/*/jobs/plain/Makefile");
    assert_eq!(two.run("systemctl is-enabled maand-agent").stdout.trim(), "disabled");
    assert_eq!(property(two, "maand-agent", "ActiveState"), "inactive");
    assert_eq!(two.get("ls /var/lib/maand-agent; ls /etc/maand"), "agent.toml");
    let agents = fleet.operator("maand --json cat agents");
    assert!(agents.contains("\"state\": \"revoked\""), "{agents}");

    let plain = process(one, "plain").expect("it runs");
    let removed = one.run("dpkg -r maand-agent");
    assert_eq!(removed.code, 0, "{removed:?}");
    assert!(removed.stderr.contains("go on running"), "{removed:?}");
    assert_eq!(property(one, "maand-agent", "ActiveState"), "inactive");
    one.get("test -e /etc/maand/agent.toml && test -d /var/lib/maand-agent");
    let purged = one.run("dpkg -P maand-agent");
    assert_eq!(purged.code, 0, "{purged:?}");
    assert!(purged.stderr.contains("/opt/worker stays"), "{purged:?}");
    one.get("test ! -e /etc/maand && test ! -e /var/lib/maand-agent && test -e /opt/worker/*/.maand/ledger.db");
    assert_eq!(process(one, "plain"), Some(plain));
    assert_eq!(one.get("systemctl is-active unit-job"), "active");

    let removed = fleet.controller.run("dpkg -P maand");
    assert_eq!(removed.code, 0, "{removed:?}");
    assert!(removed.stderr.contains("/var/lib/maand stays"), "{removed:?}");
    fleet.controller.get(&format!("test -e {BUCKET}/secrets/kv.key && test -e /var/lib/maand/shop/secrets/kv.key"));
    let units = "maand-serve maand-drive maand-serve.socket maand-serve@shop maand-drive@shop";
    let active = fleet.controller.run(&format!("systemctl is-active {units}")).stdout;
    assert!(active.lines().count() == 5 && active.lines().all(|line| line == "inactive"), "{active}");
    fleet.controller.get("test -z \"$(find /etc/systemd/system -name 'maand-*')\"");
}
