//! A job's template, whoever wrote it.

use crate::rendering::{SECRET, isolated, render, render_with};

/// Another secret of another length.
const OTHER: &str = "quite another one";

/// Renders it with one secret and with another one. A file that is not private is the same both times, so there is
/// nothing of a secret in it, in whatever form; the message of a failure holds the secret only if the template itself
/// spells it. In the fuzzer's own process no namespace may be made: one that holds itself is written out without end.
pub(super) fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if !isolated() && text.contains("namespace") {
        return;
    }
    let (one, other) = (render(text), render_with(text, OTHER));
    match (&one, &other) {
        (Ok(one), Ok(other)) => {
            assert!(one.content.len() <= 16 << 20);
            assert!(one.private || one.content == other.content, "something of a secret in a file that is not private");
            assert!(other.private || one.content == other.content, "the same, of the other secret");
        }
        (Err(one), other) => {
            let spelled = other.as_ref().is_err_and(|other| other.iter().any(|problem| holds(&problem.to_string())));
            for problem in one {
                assert!(spelled || !holds(&problem.to_string()), "a secret in a message: {problem}");
            }
        }
        // It takes another way for each: then it has read it.
        (Ok(one), Err(_)) => assert!(one.private, "a secret was read for a file that is not private"),
    }
}

fn holds(text: &str) -> bool {
    text.contains(SECRET)
}
