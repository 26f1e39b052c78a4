//! Installed from its packages like any daemon, on a Debian that systemd runs: a controller and two workers, from the
//! first `dpkg -i` to the last `dpkg -P`. One test, because booting three machines is most of what it costs; each
//! stage stands on the one before.

mod ends;
mod fleet;
mod life;
mod rpm;
mod second;
mod start;

use std::time::Instant;

use fleet::Fleet;

/// What is done and shown at one point.
type Stage = fn(&mut Fleet);

#[test]
fn installed_run_ended_upgraded_and_removed_under_systemd() {
    let Some(mut fleet) = Fleet::new() else { return };
    let stages: [(&str, Stage); 14] = [
        ("units and what they are worth", start::units),
        ("a bucket that operators share", start::bucket),
        ("join --now", start::join),
        ("a first deploy, one job of which fails", start::deploy),
        ("detached, with a hook, under maand-drive", start::detached),
        ("a second bucket on the same machines", second::begin),
        ("ends of the agent after make start", ends::after_start),
        ("ends and upgrade of the agent during make start", ends::during_start),
        ("upgrade of the controller", life::controller_upgrade),
        ("the second bucket after both upgrades", second::upgraded),
        ("downgrade and backup", life::downgrade_and_backup),
        ("a boot without the controller", life::boot),
        ("the second bucket's agent leaves", second::leave),
        ("leave, remove, purge", life::leave_remove_purge),
    ];
    for (what, stage) in stages {
        let begin = Instant::now();
        stage(&mut fleet);
        println!("{:>6.1} s  {what}", begin.elapsed().as_secs_f32());
    }
}
