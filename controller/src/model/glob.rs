//! The glob language of `restart_globs` (`spec/behaviour.md` 2.8; `**` matches at any depth).

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is no glob.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GlobError {
    /// Nothing but blanks.
    #[error("an empty pattern matches nothing")]
    Empty,
    /// An open class, a stray backslash.
    #[error("{text:?} is not a pattern: {why}")]
    Malformed {
        /// What was given.
        text: String,
        /// What is wrong.
        why: String,
    },
}

/// A checked pattern over paths relative to a job's directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Glob {
    text: String,
    matchers: Vec<GlobMatcher>,
}

impl Glob {
    /// As written, without blanks around it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `path` matches.
    pub fn matches(&self, path: &str) -> bool {
        self.matchers.iter().any(|matcher| matcher.is_match(path))
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl std::str::FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        let compile = |pattern: &str| {
            // Braces are letters here; the library would take them for alternatives.
            let pattern = pattern.replace('{', "[{]").replace('}', "[}]");
            let built = GlobBuilder::new(&pattern).literal_separator(true).backslash_escape(true).build();
            built
                .map(|glob| glob.compile_matcher())
                .map_err(|error| GlobError::Malformed { text: text.to_owned(), why: error.kind().to_string() })
        };
        let mut matchers = vec![compile(text)?];
        if let Some(dir) = text.strip_suffix('/') {
            // A directory stands for all that is in it.
            matchers.push(compile(&format!("{dir}/**"))?);
        } else if let Some(dir) = text.strip_suffix("/**").filter(|dir| !dir.is_empty()) {
            matchers.push(compile(dir)?);
        }
        if !text.trim_end_matches('/').contains('/') {
            // Without a slash it is a name, at any depth.
            matchers.push(compile(&format!("**/{text}"))?);
        }
        Ok(Self { text: text.to_owned(), matchers })
    }
}

impl TryFrom<String> for Glob {
    type Error = GlobError;

    fn try_from(text: String) -> Result<Self, GlobError> {
        text.parse()
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> String {
        glob.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_language() {
        for (pattern, matching, other) in [
            ("Makefile", &["Makefile", "sub/Makefile"][..], &["Makefile2", "Makefile/x"][..]),
            ("*.so", &["a.so", "lib/a.so"], &["a.so.1"]),
            ("conf/*.toml", &["conf/a.toml"], &["conf/sub/a.toml", "x/conf/a.toml"]),
            ("conf/", &["conf/a", "conf/a/b"], &["conf", "confx/a"]),
            ("conf/**", &["conf", "conf/a", "conf/a/b"], &["confx"]),
            ("**/a/b", &["a/b", "x/a/b", "x/y/a/b"], &["a/c/b"]),
            ("src/**/x.c", &["src/x.c", "src/a/b/x.c"], &["x.c"]),
            ("a?c", &["abc"], &["ac", "a/c"]),
            ("[ab].x", &["a.x", "d/b.x"], &["c.x"]),
            ("[^ab].x", &["c.x"], &["a.x"]),
            (" lib{1} ", &["lib{1}"], &["lib1"]),
            ("\\*", &["*"], &["a"]),
        ] {
            let glob: Glob = pattern.parse().unwrap();
            matching.iter().for_each(|path| assert!(glob.matches(path), "{pattern} {path}"));
            other.iter().for_each(|path| assert!(!glob.matches(path), "{pattern} {path}"));
        }
        assert!(matches!("  ".parse::<Glob>(), Err(GlobError::Empty)));
        assert!(matches!("a[".parse::<Glob>(), Err(GlobError::Malformed { .. })));
    }
}
