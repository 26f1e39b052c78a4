//! Edge: maand.conf. Written once by init with every setting commented, read by every command.
#![expect(clippy::disallowed_methods, reason = "edge: reads maand.conf and the machine's name")]

use std::net::SocketAddr;
use std::time::Duration;

use shared::text::closest;
use shared::{Code, Diagnostic};

use crate::failure::{Exit, Failure};
use crate::paths::{BucketDir, CONTROLLERS};
use crate::regular;

/// Longest maand.conf, bytes.
const CAP: u64 = 1 << 20;

/// What `maand init` writes.
pub const TEMPLATE: &str = "\
# Settings of this bucket. Every one is shown with its default.

# Where `maand serve` (and `maand deploy` while it serves) listens for agents. One TCP port, inbound here.
# listen = \"0.0.0.0:7443\"

# The URL that agents are given. Set it when this machine's name is not what workers can reach.
# advertise = \"https://controller.example:7443\"

# Seconds that a deploy waits for an agent to pick up its work.
# pickup_timeout = 60

# Days that certificates of jobs are good for, and how many days before their end a build renews them.
# certs_ttl = 60
# certs_renewal_buffer = 10

# How long certificates of agents are good for: days, or a text such as \"12h\". Agents renew them by themselves when a
# third of that is over.
# agent_certs_ttl = 90

# Which file overrides the jobs' resources: \"prod\" for workspace/bucket.jobs.prod.conf, \"\" for bucket.jobs.conf.
# job_config_selector = \"\"

# Form of the lines in logs/: \"kv\" or \"json\".
# log_format = \"kv\"

# A log that has grown to so many MiB becomes FILE.1, that one FILE.2, and so on; so many of them stay. Of
# logs/runs/ the newest stay.
# log_max_mb = 64
# log_keep = 5
# log_keep_runs = 500
";

/// The bucket that is meant when nobody names one: the current directory, or, where that is none, the one of this
/// machine's controller.
pub fn meant_bucket() -> BucketDir {
    let here = BucketDir::new(".");
    let is_bucket = |bucket: &BucketDir| bucket.database().is_file();
    let controllers = BucketDir::new(CONTROLLERS);
    if !is_bucket(&here) && is_bucket(&controllers) { controllers } else { here }
}

/// How the bucket's logs are written and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logs {
    /// Whether lines are JSON.
    pub json: bool,
    /// Size from which a log is set aside, bytes.
    pub max_bytes: u64,
    /// How many of those set aside stay, of each.
    pub keep: u32,
    /// How many directories of runs stay.
    pub keep_runs: u32,
}

impl Default for Logs {
    fn default() -> Self {
        Self { json: false, max_bytes: 64 << 20, keep: 5, keep_runs: 500 }
    }
}

/// The bucket's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen for agents.
    pub listen: SocketAddr,
    /// The URL that agents are given, without a slash at its end.
    pub advertise: Option<String>,
    /// Seconds until work that was not picked up fails.
    pub pickup_timeout_s: u64,
    /// The bucket's logs.
    pub logs: Logs,
    /// Days that a job's certificate is good.
    pub certs_ttl_days: u32,
    /// Days before its end from which a build renews it.
    pub certs_renewal_days: u32,
    /// How long an agent's certificate is good.
    pub agent_certs_ttl: Duration,
    /// Picks `bucket.jobs.<selector>.conf`; empty for `bucket.jobs.conf`.
    pub job_config_selector: String,
    /// What deserves a word but stops nothing.
    pub warnings: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7443)),
            advertise: None,
            pickup_timeout_s: 60,
            logs: Logs::default(),
            certs_ttl_days: 60,
            certs_renewal_days: 10,
            agent_certs_ttl: Duration::from_secs(90 * 86_400),
            job_config_selector: String::new(),
            warnings: Vec::new(),
        }
    }
}

const KNOWN: [&str; 11] = [
    "listen",
    "advertise",
    "pickup_timeout",
    "certs_ttl",
    "certs_renewal_buffer",
    "agent_certs_ttl",
    "job_config_selector",
    "log_format",
    "log_max_mb",
    "log_keep",
    "log_keep_runs",
];
/// Of the tool that connected with SSH; accepted, with a word on what replaces them.
const OLD: [&str; 4] = ["use_sudo", "ssh_user", "ssh_key", "ssh_port"];

impl Settings {
    /// Reads maand.conf; a missing one means the defaults.
    pub fn load(bucket: &BucketDir) -> Result<Self, Failure> {
        match regular::text(&bucket.conf(), CAP) {
            Ok(text) => Self::parse(&text).map_err(|problems| Failure { exit: Exit::Input, problems }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Failure::new(
                Exit::Input,
                Diagnostic::new(Code::Settings, "maand.conf cannot be read").cause(&error),
            )),
        }
    }

    /// All settings, or all problems.
    pub fn parse(text: &str) -> Result<Self, Vec<Diagnostic>> {
        let problem = |message: String| Diagnostic::new(Code::Settings, message).at("maand.conf");
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                let error: toml::de::Error = error;
                let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                let problem = Diagnostic::new(Code::Settings, format!("maand.conf is no TOML: {}", error.message()));
                return Err(vec![problem.at(format_args!("maand.conf:{line}"))]);
            }
        };
        let mut settings = Self::default();
        let mut problems = Vec::new();
        let mut old = Vec::new();
        for (key, value) in &table {
            match (key.as_str(), value) {
                ("listen", toml::Value::String(text)) => match text.parse() {
                    Ok(address) => settings.listen = address,
                    Err(_) => problems.push(
                        problem(format!("listen = {text:?} is not an address and a port"))
                            .remedy("write it like \"0.0.0.0:7443\" or \"[::]:7443\""),
                    ),
                },
                ("advertise", toml::Value::String(text)) => match url(text) {
                    Some(url) => settings.advertise = Some(url),
                    None => problems.push(
                        problem(format!("advertise = {text:?} is not a URL that agents can use"))
                            .remedy("write it like \"https://controller.example:7443\", without a path"),
                    ),
                },
                ("pickup_timeout", toml::Value::Integer(seconds @ 1..=86_400)) => {
                    settings.pickup_timeout_s = seconds.unsigned_abs();
                }
                ("pickup_timeout", _) => {
                    problems.push(problem("pickup_timeout is a number of seconds, 1 to 86400".into()))
                }
                ("log_format", toml::Value::String(text)) if ["kv", "json", "jsonl"].contains(&text.as_str()) => {
                    settings.logs.json = text != "kv";
                }
                ("log_format", _) => problems.push(problem("log_format is \"kv\" or \"json\"".into())),
                ("log_max_mb", toml::Value::Integer(mb @ 1..=65_536)) => {
                    settings.logs.max_bytes = mb.unsigned_abs() << 20
                }
                ("log_max_mb", _) => problems.push(problem("log_max_mb is a number of MiB, 1 to 65536".into())),
                ("log_keep", toml::Value::Integer(count @ 1..=1000)) => {
                    settings.logs.keep = u32::try_from(*count).unwrap_or(1);
                }
                ("log_keep", _) => problems.push(problem("log_keep is a number of files, 1 to 1000".into())),
                ("log_keep_runs", toml::Value::Integer(count @ 1..=1_000_000)) => {
                    settings.logs.keep_runs = u32::try_from(*count).unwrap_or(1);
                }
                ("log_keep_runs", _) => {
                    problems.push(problem("log_keep_runs is a number of directories, 1 to 1000000".into()));
                }
                ("listen" | "advertise", _) => problems.push(problem(format!("{key} is a text in quotes"))),
                (key, _) if OLD.contains(&key) => old.push(key.to_owned()),
                // The older tool wrote 0 for "not set".
                ("certs_ttl", toml::Value::Integer(0)) => {}
                ("certs_ttl", toml::Value::Integer(days @ 1..=3650)) => {
                    settings.certs_ttl_days = u32::try_from(*days).unwrap_or(60);
                }
                ("certs_ttl", _) => problems.push(problem("certs_ttl is a number of days, 1 to 3650".into())),
                ("certs_renewal_buffer", toml::Value::Integer(days @ 0..=3650)) => {
                    settings.certs_renewal_days = u32::try_from(*days).unwrap_or(0);
                }
                ("certs_renewal_buffer", _) => {
                    problems.push(problem("certs_renewal_buffer is a number of days, 0 to 3650".into()));
                }
                ("agent_certs_ttl", value) => match lifetime(value) {
                    Some(lifetime) => settings.agent_certs_ttl = lifetime,
                    None => problems.push(
                        problem("agent_certs_ttl is how long agents' certificates are good".into()).remedy(
                            "write days, 1 to 3650, or a text such as \"12h\", \"30m\" or \"45s\", at least \"1s\"",
                        ),
                    ),
                },
                ("job_config_selector", toml::Value::String(text)) => match text.trim() {
                    "" => {}
                    text if text.parse::<shared::Name>().is_ok() => {
                        text.clone_into(&mut settings.job_config_selector);
                    }
                    text => problems.push(problem(format!("job_config_selector = {text:?} is not a name"))),
                },
                ("job_config_selector", _) => problems.push(problem(format!("{key} is a text in quotes"))),
                (key, _) => {
                    let unknown = problem(format!("there is no setting {key:?}"));
                    problems.push(match closest(key, KNOWN) {
                        Some(close) => unknown.remedy(format_args!("did you mean {close:?}?")),
                        None => unknown.remedy(format_args!("the settings are {}", KNOWN.join(", "))),
                    });
                }
            }
        }
        if settings.certs_renewal_days >= settings.certs_ttl_days {
            let (buffer, ttl) = (settings.certs_renewal_days, settings.certs_ttl_days);
            problems.push(
                problem(format!("certs_renewal_buffer {buffer} is not below certs_ttl {ttl}"))
                    .remedy("every build would make every certificate anew, and every deploy restart its job"),
            );
        }
        if !old.is_empty() {
            settings.warnings.push(format!(
                "maand.conf: {} no longer mean anything: nothing connects to a worker; agents join with \
                 `maand agent token HOST`, and dial `advertise`",
                old.join(", ")
            ));
        }
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    /// The URL to give to agents.
    pub fn advertised(&self) -> String {
        if let Some(url) = &self.advertise {
            return url.clone();
        }
        if self.listen.ip().is_unspecified() {
            let name = rustix::system::uname();
            return format!("https://{}:{}", name.nodename().to_string_lossy(), self.listen.port());
        }
        format!("https://{}", self.listen)
    }
}

/// Days, or a number with its unit.
fn lifetime(value: &toml::Value) -> Option<Duration> {
    const DAY: u64 = 86_400;
    let (count, unit) = match value {
        toml::Value::Integer(days) => (u64::try_from(*days).ok()?, DAY),
        toml::Value::String(text) => {
            let (count, unit) = text.trim().split_at_checked(text.trim().len().checked_sub(1)?)?;
            let unit = match unit {
                "d" => DAY,
                "h" => 3600,
                "m" => 60,
                "s" => 1,
                _ => return None,
            };
            (count.parse().ok()?, unit)
        }
        _ => return None,
    };
    let seconds = count.checked_mul(unit)?;
    (1..=3650 * DAY).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// `https://host:port`, nothing behind it.
fn url(text: &str) -> Option<String> {
    let rest = text.strip_prefix("https://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let fine = !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c));
    fine.then(|| format!("https://{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_the_defaults() {
        assert_eq!(Settings::parse(TEMPLATE), Ok(Settings::default()));
        let shown = ["listen", "pickup", "log_", "certs_", "agent_", "job_config"]
            .iter()
            .fold(TEMPLATE.to_owned(), |text, key| text.replace(&format!("# {key}"), key));
        assert_eq!(Settings::parse(&shown), Ok(Settings::default()), "the defaults that it shows are the defaults");
    }

    #[test]
    fn a_lifetime_is_days_or_a_number_with_a_unit() {
        let read =
            |text: &str| Settings::parse(&format!("agent_certs_ttl = {text}")).map(|s| s.agent_certs_ttl.as_secs());
        for (text, seconds) in [("90", 7_776_000), ("\"90d\"", 7_776_000), ("\"12h\"", 43_200), ("\"5s\"", 5)] {
            assert_eq!(read(text), Ok(seconds), "{text}");
        }
        for bad in ["0", "-1", "3651", "\"\"", "\"d\"", "\"12\"", "\"0s\"", "\"-1h\"", "\"1y\"", "1.5", "\"1é\""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_problems_at_once_and_old_keys_with_a_word() {
        let problems = Settings::parse("listen = \"x\"\npickup_timout = 3\nadvertise = \"http://a\"\nlog_format = 1\n")
            .unwrap_err();
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 4, "{text:?}");
        assert!(text.iter().any(|t| t.contains("did you mean \"pickup_timeout\"?")), "{text:?}");
        let settings = Settings::parse("use_sudo = true\nssh_port = 22\nadvertise = \"https://c:1/\"").unwrap();
        assert_eq!(settings.warnings.len(), 1);
        assert_eq!(settings.advertised(), "https://c:1");
        assert!(Settings::parse("a = [").unwrap_err()[0].to_string().contains("maand.conf:1"));
    }
}
