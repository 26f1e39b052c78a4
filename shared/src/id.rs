//! Identifiers as types: an allocation's id cannot be passed where a worker's is wanted, and a name
//! that breaks the rules of `spec/decisions.md` ("Workspace and build") cannot exist.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// Not a hyphenated UUID.
    #[error("{text:?} is not an id (a UUID such as 8a5da52e-d126-447d-b59e-70c05721a8aa)")]
    Uuid {
        /// What was given, cut to a length that can be shown.
        text: String,
    },
    /// Breaks the rule for names.
    #[error("{text:?} is not a valid name: 1 to 63 characters, a-z 0-9 first, then a-z 0-9 _ . -")]
    Name {
        /// What was given, cut to a length that can be shown.
        text: String,
    },
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID made elsewhere (randomness is the caller's).
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID itself.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                // Only the hyphenated form: one id has one spelling, in paths and in rows.
                if text.len() != 36 {
                    return Err(IdError::Uuid { text: shown(text) });
                }
                Uuid::try_parse(text).map(Self).map_err(|_| IdError::Uuid { text: shown(text) })
            }
        }
    };
}

uuid_id!(
    /// One bucket, for ever: part of every worker's path and of every agent's certificate.
    BucketId
);
uuid_id!(
    /// One worker as its certificate names it; a host taken out and put back gets a new one.
    WorkerId
);
uuid_id!(
    /// One job on one worker; stable over rebuilds, see [`AllocId::of`].
    AllocId
);
uuid_id!(
    /// One invocation of a command that changes something: a build, a rollout, an operation.
    RunId
);
uuid_id!(
    /// One thing an agent is asked to do; it is done at most once.
    ActionId
);
uuid_id!(
    /// One piece of ad-hoc work for an agent; it is done at most once.
    OperationId
);

impl AllocId {
    /// The id of `job` on `host` in `bucket`: derived, so that a rebuilt catalog names the same
    /// allocation by the same id. A version 8 UUID over sha256 of the three, each with its length.
    pub fn of(bucket: BucketId, job: &JobName, host: &Host) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"maand-allocation-1");
        hash.update(bucket.uuid().as_bytes());
        for part in [job.as_str(), host.as_str()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = text.bytes();
                let first = matches!(bytes.next(), Some(b'a'..=b'z' | b'0'..=b'9'));
                let rest = bytes.all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-'));
                if first && rest && text.len() <= 63 {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError::Name { text: shown(text) })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name_type!(
    /// A job: the name of its directory below `workspace/jobs`.
    JobName
);
name_type!(
    /// A worker as the operator names it in workers.json: an address, a DNS name, any word.
    Host
);
name_type!(
    /// Any other name that an operator chooses: a label, a selector, a port, a certificate, a hook.
    Name
);

impl Host {
    /// Stands for a host that is not known yet.
    pub fn unknown() -> Self {
        Self("unknown".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_and_nothing_else_passes() {
        for good in ["a", "api", "10.0.0.1", "web-1_x.y", "0", &"a".repeat(63)] {
            assert_eq!(good.parse::<JobName>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "api/x", ".hidden", "-x", "a b", "ä", "..", &"a".repeat(64), "a\n"] {
            assert!(bad.parse::<JobName>().is_err(), "{bad:?}");
            assert!(serde_json::from_value::<Host>(serde_json::json!(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_have_one_spelling() {
        let id: WorkerId = "8a5da52e-d126-447d-b59e-70c05721a8aa".parse().unwrap();
        assert_eq!(id.to_string(), "8a5da52e-d126-447d-b59e-70c05721a8aa");
        for bad in ["", "8a5da52ed126447db59e70c05721a8aa", "{8a5da52e-d126-447d-b59e-70c05721a8aa}"] {
            assert!(bad.parse::<WorkerId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_allocation_keeps_its_id_and_shares_it_with_no_other() {
        let bucket = BucketId::from_uuid(Uuid::from_u128(7));
        let id = |job: &str, host: &str| AllocId::of(bucket, &job.parse().unwrap(), &host.parse().unwrap());
        assert_eq!(id("api", "10.0.0.1"), id("api", "10.0.0.1"));
        assert_ne!(id("api1", "0.0.0.1"), id("api", "10.0.0.1"));
        assert_ne!(id("api", "a"), id("a", "api"));
        assert_eq!(id("api", "10.0.0.1").uuid().get_version_num(), 8);
    }
}
