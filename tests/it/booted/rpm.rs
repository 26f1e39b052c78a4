//! The .rpm of both programs under rpm and systemd: install, upgrade, a refused downgrade, erase. The machine is the
//! Debian of the other test with Debian's rpm and a database of its own, so what the packages need of the distribution
//! is looked up in Debian's names by a person, not by rpm (`--nodeps`); files, scripts and units are what is asked here.

use std::path::Path;

use harness::booted::{Machine, Site};
use harness::poll;
use packaging::dist::Format;

use super::fleet::property;

/// rpm with a database of its own.
const RPM: &str = "HOME=/root rpm --dbpath /var/lib/rpm --nodeps";
/// Asks it.
const QUERY: &str = "HOME=/root rpm --dbpath /var/lib/rpm -q";

fn files(version: &str) -> String {
    let (place, machine) = (if version == "0.1.0" { "old" } else { "new" }, std::env::consts::ARCH);
    ["maand", "maand-agent"].map(|name| format!("/packages/{place}/{name}-{version}-1.{machine}.rpm")).join(" ")
}

/// The job's process, if it runs.
fn process(machine: &Machine) -> Option<String> {
    let found = machine.run("pid=$(cat /opt/worker/*/jobs/plain/data/pid) && kill -0 $pid && echo $pid");
    (found.code == 0).then(|| found.stdout.trim().to_owned())
}

#[test]
fn rpm_installs_upgrades_and_erases() {
    let packages = tempfile::tempdir().unwrap();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("booted");
    let mut site = match Site::new(&cache, packages.path()) {
        Ok(site) => site,
        Err(why) => return println!("skipped: a Debian cannot be booted here: {why}"),
    };
    for (version, place) in [("0.1.0", "old"), ("0.1.1", "new")] {
        crate::packages::make(version, &[Format::Rpm], &packages.path().join(place));
    }
    let machine = site.machine("rpm", 9);
    install(&machine);
    use_it(&machine);
    upgrade(&machine);
    erase(&machine);
    drop(machine);
}

fn install(machine: &Machine) {
    machine.get(&format!("{RPM} -i {}", files("0.1.0")));
    machine.get(&format!("{RPM} -V maand maand-agent"));
    for path in ["/usr/bin/maand", "/usr/bin/maand-agent"] {
        assert_eq!(machine.get(&format!("stat -c '%a %U:%G' {path}")), "755 root:root");
    }
    assert_eq!(machine.get("id -un maand && id -gn maand"), "maand\nmaand");
    let modes = "stat -c '%a %U:%G' /var/lib/maand/bucket /var/lib/maand-agent /opt/worker /etc/maand/agent.toml";
    assert_eq!(machine.get(modes), "2770 maand:maand\n700 root:root\n755 root:root\n644 root:root");
    assert_eq!(machine.get(&format!("{QUERY} -c maand-agent")), "/etc/maand/agent.toml");
    machine.get("test -e /usr/share/zsh/site-functions/_maand && test -e /usr/share/doc/maand/THIRD-PARTY.gz");
    for unit in ["maand-serve", "maand-serve.socket", "maand-drive", "maand-agent"] {
        assert_eq!(property(machine, unit, "ActiveState"), "inactive", "a package starts nothing: {unit}");
    }
}

/// A controller and its only worker on one machine, with a job that runs.
fn use_it(machine: &Machine) {
    machine.get("useradd -m -G maand op");
    let operator = |script: &str| machine.get(&super::fleet::as_user("op", script));
    operator("maand -C /var/lib/maand/bucket init");
    let write = |path: &str, text: &str| {
        let full = format!("/var/lib/maand/bucket/{path}");
        operator(&format!("mkdir -p $(dirname {full}) && cat > {full} <<'END'\n{text}\nEND"));
    };
    write("maand.conf", "advertise = \"https://10.201.0.9:7443\"");
    write("workspace/workers.json", "[{\"host\":\"10.201.0.9\",\"labels\":[\"web\"]}]");
    write("workspace/jobs/plain/manifest.json", "{\"version\":\"1.0.0\",\"selectors\":[\"web\"]}");
    write(
        "workspace/jobs/plain/Makefile",
        "start:\n\t@mkdir -p data\n\t@setsid sleep 100000 < /dev/null > /dev/null 2>&1 & echo $$! > data/pid\n\
         stop:\n\t@kill $$(cat data/pid) || true\nrestart: stop start",
    );
    operator("maand build");
    machine.get("systemctl enable --quiet --now maand-serve maand-drive");
    let line = operator("maand agent token 10.201.0.9");
    let join = line.lines().find_map(|line| line.trim().strip_prefix("maand-agent join ")).expect(&line);
    machine.get(&format!("maand-agent join --now {join}"));
    operator("maand deploy");
    // Settings of the operator.
    machine.get("echo 'drift_check_seconds = 600' >> /etc/maand/agent.toml");
}

fn upgrade(machine: &Machine) {
    let job = process(machine).expect("it runs");
    machine.get(&format!("{RPM} -U {}", files("0.1.1")));
    assert_eq!(machine.get(&format!("{QUERY} --qf '%{{version}} ' maand maand-agent")), "0.1.1 0.1.1");
    machine.get("grep -q '^drift_check_seconds = 600' /etc/maand/agent.toml");
    for (unit, program) in [("maand-serve", "maand"), ("maand-drive", "maand"), ("maand-agent", "maand-agent")] {
        poll::until("the new program", poll::LONG, || {
            let pid = property(machine, unit, "MainPID");
            let runs = machine.run(&format!("readlink /proc/{pid}/exe")).stdout;
            if runs.trim() == format!("/usr/bin/{program}") { Ok(()) } else { Err((unit, runs)) }
        });
        assert_eq!(machine.get(&format!("systemctl is-enabled {unit}")), "enabled");
    }
    assert_eq!(process(machine), Some(job), "jobs do not notice");

    machine.get("systemctl stop maand-agent");
    let ledger = machine.path(&machine.get("echo /opt/worker/*/.maand/ledger.db"));
    let schema = |number: u32| {
        let opened = rusqlite::Connection::open(&ledger).unwrap();
        opened.pragma_update(None, "user_version", number).unwrap();
        opened.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    };
    schema(99);
    let refused = machine.run(&format!("{RPM} -U --oldpackage {}", files("0.1.0")));
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("has schema 99, this version knows"), "{refused:?}");
    assert_eq!(machine.get(&format!("{QUERY} --qf '%{{version}}' maand-agent")), "0.1.1");
    schema(agent::state::ledger::SCHEMA);
    machine.get("systemctl start maand-agent");
}

fn erase(machine: &Machine) {
    let job = process(machine).expect("it runs");
    let said = machine.run(&format!("{RPM} -e maand-agent"));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("go on running") && said.stderr.contains("agent.toml.rpmsave"), "{said:?}");
    machine
        .get("grep -q '^drift_check_seconds = 600' /etc/maand/agent.toml.rpmsave && test ! -e /etc/maand/agent.toml");
    machine.get(
        "test -d /var/lib/maand-agent && test -e /opt/worker/*/.maand/ledger.db && test ! -e /usr/bin/maand-agent",
    );
    assert_eq!(process(machine), Some(job));

    machine.get(&format!("{RPM} -e maand"));
    let units = "maand-agent maand-serve maand-drive maand-serve.socket";
    let active = machine.run(&format!("systemctl is-active {units}")).stdout;
    assert!(active.lines().count() == 4 && active.lines().all(|line| line == "inactive"), "{active}");
    machine.get("test -z \"$(find /etc/systemd/system -name 'maand-*')\"");
    machine.get("test -e /var/lib/maand/bucket/secrets/kv.key && id maand");
    machine.get("test -z \"$(find /usr -name '*maand*')\"");
}
