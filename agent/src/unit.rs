//! Edge: the agent's unit: `join --now` enables and starts it, `leave` ends it.
#![expect(clippy::disallowed_methods, reason = "edge: runs systemctl")]

use std::path::Path;
use std::process::Command;

use shared::{Code, Diagnostic};

/// Where the packages' units look for settings.
const SETTINGS: &str = "/etc/maand";

/// The unit that runs an agent with these settings, if one does.
pub fn of(config: &Path) -> Option<String> {
    let config = std::path::absolute(config).ok()?;
    if config.parent()? != Path::new(SETTINGS) {
        return None;
    }
    match config.file_name()?.to_str()?.strip_suffix(".toml")? {
        "agent" => Some("maand-agent.service".to_owned()),
        // What joins the two in the template's own name is no part of the bucket's.
        name => {
            let name = name.strip_prefix("agent-").filter(|name| !name.is_empty() && !name.contains('.'))?;
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            plain.then(|| format!("maand-agent@{name}.service"))
        }
    }
}

fn booted() -> bool {
    // sd_booted(3): exactly this directory.
    Path::new("/run/systemd/system").is_dir()
}

/// The unit that `--now` is about; refused while nothing has been done yet where there can be none.
pub fn needed(config: &Path) -> Result<String, Diagnostic> {
    let problem = |message: String| Diagnostic::new(Code::Usage, message);
    let Some(unit) = of(config) else {
        let message = format!("no unit runs an agent with {}", config.display());
        let remedy = format!(
            "name {SETTINGS}/agent.toml or {SETTINGS}/agent-NAME.toml (letters, digits, _), or leave --now out"
        );
        return Err(problem(message).remedy(remedy));
    };
    if !booted() {
        let remedy = "leave --now out, and let what supervises daemons here run: maand-agent run";
        return Err(problem("this machine is not run by systemd".into()).remedy(remedy));
    }
    let known = systemctl(&["cat", &unit]).is_ok();
    if known {
        Ok(unit)
    } else {
        Err(problem(format!("{unit} is not installed")).remedy("install the package, or leave --now out"))
    }
}

/// Enables it and starts it anew; it is ready when this returns.
pub fn start(unit: &str) -> Result<(), Diagnostic> {
    let started = systemctl(&["enable", unit]).and_then(|()| systemctl(&["restart", unit]));
    started.map_err(|why| {
        let problem = Diagnostic::new(Code::AgentState, format!("{unit} does not start")).note(why);
        problem.remedy(format_args!("this agent has joined; what the unit says: journalctl -u {unit}"))
    })
}

/// Ends it, and it is not started at the next boot; without systemd or such a unit there is nothing to end.
pub fn end(config: &Path) -> Result<(), Diagnostic> {
    let Some(unit) = of(config).filter(|_| booted()) else { return Ok(()) };
    if systemctl(&["cat", &unit]).is_err() {
        return Ok(());
    }
    let ended = systemctl(&["disable", &unit]).and_then(|()| systemctl(&["stop", &unit]));
    ended.map_err(|why| Diagnostic::new(Code::AgentState, format!("{unit} cannot be ended")).note(why))
}

fn systemctl(words: &[&str]) -> Result<(), String> {
    match Command::new("systemctl").arg("--quiet").args(words).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(shared::text::clean(String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("systemctl: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_their_unit() {
        let unit = |path: &str| of(Path::new(path));
        assert_eq!(unit("/etc/maand/agent.toml").as_deref(), Some("maand-agent.service"));
        assert_eq!(unit("/etc/maand/agent-shop.toml").as_deref(), Some("maand-agent@shop.service"));
        for other in [
            "/etc/maand/shop.toml",
            "/etc/maand/agent-.toml",
            "/etc/maand/agent-a.joined.toml",
            "/tmp/agent.toml",
            "/etc/maand/agent-a b.toml",
        ] {
            assert_eq!(unit(other), None, "{other}");
        }
    }
}
