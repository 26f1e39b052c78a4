//! Text that came from outside, made fit for a terminal or a log: what a worker prints must not
//! move the operator's cursor or forge a line (`design/security.md` 1.3, Logs).

/// `text` with control characters (but tab) and bidirectional overrides escaped as `\u{..}`.
pub fn clean(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let bidi = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        if (c.is_control() && c != '\t') || bidi {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// The closest of `candidates` to `wrong`, if it is close enough to be what was meant; for "did you mean".
pub fn closest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = match wrong.chars().count() {
        0..=2 => 1,
        3..=6 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .map(|c| (strsim::osa_distance(wrong, c), c))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_show_instead_of_act() {
        assert_eq!(clean("ok\tfine ä"), "ok\tfine ä");
        assert_eq!(clean("a\x1b[2Jb\r\n"), "a\\u{1b}[2Jb\\u{d}\\u{a}");
        assert_eq!(clean("\u{202e}txt"), "\\u{202e}txt");
    }

    #[test]
    fn a_typing_slip_finds_its_word() {
        let words = ["selectors", "version", "hooks"];
        assert_eq!(closest("selector", words), Some("selectors"));
        assert_eq!(closest("verison", words), Some("version"));
        assert_eq!(closest("banana", words), None);
    }
}
