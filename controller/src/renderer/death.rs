//! Why a process that renders came to its end, and what that says of the template that it was busy with. Pure.

use std::fmt;

use shared::{Code, Diagnostic};

use super::Limits;
use crate::render::template::LESS;

/// What is known of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It exited.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
    /// It said nothing for too long and was killed.
    Silent,
    /// It said what cannot be understood and was killed.
    Garbled,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Silent => f.write_str("no answer in time"),
            Self::Garbled => f.write_str("an answer that cannot be read"),
        }
    }
}

/// The signal of a process that has used up its CPU time.
const XCPU: i32 = 24;
/// That of one that is killed, by the kernel too when memory runs out.
const KILL: i32 = 9;

/// What is to be said. `stderr` is what it printed at its end: of that only what our own runtime prints is looked for,
/// as a template may have made the rest.
pub(super) fn diagnosed(end: End, stderr: &str, limits: &Limits) -> Diagnostic {
    let failed = |text: String| Diagnostic::new(Code::TemplateFailed, text);
    if stderr.contains("has overflowed its stack") {
        return failed("this template is nested too deeply".to_owned())
            .remedy("shorten what is nested, chains of operators included, and let no namespace() hold itself");
    }
    if stderr.contains("memory allocation of ") {
        return failed(format!("this template takes more than {} MiB of memory", limits.memory_mb)).remedy(LESS);
    }
    match end {
        End::Signal(XCPU) => {
            failed(format!("this template takes more than {} s of CPU time", limits.cpu_s)).remedy(LESS)
        }
        End::Silent => failed(format!("this template takes more than {} s", limits.wait.as_secs())).remedy(LESS),
        End::Signal(KILL) => failed("the process that rendered this template was killed".to_owned())
            .remedy("see whether the machine ran out of memory (dmesg), then run it again"),
        end => {
            let problem = Diagnostic::new(Code::Bug, format!("the process that rendered this template failed: {end}"));
            let problem = match place(stderr) {
                Some(place) => problem.note(format!("it panicked at {place}")),
                None => problem,
            };
            problem.remedy("write the template in another way, and tell those who make maand")
        }
    }
}

/// Where in the program it panicked: `panicked at src/a.rs:1:2:`. The message behind it may hold values.
fn place(stderr: &str) -> Option<&str> {
    let (_, behind) = stderr.split_once("panicked at ")?;
    let place = behind.split_whitespace().next()?.trim_end_matches(':');
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.:-".contains(c);
    (place.len() <= 200 && place.contains(".rs:") && place.chars().all(plain)).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_words() {
        let limits = Limits::default();
        for (end, stderr, code, words) in [
            (
                End::Signal(6),
                "thread 'render' (7) has overflowed its stack\n",
                Code::TemplateFailed,
                "nested too deeply",
            ),
            (End::Signal(6), "memory allocation of 9999 bytes failed\n", Code::TemplateFailed, "more than 1024 MiB"),
            (End::Signal(24), "", Code::TemplateFailed, "more than 20 s of CPU"),
            (End::Silent, "", Code::TemplateFailed, "takes more than 300 s"),
            (End::Signal(9), "", Code::TemplateFailed, "was killed"),
            (End::Signal(11), "", Code::Bug, "failed: signal 11"),
            (End::Exit(101), "thread 'render' panicked at a/b.rs:1:2:\nhush", Code::Bug, "failed: exit code 101"),
            (End::Garbled, "", Code::Bug, "cannot be read"),
        ] {
            let said = diagnosed(end, stderr, &limits);
            assert_eq!(said.code, code, "{said}");
            assert!(said.message.contains(words) && said.remedy.is_some(), "{said}");
            assert!(!said.to_string().contains("hush"), "{said}");
        }
        let panicked = diagnosed(End::Exit(101), "thread 'render' panicked at a/b.rs:1:2:\nhush", &limits);
        assert_eq!(panicked.notes, ["it panicked at a/b.rs:1:2"]);
        assert_eq!(diagnosed(End::Exit(101), "panicked at a secret.rs: x", &limits).notes, Vec::<String>::new());
    }
}
