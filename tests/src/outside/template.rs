//! A job's template, whoever wrote it.

use crate::rendering::{SECRET, render};

/// Renders it. Nothing of a secret is in a file that is not private, nor in the message of a failure.
pub(super) fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let holds = |content: &[u8]| content.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    match render(text) {
        Ok(file) => {
            assert!(file.content.len() <= 16 << 20);
            assert!(file.private || !holds(&file.content), "a secret in a file that is not private");
        }
        Err(problems) => {
            for problem in problems {
                assert!(!holds(problem.to_string().as_bytes()), "a secret in a message: {problem}");
            }
        }
    }
}
