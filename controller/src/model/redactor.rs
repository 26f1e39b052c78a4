//! Takes secrets out of what jobs and hooks print, before it is written anywhere.

use std::borrow::Cow;
use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};

/// Shorter values are left alone: `true` or `5432` would be found everywhere, and tell nothing.
pub const SHORTEST: usize = 8;
/// What stands where a secret was.
pub const MARK: &str = "[secret]";
/// What stands for a text of which nobody can say what is secret.
const UNKNOWN: &str = "[hidden: the bucket's secrets cannot be read]";

/// Knows secrets by their values, as they are and line by line; not what was made of them.
#[derive(Debug, Clone)]
pub struct Redactor(Knows);

#[derive(Clone)]
enum Knows {
    Nothing,
    These(AhoCorasick),
    /// The secrets could not be read.
    Everything,
}

impl std::fmt::Debug for Knows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::These(_) => "[hidden]",
            Self::Everything => "everything",
        })
    }
}

impl Redactor {
    /// One that takes out `secrets`.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut patterns = BTreeSet::new();
        for secret in secrets {
            let pieces = std::iter::once(secret.trim()).chain(secret.lines().map(str::trim));
            patterns.extend(pieces.filter(|piece| piece.len() >= SHORTEST));
        }
        if patterns.is_empty() {
            return Self(Knows::Nothing);
        }
        let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns);
        Self(built.map_or(Knows::Everything, Knows::These))
    }

    /// One that lets nothing through.
    pub fn everything() -> Self {
        Self(Knows::Everything)
    }

    /// `text` without them.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match &self.0 {
            Knows::These(all) if all.is_match(text) => {
                let mut clean = String::with_capacity(text.len());
                all.replace_all_with(text, &mut clean, |_, _, clean| {
                    clean.push_str(MARK);
                    true
                });
                clean.into()
            }
            Knows::Everything if !text.is_empty() => UNKNOWN.into(),
            Knows::Nothing | Knows::These(_) | Knows::Everything => text.into(),
        }
    }

    /// Bytes, which need not be text, without them.
    pub fn bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match &self.0 {
            Knows::These(all) if all.is_match(bytes) => {
                let mut clean = Vec::with_capacity(bytes.len());
                all.replace_all_with_bytes(bytes, &mut clean, |_, _, clean| {
                    clean.extend_from_slice(MARK.as_bytes());
                    true
                });
                clean.into()
            }
            Knows::Everything if !bytes.is_empty() => format!("{UNKNOWN}\n").into_bytes().into(),
            Knows::Nothing | Knows::These(_) | Knows::Everything => bytes.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_and_their_lines_go_and_all_else_stays() {
        let redactor =
            Redactor::new(["hunter2-hunter2", "short", "-----BEGIN\nMIIEvQIBADAN\nend\n", "  padded-value\n"]);
        for (text, clean) in [
            ("password=hunter2-hunter2;", "password=[secret];"),
            ("hunter2-hunter2hunter2-hunter2", "[secret][secret]"),
            ("short is short", "short is short"),
            ("a MIIEvQIBADAN b", "a [secret] b"),
            ("padded-value", "[secret]"),
            ("hunter2-hunter", "hunter2-hunter"),
            ("", ""),
        ] {
            assert_eq!(redactor.text(text), clean);
            assert_eq!(redactor.bytes(text.as_bytes()), clean.as_bytes());
        }
        assert_eq!(redactor.bytes(b"\xff\0hunter2-hunter2\xfe"), &b"\xff\0[secret]\xfe"[..]);
        assert!(matches!(Redactor::new(["", "short"]).text("short"), Cow::Borrowed("short")));
        assert!(!format!("{redactor:?}").contains("hunter2"));
    }

    #[test]
    fn of_two_secrets_where_one_is_the_others_beginning_nothing_is_left() {
        let redactor = Redactor::new(["abcdefgh", "abcdefghijkl"]);
        assert_eq!(redactor.text("x abcdefghijkl abcdefgh"), "x [secret] [secret]");
    }

    #[test]
    fn what_cannot_be_judged_is_not_shown() {
        assert_eq!(Redactor::everything().text("anything"), UNKNOWN);
        assert_eq!(Redactor::everything().text(""), "");
    }

    proptest! {
        #[test]
        fn no_secret_survives(secrets in prop::collection::vec("[a-c]{8,10}", 1..4), text in "[a-c \n]{0,80}") {
            let redactor = Redactor::new(secrets.iter().map(String::as_str));
            let clean = redactor.text(&text);
            for secret in &secrets {
                prop_assert!(!clean.contains(secret.as_str()), "{text:?} became {clean:?}");
            }
            prop_assert_eq!(redactor.bytes(text.as_bytes()), clean.as_bytes());
        }
    }
}
