//! Takes secrets out of what jobs and hooks print, before it is written anywhere.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use super::disguise;

/// Shorter values are left alone: `true` or `5432` would be found everywhere, and tell nothing.
pub const SHORTEST: usize = 8;
/// What stands where a secret was.
pub const MARK: &str = "[secret]";
/// What stands for a text of which nobody can say what is secret.
const UNKNOWN: &str = "[hidden: the bucket's secrets cannot be read]";

/// Knows secrets by their values, as they are, line by line, and in the forms of [`disguise`].
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
            for piece in pieces.filter(|piece| piece.len() >= SHORTEST) {
                patterns.extend(disguise::forms(piece).into_iter().filter(|form| form.len() >= SHORTEST));
                patterns.insert(piece.to_owned());
            }
        }
        if patterns.is_empty() {
            return Self(Knows::Nothing);
        }
        let built = AhoCorasick::builder().match_kind(MatchKind::Standard).build(patterns);
        Self(built.map_or(Knows::Everything, Knows::These))
    }

    /// One that lets nothing through.
    pub fn everything() -> Self {
        Self(Knows::Everything)
    }

    /// `text` without them.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if matches!(self.0, Knows::Everything) && !text.is_empty() {
            return UNKNOWN.into();
        }
        match self.bytes(text.as_bytes()) {
            Cow::Borrowed(_) => text.into(),
            // What is cut out begins and ends where a text does, so that the rest is one.
            Cow::Owned(clean) => String::from_utf8_lossy(&clean).into_owned().into(),
        }
    }

    /// Bytes, which need not be text, without them.
    pub fn bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        self.within(bytes, 0..bytes.len())
    }

    /// Those of `bytes` that are in `shown`, without secrets and without parts of such as lie across its ends.
    pub fn within<'a>(&self, bytes: &'a [u8], shown: Range<usize>) -> Cow<'a, [u8]> {
        let part = bytes.get(shown.clone()).unwrap_or_default();
        let all = match &self.0 {
            Knows::These(all) => all,
            Knows::Everything if !part.is_empty() => return format!("{UNKNOWN}\n").into_bytes().into(),
            Knows::Nothing | Knows::Everything => return part.into(),
        };
        let hidden = hidden(all, bytes);
        if !hidden.iter().any(|hidden| hidden.start < shown.end && hidden.end > shown.start) {
            return part.into();
        }
        let mut clean = Vec::with_capacity(part.len());
        let mut at = shown.start;
        for hidden in hidden {
            if hidden.end > at && hidden.start < shown.end {
                clean.extend_from_slice(bytes.get(at..hidden.start).unwrap_or_default());
                clean.extend_from_slice(MARK.as_bytes());
                at = hidden.end;
            }
        }
        clean.extend_from_slice(bytes.get(at..shown.end).unwrap_or_default());
        clean.into()
    }
}

/// Where secrets are, in order; those that share a byte are one.
fn hidden(all: &AhoCorasick, bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found: Vec<_> = all.find_overlapping_iter(bytes).map(|found| found.start()..found.end()).collect();
    found.sort_by_key(|found| (found.start, std::cmp::Reverse(found.end)));
    found.dedup_by(|next, last| {
        let joined = next.start < last.end;
        if joined {
            last.end = last.end.max(next.end);
        }
        joined
    });
    found
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
    fn other_forms_of_a_secret_go_too_also_within_something_longer() {
        let value = "hunter2/'\"+hunter2é";
        let redactor = Redactor::new([value]);
        for form in disguise::forms(value) {
            let clean = redactor.text(&form).into_owned();
            assert!(clean.contains(MARK) && clean.len() <= MARK.len() + 8, "{form} became {clean}");
        }
        // `user:password` of an HTTP header, wherever the password begins in it.
        for user in ["", "a", "ab", "abc", "somebody:"] {
            let header = data_encoding::BASE64.encode(format!("{user}{value}:x").as_bytes());
            let clean = redactor.text(&header).into_owned();
            assert!(clean.contains(MARK) && clean.len() < MARK.len() + user.len() * 2 + 12, "{header} became {clean}");
        }
    }

    #[test]
    fn what_lies_across_the_ends_of_what_is_shown_goes_as_a_whole() {
        let redactor = Redactor::new(["hunter2-hunter2"]);
        let text = b"a=hunter2-hunter2;";
        let within = |range| String::from_utf8(redactor.within(text, range).into_owned()).unwrap();
        for cut in 3..17 {
            assert_eq!(within(0..cut), "a=[secret]");
            assert_eq!(within(cut..text.len()), "[secret];");
        }
        assert_eq!((within(0..2), within(17..18), within(5..9)), ("a=".into(), ";".into(), MARK.into()));
        assert_eq!(within(0..18), "a=[secret];");
    }

    #[test]
    fn what_cannot_be_judged_is_not_shown() {
        assert_eq!(Redactor::everything().text("anything"), UNKNOWN);
        assert_eq!(Redactor::everything().text(""), "");
    }

    proptest! {
        #[test]
        fn no_byte_of_a_secret_survives_however_a_stream_is_cut(cut in 0usize..60, text in "[a-c]{0,20}") {
            let secret = "0123456789-0123";
            let whole = format!("{text}{secret}{text}");
            let redactor = Redactor::new([secret]);
            let cut = cut.min(whole.len());
            let clean = [redactor.within(whole.as_bytes(), 0..cut), redactor.within(whole.as_bytes(), cut..whole.len())];
            let shown = String::from_utf8(clean.concat()).unwrap();
            prop_assert_eq!(shown.replace(MARK, ""), text.repeat(2));
        }

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
