//! A bucket in a temporary directory, and `maand` run in it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::poll;
use crate::process::{Output, Running, finish};
use crate::programs::Programs;

/// A bucket that `maand init` made, with loopback addresses that no other test uses.
#[derive(Debug)]
pub struct Bucket {
    dir: TempDir,
    programs: Programs,
    /// Second and third byte of this test's addresses, 127.a.b.*.
    net: [u8; 2],
    port: u16,
}

impl Bucket {
    /// Makes one. `maand` and `agent` are the programs under test.
    pub fn new(maand: &str, agent: &str) -> Self {
        let bucket = Self::bare(maand, agent);
        bucket.maand(&["init"]).expect(0);
        bucket.listen_on(bucket.address(1), bucket.address(1));
        bucket
    }

    /// Makes the directory and addresses, without `init`.
    pub fn bare(maand: &str, agent: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("maand-it-").tempdir().unwrap();
        let programs = Programs::link(Path::new(maand), Path::new(agent), &dir.path().join("programs"));
        std::fs::create_dir(dir.path().join("bucket")).unwrap();
        // Addresses from the directory's random name: tests in parallel must not meet.
        let name = dir.path().file_name().unwrap().to_string_lossy().into_owned();
        let hash = name.bytes().fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
        let net = [10 + (hash % 200) as u8, (hash / 200 % 250) as u8];
        let probe = TcpListener::bind((Ipv4Addr::new(127, net[0], net[1], 1), 0)).unwrap();
        let port = probe.local_addr().unwrap().port();
        Self { dir, programs, net, port }
    }

    /// Writes maand.conf so that the controller listens on one address and tells agents another.
    pub fn listen_on(&self, listen: Ipv4Addr, advertise: Ipv4Addr) {
        let port = self.port;
        self.write(
            "maand.conf",
            &format!("listen = \"{listen}:{port}\"\nadvertise = \"https://{advertise}:{port}\"\n"),
        );
    }

    /// Adds a line to maand.conf.
    pub fn setting(&self, line: &str) {
        let conf = self.read("maand.conf");
        self.write("maand.conf", &format!("{conf}{line}\n"));
    }

    /// An address of this test alone, 127.a.b.`last`.
    pub fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.net[0], self.net[1], last)
    }

    /// The port that the controller listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the test; the bucket is `bucket` in it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The bucket.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join("bucket").join(relative)
    }

    /// The programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Writes a file of the bucket, making directories.
    pub fn write(&self, relative: &str, content: &str) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Reads a file of the bucket.
    pub fn read(&self, relative: &str) -> String {
        let path = self.path(relative);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// `maand` with `arguments`, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.maand);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.dir.path());
        command.env("TMPDIR", self.dir.path()).env("LANG", "C.UTF-8");
        command.current_dir(self.path("")).args(arguments);
        command
    }

    /// Runs `maand` with `arguments` to its end.
    pub fn maand(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments), Duration::from_secs(120))
    }

    /// Starts `maand` with `arguments` in the background.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Running {
        Running::start(name, self.command(arguments), &self.dir.path().join(format!("{name}.log")))
    }

    /// Starts `maand serve` and waits until it listens.
    pub fn serve(&self) -> Running {
        self.serve_in(&[])
    }

    /// The same with words before the program: how to get into a namespace.
    pub fn serve_in(&self, enter: &[String]) -> Running {
        let log = self.dir.path().join("serve.log");
        let seen = std::fs::read_to_string(&log).unwrap_or_default().matches("listening").count();
        let inner = self.command(&["serve"]);
        let command = match enter.split_first() {
            None => inner,
            Some((first, rest)) => {
                let mut outer = Command::new(first);
                outer.args(rest).arg(inner.get_program()).args(inner.get_args()).current_dir(self.path(""));
                outer
            }
        };
        let mut serve = Running::start("serve", command, &log);
        poll::until("serve to listen", poll::LONG, || match serve.ended() {
            Some(status) => panic!("serve ended: {status}\n{}", serve.printed()),
            None if serve.printed().matches("listening").count() > seen => Ok(()),
            None => Err(serve.printed()),
        });
        serve
    }

    /// Writes workers.json: hosts with one label list for all.
    pub fn workers(&self, hosts: &[String], labels: &[&str]) {
        let worker = |host: &String| serde_json::json!({"host": host, "labels": labels});
        let all: Vec<_> = hosts.iter().map(worker).collect();
        self.write("workspace/workers.json", &serde_json::to_string_pretty(&all).unwrap());
    }

    /// Writes a job whose targets append a line to `data/ran`: `<target> <current> <new>`.
    pub fn recording_job(&self, job: &str, manifest: &serde_json::Value) {
        self.write(&format!("workspace/jobs/{job}/manifest.json"), &manifest.to_string());
        let target = |name: &str| {
            format!("{name}:\n\t@mkdir -p data && echo \"{name} $$CURRENT_VERSION $$NEW_VERSION\" >> data/ran\n")
        };
        let makefile: String = ["start", "stop", "restart", "reload"].map(target).concat();
        self.write(&format!("workspace/jobs/{job}/Makefile"), &makefile);
    }

    /// The `cat` view as JSON.
    pub fn cat(&self, view: &str) -> serde_json::Value {
        let output = self.maand(&["cat", view, "--json"]).expect(0);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", output.stdout))
    }

    /// (job, worker, rollout word) of every allocation.
    pub fn rollouts(&self) -> Vec<(String, String, String)> {
        let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
        let rows = self.cat("deployments");
        let rows = rows.as_array().unwrap();
        rows.iter().map(|row| (text(row, "job"), text(row, "worker_ip"), text(row, "rollout"))).collect()
    }
}
