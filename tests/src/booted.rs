//! Machines with an init of their own: Debian roots, made once by debootstrap, each booted by `systemd-nspawn` over
//! an overlay of its own, on one network that leads nowhere else. Needs root, namespaces and mounts, debootstrap and
//! a Debian mirror (the one that this machine's apt uses); where they may not be used, [`Site::new`] says why.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::poll;
use crate::process::{Output, Running, finish};

/// What a machine has beside the smallest Debian.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,make,python3-minimal,rpm";
/// Time to make the root: 300 MB are fetched and unpacked.
const MAKE: Duration = Duration::from_secs(600);
/// Time until a machine has booted.
const BOOT: Duration = Duration::from_secs(120);
/// Time for a command in a machine, unless a test says otherwise.
const COMMAND: Duration = Duration::from_secs(120);

/// A place for machines: their root, their network, what they see at /packages. Taken away when dropped.
#[derive(Debug)]
pub struct Site {
    root: PathBuf,
    place: PathBuf,
    packages: PathBuf,
    prefix: String,
    /// Names of network namespaces.
    networks: Vec<String>,
}

impl Site {
    /// Makes it, or says why that is not permitted here. `cache` keeps Debian's root from one run to the next;
    /// `packages` is what machines see at /packages.
    ///
    /// # Panics
    /// With `MAAND_CI` set, unless the kernel refuses namespaces or mounts: skipping would hide a broken gate.
    pub fn new(cache: &Path, packages: &Path) -> Result<Self, String> {
        permitted()?;
        let made = Self::make(cache, packages);
        if let Err(why) = &made {
            assert!(std::env::var_os("MAAND_CI").is_none(), "a booted Debian is needed here: {why}");
        }
        made
    }

    fn make(cache: &Path, packages: &Path) -> Result<Self, String> {
        let root = debian(cache)?;
        // One for each site, also of those in one process; interfaces have short names.
        static SITES: AtomicU8 = AtomicU8::new(b'a');
        let letter = char::from(SITES.fetch_add(1, Ordering::Relaxed));
        let prefix = format!("mnb{}{letter}", std::process::id());
        let place = std::env::temp_dir().join(format!("maand-booted-{}{letter}", std::process::id()));
        std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
        let mut site = Self { root, place, packages: packages.to_owned(), prefix, networks: Vec::new() };
        // Memory, not disk: an overlay over an overlay is refused, and nothing of it shall stay.
        run(&["mount", "-t", "tmpfs", "-o", "size=3g,mode=0755", "maand-booted", &shown(&site.place)])?;
        let hub = site.network("hub")?;
        run(&["ip", "-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        run(&["ip", "-n", &hub, "link", "set", "bridge", "up"])?;
        Ok(site)
    }

    fn network(&mut self, name: &str) -> Result<String, String> {
        let name = format!("{}-{name}", self.prefix);
        run(&["ip", "netns", "add", &name])?;
        self.networks.push(name.clone());
        run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
        Ok(name)
    }

    /// A machine with the address 10.201.0.`number`, booted.
    pub fn machine(&mut self, name: &'static str, number: u8) -> Machine {
        let (network, hub) = (self.network(name).unwrap(), format!("{}-hub", self.prefix));
        let (inner, outer) = (format!("{}i{number}", self.prefix), format!("{}o{number}", self.prefix));
        let must = |words: &[&str]| run(words).unwrap();
        must(&["ip", "link", "add", &inner, "type", "veth", "peer", "name", &outer]);
        must(&["ip", "link", "set", &inner, "netns", &network]);
        must(&["ip", "link", "set", &outer, "netns", &hub]);
        must(&["ip", "-n", &hub, "link", "set", &outer, "master", "bridge", "up"]);
        must(&["ip", "-n", &network, "address", "add", &format!("10.201.0.{number}/24"), "dev", &inner]);
        must(&["ip", "-n", &network, "link", "set", &inner, "up"]);
        let dir = self.place.join(name);
        for part in ["upper", "work", "root"] {
            std::fs::create_dir_all(dir.join(part)).unwrap();
        }
        let place = |part: &str| shown(&dir.join(part));
        let layers = format!("lowerdir={},upperdir={},workdir={}", shown(&self.root), place("upper"), place("work"));
        must(&["mount", "-t", "overlay", "overlay", "-o", &layers, &place("root")]);
        let log = dir.join("console");
        let mut machine =
            Machine { name, network, root: dir.join("root"), packages: self.packages.clone(), log, booted: None };
        machine.boot();
        machine
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(&self.place).into_iter().flatten().flatten() {
            drop(run(&["umount", "--lazy", &shown(&entry.path().join("root"))]));
        }
        drop(run(&["umount", "--lazy", &shown(&self.place)]));
        drop(std::fs::remove_dir(&self.place));
        for network in &self.networks {
            drop(run(&["ip", "netns", "delete", network]));
        }
    }
}

/// One of them.
#[derive(Debug)]
pub struct Machine {
    name: &'static str,
    network: String,
    root: PathBuf,
    packages: PathBuf,
    log: PathBuf,
    booted: Option<Booted>,
}

#[derive(Debug)]
struct Booted {
    nspawn: Running,
    /// Its first process, as this machine sees it.
    init: u32,
}

impl Machine {
    /// Boots it.
    pub fn boot(&mut self) {
        let mut command = Command::new("systemd-nspawn");
        command
            .args(["--quiet", "--register=no", "--keep-unit", "--boot", "--console=pipe", "--machine", self.name])
            .arg(format!("--network-namespace-path=/run/netns/{}", self.network))
            .arg(format!("--bind-ro={}:/packages", shown(&self.packages)))
            .arg("--directory")
            .arg(&self.root);
        let mut nspawn = Running::start(self.name, command, &self.log);
        let init = poll::until("its first process", BOOT, || {
            if let Some(status) = nspawn.ended() {
                panic!("{}: systemd-nspawn ended with {status}: {}", self.name, nspawn.printed());
            }
            first(nspawn.pid()).ok_or_else(|| nspawn.printed())
        });
        self.booted = Some(Booted { nspawn, init });
        poll::until("the end of booting", BOOT, || {
            let state = self.run("systemctl is-system-running").stdout;
            match state.trim() {
                "running" | "degraded" => Ok(()),
                other => Err(format!("{other}: {}", self.booted.as_ref().unwrap().nspawn.printed())),
            }
        });
    }

    /// Switches it off, as an operator would.
    pub fn off(&mut self) {
        if let Some(mut booted) = self.booted.take() {
            drop(enter(booted.init, "systemctl --no-block poweroff", COMMAND));
            let ended = std::time::Instant::now() + Duration::from_secs(60);
            while booted.nspawn.ended().is_none() && std::time::Instant::now() < ended {
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(booted.nspawn.ended().is_some(), "{} is not off after 60 s", self.name);
        }
    }

    /// Runs a shell's command in it, as root.
    pub fn run(&self, script: &str) -> Output {
        self.run_within(script, COMMAND)
    }

    /// The same with another time limit.
    pub fn run_within(&self, script: &str, limit: Duration) -> Output {
        enter(self.booted.as_ref().unwrap().init, script, limit)
    }

    /// What a command prints, without the end of its last line; it must succeed.
    #[track_caller]
    pub fn get(&self, script: &str) -> String {
        let output = self.run(script);
        assert_eq!(
            output.code,
            0,
            "{}: {script}\n-- stdout\n{}\n-- stderr\n{}\n-- journal\n{}",
            self.name,
            output.stdout,
            output.stderr,
            self.run("journalctl --no-pager -n 60").stdout
        );
        output.stdout.trim_end().to_owned()
    }

    /// A path in it, from here.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut booted) = self.booted.take() {
            // The end of its first process is the end of all others.
            if let Some(pid) = i32::try_from(booted.init).ok().and_then(Pid::from_raw) {
                let _gone = kill_process(pid, Signal::KILL);
            }
            for _ in 0..100 {
                if booted.nspawn.ended().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn enter(init: u32, script: &str, limit: Duration) -> Output {
    let mut command = Command::new("nsenter");
    command.args(["--target", &init.to_string(), "--all", "--", "/bin/sh", "-c", script]).env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    finish(command, limit)
}

/// The descendant of `parent` that is the first process of a namespace.
fn first(parent: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find_map(|pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        // More than one number: it is in a namespace below this one.
        let own = ids.split_whitespace().nth(1).is_some_and(|id| id == "1");
        let systemd = status.lines().any(|line| line == "Name:\tsystemd");
        if own && systemd { Some(pid) } else { first(pid) }
    })
}

/// Whether the kernel lets this process make what is needed; only that is a reason to pass over the test in the gate.
fn permitted() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root".into());
    }
    run(&["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"])
        .map_err(|why| format!("namespaces or mounts are not permitted: {why}"))
}

/// Debian's root, from the cache or made.
fn debian(cache: &Path) -> Result<PathBuf, String> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let of = |key: &str| release.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim_matches('"'));
    let codename = match (of("ID="), of("VERSION_CODENAME=")) {
        (Some("debian"), Some(codename)) => codename.to_owned(),
        _ => return Err("this machine is no Debian, so it knows no mirror of one".into()),
    };
    let root = cache.join(format!("debian-{codename}-2"));
    if root.is_dir() {
        return Ok(root);
    }
    std::fs::create_dir_all(cache).map_err(|error| error.to_string())?;
    // Made once, whoever asks at the same time.
    let lock = std::fs::File::create(cache.join("lock")).map_err(|error| error.to_string())?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|error| error.to_string())?;
    if root.is_dir() {
        return Ok(root);
    }
    let half = cache.join(format!("half-{}", std::process::id()));
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={PACKAGES}"), &codename]).arg(&half).arg(mirror(&codename)?);
    let proxy = said(&["apt-config", "shell", "proxy", "Acquire::http::Proxy"]).unwrap_or_default();
    if let Some(proxy) = proxy.trim().strip_prefix("proxy='") {
        command.env("http_proxy", proxy.trim_end_matches('\''));
    }
    let made = finish(command, MAKE);
    let whole = if made.code == 0 {
        std::fs::rename(&half, &root).map_err(|error| error.to_string())
    } else {
        Err(made.stdout)
    };
    drop(std::fs::remove_dir_all(&half));
    whole.map(|()| root)
}

/// Where this machine's apt gets that release from.
fn mirror(codename: &str) -> Result<String, String> {
    let targets =
        said(&["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"])?;
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some(codename) && words.next() == Some("main"))
            .then(|| words.next())
            .flatten()
            .map(str::to_owned)
    };
    targets.lines().find_map(of).ok_or_else(|| format!("apt here knows no mirror of {codename}"))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn said(words: &[&str]) -> Result<String, String> {
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|error| format!("{words:?}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn run(words: &[&str]) -> Result<(), String> {
    said(words).map(drop)
}
