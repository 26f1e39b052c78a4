//! Versions of jobs: parsed leniently (`spec/behaviour.md` 2.6), compared as semver 2
//! (`spec/decisions.md`): `1` and `1.0.0` are equal.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Why a text is no version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a version (1 to 3 numbers with dots, as in 2, 1.4 or v2.0.0-rc.1)")]
pub struct VersionError {
    /// What was given, cut.
    pub text: String,
}

/// A parsed version. Equality and order are semver's; [`fmt::Display`] prints the canonical `M.m.p[-pre][+build]`.
#[derive(Debug, Clone)]
pub struct Version(semver::Version);

impl Version {
    /// What a job without a version has.
    pub const UNVERSIONED: &'static str = "0.0.0";

    /// The version of a job that declares none.
    pub fn unversioned() -> Self {
        Self(semver::Version::new(0, 0, 0))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // Precedence: build metadata does not take part.
        self.0.cmp_precedence(&other.0)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let no = || VersionError { text: text.chars().take(80).collect() };
        let trimmed = text.trim();
        let bare = trimmed.strip_prefix(['v', 'V']).unwrap_or(trimmed);
        let end = bare.find(['-', '+']).unwrap_or(bare.len());
        let (core, rest) = bare.split_at(end);
        let parts: Vec<&str> = core.split('.').collect();
        if parts.len() > 3 {
            return Err(no());
        }
        let mut numbers = [0u64; 3];
        for (number, part) in numbers.iter_mut().zip(&parts) {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(no());
            }
            *number = part.parse().map_err(|_| no())?;
        }
        let [major, minor, patch] = numbers;
        semver::Version::parse(&format!("{major}.{minor}.{patch}{rest}")).map(Self).map_err(|_| no())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lenient_forms_are_equal_to_the_full_one() {
        for (text, canonical) in
            [("1", "1.0.0"), (" v2.1 ", "2.1.0"), ("V3", "3.0.0"), ("2.0.0-rc1", "2.0.0-rc1"), ("1.2.3+b5", "1.2.3+b5")]
        {
            let version: Version = text.parse().unwrap();
            assert_eq!(version.to_string(), canonical);
            assert_eq!(version, canonical.parse().unwrap());
        }
        for bad in ["", "unknown", "1.2.3.4", "1..2", "1.2-", "x", "vV1", "-1", "1.2.3-01"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn order_is_semver_2() {
        let ordered = ["0.9", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-rc.2", "1.0.0-rc.10", "1", "1.0.1", "1.10"];
        for pair in ordered.windows(2) {
            assert!(pair[0].parse::<Version>().unwrap() < pair[1].parse().unwrap(), "{pair:?}");
        }
        assert_eq!("1.0.0+a".parse::<Version>().unwrap(), "1".parse().unwrap());
    }
}
