//! Network namespaces: a controller, a worker on its network, and a worker behind a NAT that lets
//! nothing in. Needs root, `ip` and `nft`; where they may not be used, [`Network::new`] says why.

use std::process::Command;

/// Namespaces that are deleted when dropped.
///
/// ```text
///   near ── 10.200.2.0/24 ── controller ── 10.200.1.0/24 ── router ══ masquerade ══ 192.168.77.0/24 ── far
///                            (10.200.9.1)
/// ```
#[derive(Debug)]
pub struct Network {
    prefix: String,
}

/// The address that agents are given; both workers reach it, from their own sides.
pub const CONTROLLER: &str = "10.200.9.1";

impl Network {
    /// Makes the namespaces, or says why that is not permitted here.
    ///
    /// # Panics
    /// With `MAAND_CI` set, where skipping would hide a broken gate.
    pub fn new() -> Result<Self, String> {
        let network = Self { prefix: format!("mnd{}", std::process::id()) };
        let built = network.build();
        if let Err(why) = &built {
            assert!(std::env::var_os("MAAND_CI").is_none(), "namespaces are needed here: {why}");
        }
        built.map(|()| network)
    }

    /// Words that run a command inside a namespace.
    pub fn enter(&self, name: &str) -> [String; 4] {
        ["ip".into(), "netns".into(), "exec".into(), self.namespace(name)]
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn build(&self) -> Result<(), String> {
        for name in ["controller", "near", "router", "far"] {
            run(&["ip", "netns", "add", &self.namespace(name)])?;
            self.inside(name, &["ip", "link", "set", "lo", "up"])?;
        }
        self.link("controller", "10.200.2.1/24", "near", "10.200.2.2/24", 0)?;
        self.link("controller", "10.200.1.1/24", "router", "10.200.1.254/24", 1)?;
        self.link("router", "192.168.77.1/24", "far", "192.168.77.2/24", 2)?;
        self.inside("controller", &["ip", "address", "add", &format!("{CONTROLLER}/32"), "dev", "lo"])?;
        self.inside("near", &["ip", "route", "add", "default", "via", "10.200.2.1"])?;
        self.inside("router", &["ip", "route", "add", "default", "via", "10.200.1.1"])?;
        self.inside("far", &["ip", "route", "add", "default", "via", "192.168.77.1"])?;
        self.inside("router", &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        self.inside(
            "router",
            &[
                "nft",
                "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100 ; }; \
            add rule ip nat post ip saddr 192.168.77.0/24 masquerade; \
            add table ip filter; add chain ip filter forward { type filter hook forward priority 0 ; policy drop ; }; \
            add rule ip filter forward ct state established,related accept; \
            add rule ip filter forward ip saddr 192.168.77.0/24 accept",
            ],
        )
    }

    fn link(&self, a: &str, address_a: &str, b: &str, address_b: &str, number: u8) -> Result<(), String> {
        let (one, two) = (format!("{}a{number}", self.prefix), format!("{}b{number}", self.prefix));
        run(&["ip", "link", "add", &one, "type", "veth", "peer", "name", &two])?;
        for (name, device, address) in [(a, &one, address_a), (b, &two, address_b)] {
            run(&["ip", "link", "set", device, "netns", &self.namespace(name)])?;
            self.inside(name, &["ip", "address", "add", address, "dev", device])?;
            self.inside(name, &["ip", "link", "set", device, "up"])?;
        }
        Ok(())
    }

    fn inside(&self, name: &str, words: &[&str]) -> Result<(), String> {
        let enter = self.enter(name);
        let all: Vec<&str> = enter.iter().map(String::as_str).chain(words.iter().copied()).collect();
        run(&all)
    }

    /// Whether a command inside a namespace succeeds.
    pub fn succeeds(&self, name: &str, words: &[&str]) -> bool {
        self.inside(name, words).is_ok()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in ["controller", "near", "router", "far"] {
            drop(run(&["ip", "netns", "delete", &self.namespace(name)]));
        }
    }
}

fn run(words: &[&str]) -> Result<(), String> {
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|error| format!("{words:?}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
