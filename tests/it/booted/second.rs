//! A second bucket on the same machines, as docs/guides/install.md says: its own directory and port on the controller,
//! its own agent on worker one. Neither notices what is done to the other.

use harness::booted::Machine;
use harness::poll;

use super::fleet::{Fleet, as_user, process, property};

/// Its directory on the controller.
const SHOP: &str = "/var/lib/maand/shop";
/// Its agent's settings.
const CONFIG: &str = "/etc/maand/agent-shop.toml";

/// The process that its job left running.
fn clerk(worker: &Machine) -> Option<String> {
    let found =
        worker.run("pid=$(cat /opt/worker/*/jobs/plain/data/clerk) && grep -q sleep /proc/$pid/comm && echo $pid");
    (found.code == 0).then(|| found.stdout.trim().to_owned())
}

fn shop(fleet: &Fleet, command: &str) -> String {
    fleet.operator(&format!("maand -C {SHOP} {command}"))
}

/// Made, joined, deployed; each agent is ended and started while the other's job goes on.
pub fn begin(fleet: &mut Fleet) {
    let (one, controller) = (&fleet.workers[0], &fleet.controller);
    let first = one.get("echo /opt/worker/*/");
    controller.get(&format!("install -d -o maand -g maand -m 2770 {SHOP}"));
    shop(fleet, "init");
    let write = |path: &str, text: &str| {
        let script = format!("mkdir -p $(dirname {SHOP}/{path}) && cat > {SHOP}/{path} <<'END'\n{text}\nEND");
        fleet.operator(&script);
    };
    write("maand.conf", "listen = \"[::]:7444\"\nadvertise = \"https://10.201.0.1:7444\"");
    write("workspace/workers.json", "[{\"host\":\"10.201.0.2\",\"labels\":[\"till\"]}]");
    // The name of a job of the other bucket.
    write("workspace/jobs/plain/manifest.json", "{\"version\":\"1.0.0\",\"selectors\":[\"till\"]}");
    write(
        "workspace/jobs/plain/Makefile",
        "start:\n\t@mkdir -p data\n\t@setsid sleep 100000 < /dev/null > /dev/null 2>&1 & echo $$! > data/clerk\n\
         stop:\n\t@kill $$(cat data/clerk) || true\nrestart: stop start",
    );
    shop(fleet, "build");
    controller.get("systemctl enable --quiet --now maand-serve@shop maand-drive@shop");
    assert_eq!(property(controller, "maand-serve@shop", "StatusText"), "listening on [::]:7444; 0 agents connected");
    let line = shop(fleet, "agent token 10.201.0.2");
    let join = line.lines().find_map(|line| line.trim().strip_prefix("maand-agent join ")).expect(&line);
    let said = one.get(&format!("maand-agent --config {CONFIG} join --now {join}"));
    assert!(said.contains("maand-agent@shop.service is enabled and runs"), "{said}");
    let plain = process(one, "plain").expect("the first bucket's job");
    shop(fleet, "deploy");

    assert_eq!(one.get("systemctl is-active maand-agent maand-agent@shop"), "active\nactive");
    let both = one.get("echo /opt/worker/*/");
    let second = both.split(' ').find(|dir| *dir != first).expect("a directory of its own").to_owned();
    assert_eq!(both.split(' ').count(), 2, "{both}");
    one.get(&format!("test -e {first}jobs/plain/data/pid && test -e {second}jobs/plain/data/clerk"));
    one.get(&format!("test ! -e {first}jobs/plain/data/clerk && test ! -e {second}jobs/plain/data/pid"));
    let clerk = || clerk(one).expect("the second bucket's job");
    let own = clerk();
    for (unit, other) in [("maand-agent@shop", "maand-agent"), ("maand-agent", "maand-agent@shop")] {
        let untouched = property(one, other, "MainPID");
        for verb in ["restart", "stop", "start"] {
            one.get(&format!("systemctl {verb} {unit}"));
            assert_eq!(property(one, other, "MainPID"), untouched, "{verb} {unit}");
            assert_eq!((process(one, "plain"), clerk()), (Some(plain.clone()), own.clone()), "{verb} {unit}");
        }
    }
    // A deploy of one is none of the other.
    shop(fleet, "deploy --force");
    assert_ne!(clerk(), own);
    assert_eq!(process(one, "plain"), Some(plain));
    let status = one.get(&format!("maand-agent --config {CONFIG} status"));
    assert!(status.contains("plain"), "{status}");
    fleet.places = [first, second];
}

/// After both packages were replaced: what runs is what was installed, of the second bucket as well.
pub fn upgraded(fleet: &mut Fleet) {
    let (one, controller) = (&fleet.workers[0], &fleet.controller);
    let units = [
        (one, "maand-agent@shop", "/usr/bin/maand-agent"),
        (controller, "maand-serve@shop", "/usr/bin/maand"),
        (controller, "maand-drive@shop", "/usr/bin/maand"),
    ];
    for (machine, unit, program) in units {
        poll::until("the new program", poll::LONG, || {
            let pid = property(machine, unit, "MainPID");
            // "(deleted)" behind it: what was replaced.
            let runs = machine.run(&format!("readlink /proc/{pid}/exe")).stdout;
            if runs.trim() == program { Ok(()) } else { Err((unit, pid, runs)) }
        });
    }
    assert!(clerk(one).is_some(), "its job goes on");
    shop(fleet, "deploy --force");
    controller.get("systemctl start maand-backup@shop");
    assert_eq!(controller.get("stat -c '%a %U' /var/lib/maand/backup/shop-20*.tar.zst"), "600 maand");
}

/// It was started after the boot as well, leaves, and the first bucket's agent and jobs stay.
pub fn leave(fleet: &mut Fleet) {
    let one = &fleet.workers[0];
    poll::until("the second bucket's job after the boot", poll::LONG, || clerk(one).ok_or("it does not run"));
    let (plain, agent) = (process(one, "plain").expect("it runs"), property(one, "maand-agent", "MainPID"));
    let said = one.get(&format!("maand-agent --config {CONFIG} leave --yes"));
    assert!(said.contains("job plain: stopped") && said.contains("ended this agent's certificate"), "{said}");
    assert_eq!(clerk(one), None);
    assert_eq!(one.run("systemctl is-enabled maand-agent@shop").stdout.trim(), "disabled");
    assert_eq!(property(one, "maand-agent@shop", "ActiveState"), "inactive");
    let [first, second] = &fleet.places;
    one.get(&format!("test ! -e {CONFIG} && test ! -e {second}.maand && test -e {second}jobs/plain/data/clerk"));
    one.get(&format!("test -e {first}.maand/ledger.db && test -e {first}jobs/plain/Makefile"));
    assert_eq!((process(one, "plain"), property(one, "maand-agent", "MainPID")), (Some(plain), agent));
    let agents = shop(fleet, "--json cat agents");
    assert!(agents.contains("\"state\": \"revoked\""), "{agents}");
    assert_eq!(fleet.controller.run(&as_user("op", "maand deploy")).code, 0, "the first bucket is as it was");
}
