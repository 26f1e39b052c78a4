//! The machines of the test, and the words that its stages are written in.

use std::path::Path;
use std::time::Instant;

use harness::booted::{Machine, Site};
use packaging::dist::Format;

/// The version that is installed first, and the one that it is upgraded to.
const VERSIONS: [&str; 2] = ["0.1.0", "0.1.1"];
/// Where the controller's bucket is.
pub const BUCKET: &str = "/var/lib/maand/bucket";

/// A controller at 10.201.0.1, workers at 10.201.0.2 and 10.201.0.3.
pub struct Fleet {
    // Machines go before the site that they are on.
    pub controller: Machine,
    pub workers: [Machine; 2],
    /// Where worker one has its jobs: of the first bucket, of the second.
    pub places: [String; 2],
    _site: Site,
    _packages: tempfile::TempDir,
}

impl Fleet {
    /// Makes the packages and boots the machines; `None` where that is not permitted.
    pub fn new() -> Option<Self> {
        let begin = Instant::now();
        let packages = tempfile::tempdir().unwrap();
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("booted");
        let mut site = match Site::new(&cache, packages.path()) {
            Ok(site) => site,
            Err(why) => {
                println!("skipped: a Debian cannot be booted here: {why}");
                return None;
            }
        };
        println!("{:>6.1} s  Debian's root", begin.elapsed().as_secs_f32());
        let begin = Instant::now();
        for (version, place) in VERSIONS.into_iter().zip(["old", "new"]) {
            crate::packages::make(version, &[Format::Deb], &packages.path().join(place));
        }
        println!("{:>6.1} s  packages", begin.elapsed().as_secs_f32());
        let begin = Instant::now();
        let controller = site.machine("controller", 1);
        let workers = [site.machine("one", 2), site.machine("two", 3)];
        println!("{:>6.1} s  three machines booted", begin.elapsed().as_secs_f32());
        Some(Self { controller, workers, places: Default::default(), _site: site, _packages: packages })
    }

    /// Runs a command on the controller as an operator who is not root: in the group `maand`, at home.
    #[track_caller]
    pub fn operator(&self, script: &str) -> String {
        self.controller.get(&as_user("op", script))
    }

    /// Writes a file into the bucket, as the operator.
    pub fn write(&self, path: &str, text: &str) {
        let full = format!("{BUCKET}/{path}");
        let dir = Path::new(&full).parent().unwrap().display().to_string();
        self.operator(&format!("mkdir -p {dir} && cat > {full} <<'END'\n{text}\nEND"));
    }
}

/// A command as somebody else, in their home, with the usual mask.
pub fn as_user(user: &str, script: &str) -> String {
    format!("runuser -u {user} -- sh -c 'umask 022; cd; {}'", script.replace('\'', "'\\''"))
}

/// The process that job `plain` left running, if it still does.
pub fn process(worker: &Machine, job: &str) -> Option<String> {
    let found = worker
        .run(&format!("pid=$(cat /opt/worker/*/jobs/{job}/data/pid) && grep -q sleep /proc/$pid/comm && echo $pid"));
    (found.code == 0).then(|| found.stdout.trim().to_owned())
}

/// A property of a unit.
pub fn property(machine: &Machine, unit: &str, name: &str) -> String {
    machine.get(&format!("systemctl show --value -p {name} {unit}"))
}
