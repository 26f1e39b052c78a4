//! Edge: what this worker is, for the controller.
#![expect(clippy::disallowed_methods, reason = "edge: /proc and the PATH")]

use std::path::Path;
use std::time::{Duration, Instant};

use shared::api::v1::facts::WorkerFacts;

use crate::clock;

/// Free disk is rounded to this many MiB, so that it does not change with every look.
const DISK_STEP_MB: u64 = 1024;

/// The kernel's id of this boot.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The id of this boot; `None` where it cannot be told.
pub fn boot_id(file: &Path) -> Option<uuid::Uuid> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// How long what hardly ever changes is believed: where there are many processors, looking at them takes a while.
const STILL: Duration = Duration::from_secs(60);

/// Measures, again and again.
#[derive(Debug, Default)]
pub struct Gauge {
    /// The last time that all of it was measured.
    last: Option<(Instant, WorkerFacts)>,
}

impl Gauge {
    /// What this worker is now; of what hardly ever changes, what it was less than a minute ago.
    pub fn measure(&mut self, root: &Path) -> WorkerFacts {
        if let Some((at, last)) = &mut self.last
            && at.elapsed() < STILL
        {
            (last.disk_free_mb, last.tools) = (disk_free_mb(root), tools());
            return last.clone();
        }
        let facts = measure(root);
        self.last = Some((clock::instant(), facts.clone()));
        facts
    }
}

fn tools() -> Vec<String> {
    ["make", "sh"].into_iter().filter(|tool| on_path(tool)).map(str::to_owned).collect()
}

fn disk_free_mb(root: &Path) -> u64 {
    let free = rustix::fs::statvfs(root).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize) >> 20);
    free / DISK_STEP_MB * DISK_STEP_MB
}

fn measure(root: &Path) -> WorkerFacts {
    let uname = rustix::system::uname();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let fastest = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    WorkerFacts {
        memory_mb: memory_mb(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        cpu_mhz: clock_mhz(&cpuinfo, &fastest) * u64::from(cpus),
        cpus,
        kernel: uname.release().to_string_lossy().into_owned(),
        arch: uname.machine().to_string_lossy().into_owned(),
        disk_free_mb: disk_free_mb(root),
        tools: tools(),
    }
}

fn memory_mb(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kb: Option<u64> = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
    kb.map_or(0, |kb| kb.div_ceil(1024))
}

/// The first processor's clock, MHz; 0 when the kernel does not tell. Where cpuinfo has none, which is usual on
/// ARM, the fastest that the processor can go (`fastest`, in kHz) is what there is.
fn clock_mhz(cpuinfo: &str, fastest: &str) -> u64 {
    let told = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "cpu MHz").then(|| value.trim().split('.').next()?.parse::<u64>().ok())?
    });
    told.or_else(|| fastest.trim().parse::<u64>().ok().map(|khz| khz / 1000)).unwrap_or(0)
}

/// Whether a program is on the PATH.
pub fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_rounded_up() {
        assert_eq!(memory_mb("MemTotal:       16315481 kB\nMemFree: 1 kB\n"), 15934);
        assert_eq!(memory_mb("nothing"), 0);
    }
    #[test]
    fn a_clock_is_what_cpuinfo_says_or_the_fastest_there_is() {
        let intel = "processor\t: 0\ncpu MHz\t\t: 2399.998\nprocessor\t: 1\ncpu MHz\t\t: 800.0\n";
        assert_eq!(clock_mhz(intel, "3800000\n"), 2399);
        assert_eq!(clock_mhz("processor\t: 0\nBogoMIPS\t: 50.00\n", "1800000\n"), 1800);
        assert_eq!(clock_mhz("processor\t: 0\n", ""), 0);
    }
}
