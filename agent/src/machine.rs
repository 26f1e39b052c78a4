//! Edge: which machine this is, and which one the identity was made on: a copy of an image must not speak under the
//! name of the machine that it was made of.
#![expect(clippy::disallowed_methods, reason = "edge: the machine's id, machine.json, a random id")]

use serde::{Deserialize, Serialize};
use shared::api::v1::session::SessionRequest;
use shared::{BlobDigest, BucketId, Code, Diagnostic};
use uuid::Uuid;

use crate::identity::Identity;
use crate::state::durable;

/// What is kept beside the identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Digest of the machine's id when the agent joined; `None` where there was none.
    pub machine: Option<String>,
    /// Made at random then.
    pub instance: Uuid,
}

/// Digest of this machine's id. The id itself is nobody else's business.
pub fn here(bucket: BucketId) -> Option<String> {
    let id =
        ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().find_map(|path| std::fs::read_to_string(path).ok())?;
    let id = id.trim();
    let is_id = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| BlobDigest::of(format!("maand-machine-1\n{bucket}\n{id}").as_bytes()).hex())
}

/// The kernel's boot id.
pub fn boot_id() -> Uuid {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(Uuid::nil())
}

/// A random id.
pub fn random() -> Uuid {
    Uuid::new_v4()
}

impl Machine {
    /// What a start of an agent says of itself; `counted` is the number that its own ledger gives it.
    pub fn start(&self, bucket: BucketId, counted: u64) -> SessionRequest {
        SessionRequest {
            start: random(),
            counted,
            boot_id: boot_id(),
            machine: here(bucket),
            instance: self.instance,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Whether an identity that was made on `known` may be used here.
fn is_same(known: Option<&str>, here: Option<&str>) -> bool {
    match (known, here) {
        (Some(known), Some(here)) => known == here,
        // Without an id nothing can be said.
        _ => true,
    }
}

/// Records that the identity belongs to this machine.
pub fn record(identity: &Identity, bucket: BucketId) -> Result<Machine, Diagnostic> {
    let machine = Machine { machine: here(bucket), instance: random() };
    let text = serde_json::to_vec(&machine).unwrap_or_default();
    durable::write(&identity.machine(), &text, 0o600).map_err(|error| {
        Diagnostic::new(Code::AgentState, "this machine's id cannot be recorded")
            .at(identity.machine().display())
            .cause(&error)
    })?;
    Ok(machine)
}

/// What was recorded, if this is still that machine. An identity from before anything was recorded is this one's.
pub fn check(identity: &Identity, bucket: BucketId) -> Result<Machine, Diagnostic> {
    let text = match std::fs::read(identity.machine()) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return record(identity, bucket),
        Err(error) => {
            let problem = Diagnostic::new(Code::AgentState, "the record of this machine's id cannot be read");
            return Err(problem.at(identity.machine().display()).cause(&error));
        }
    };
    let known: Machine = serde_json::from_slice(&text).map_err(|error| {
        Diagnostic::new(Code::AgentState, "the record of this machine's id is damaged")
            .at(identity.machine().display())
            .cause(&error)
            .remedy("maand-agent adopt, if this machine is the one that joined")
    })?;
    if is_same(known.machine.as_deref(), here(bucket).as_deref()) {
        return Ok(known);
    }
    Err(Diagnostic::new(Code::CopiedIdentity, "this agent's identity was made on another machine: it is a copy")
        .at(identity.machine().display())
        .note("the machine's id (/etc/machine-id) is not the one that it had when the agent joined")
        .remedy(
            "on a new machine: maand agent token HOST on the controller, and the line here with --replace; if this is the \
             same machine and its id was changed: maand-agent adopt",
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_ids_that_differ_are_two_machines() {
        for (known, here, expected) in [
            (Some("a"), Some("a"), true),
            (Some("a"), Some("b"), false),
            (Some("a"), None, true),
            (None, Some("a"), true),
            (None, None, true),
        ] {
            assert_eq!(is_same(known, here), expected, "{known:?} {here:?}");
        }
    }
}
