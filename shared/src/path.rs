//! Paths inside a job: relative, normal, printable. What is not one of these cannot be written by an
//! agent, whatever a controller says.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// First components that belong to the job on the worker, never to a bundle (`spec/decisions.md`, Agent).
pub const RESERVED: [&str; 3] = ["data", "logs", "bin"];

/// Prefix of names that the agent uses for its own temporaries inside a job directory.
pub const TEMPORARY_PREFIX: &str = ".maand-";

/// Longest path, in bytes.
pub const MAX_LEN: usize = 255;
/// Longest component, in bytes; leaves room for the agent's temporary name beside it.
pub const MAX_COMPONENT: usize = 200;
/// Most components.
pub const MAX_DEPTH: usize = 16;

/// Why a text is not a path inside a job.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("path {path:?} is not allowed in a job: {reason}")]
pub struct PathError {
    /// What was given, escaped and cut.
    pub path: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

/// A file's path relative to its job directory, with `/` between components.
///
/// Ordered bytewise, which is the order of a bundle's canonical list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelPath(String);

impl RelPath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components, outermost first; never empty.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Everything but the last component; `None` at the top.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// Whether the first component belongs to the job on the worker.
    pub fn is_reserved(&self) -> bool {
        self.components().next().is_some_and(|first| RESERVED.contains(&first))
    }
}

impl FromStr for RelPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let no =
            |reason| Err(PathError { path: text.chars().take(120).flat_map(char::escape_default).collect(), reason });
        if text.is_empty() {
            return no("it is empty");
        }
        if text.len() > MAX_LEN {
            return no("longer than 255 bytes");
        }
        if text.starts_with('/') {
            return no("it is absolute");
        }
        if text.chars().any(|c| c.is_control() || c == '\\') {
            return no("control character or backslash");
        }
        let mut depth = 0;
        for component in text.split('/') {
            depth += 1;
            match component {
                "" => return no("an empty component"),
                "." | ".." => return no("a \".\" or \"..\" component"),
                c if c.len() > MAX_COMPONENT => return no("a component longer than 200 bytes"),
                c if c.starts_with(TEMPORARY_PREFIX) => return no("names that start with \".maand-\" are the agent's"),
                _ => {}
            }
        }
        if depth > MAX_DEPTH {
            return no("more than 16 levels");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RelPath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

impl From<RelPath> for String {
    fn from(path: RelPath) -> String {
        path.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({:?})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_pass() {
        for good in ["Makefile", "conf/app.toml", "a/b/c", "with space", "dätä/x", "data", ".env"] {
            assert_eq!(good.parse::<RelPath>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\nb",
            "a\u{1b}[2J",
            "a\\b",
            ".maand-tmp",
            "x/.maand-1",
            &"a/".repeat(16).add_x(),
            &"a".repeat(201),
            &"ab/".repeat(90),
        ] {
            assert!(bad.parse::<RelPath>().is_err(), "{bad:?}");
        }
    }

    trait AddX {
        fn add_x(self) -> String;
    }

    impl AddX for String {
        fn add_x(self) -> String {
            self + "x"
        }
    }

    #[test]
    fn parts_of_a_path() {
        let path: RelPath = "conf/app/x.toml".parse().unwrap();
        assert_eq!(path.parent(), Some("conf/app"));
        assert_eq!(path.file_name(), "x.toml");
        assert!(!path.is_reserved());
        for own in ["data", "data/x", "logs/y/z", "bin/app"] {
            assert!(own.parse::<RelPath>().unwrap().is_reserved(), "{own}");
        }
        assert!(!"database/x".parse::<RelPath>().unwrap().is_reserved());
    }
}
