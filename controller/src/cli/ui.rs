//! Edge: what is printed. Data goes to standard output, talk to standard error.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;

use serde::Serialize;
use shared::Diagnostic;
use shared::text::clean;

/// The operator's terminal, or what stands in its place.
#[derive(Debug)]
pub struct Ui {
    json: bool,
    /// Progress and prompts may redraw.
    interactive: bool,
    colour: bool,
    /// Talk is not printed.
    quiet: bool,
    /// The same of standard output.
    colour_out: bool,
    /// Lines of several threads must not mix.
    lock: Mutex<()>,
}

impl Ui {
    /// `no_color` is whether the environment has NO_COLOR.
    pub fn new(json: bool, no_color: bool) -> Self {
        let interactive = std::io::stderr().is_terminal();
        let colour_out = std::io::stdout().is_terminal() && !no_color && !json;
        Self { json, interactive, colour: interactive && !no_color, colour_out, quiet: false, lock: Mutex::new(()) }
    }

    /// For what has been said already.
    pub fn quiet() -> Self {
        Self { quiet: true, ..Self::new(false, true) }
    }

    /// Whether the user asked for JSON.
    pub fn wants_json(&self) -> bool {
        self.json
    }

    /// Whether standard error is a terminal.
    pub fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// A line of data. A closed pipe is not an error: the reader has what it wanted.
    pub fn out(&self, line: impl std::fmt::Display) {
        let _guard = self.lock.lock();
        drop(writeln!(std::io::stdout(), "{line}"));
    }

    /// The command's result as one JSON document.
    pub fn out_json(&self, value: &impl Serialize) {
        let written = self.out_long(|to| {
            serde_json::to_writer_pretty(&mut *to, value)?;
            writeln!(to)
        });
        if let Err(error) = written {
            self.say(format_args!("error[MD0001]: a result that is no JSON: {error}"));
        }
    }

    /// Data of any length, without holding all of it. A closed pipe is not an error.
    pub fn out_long(&self, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
        let _guard = self.lock.lock();
        let mut to = std::io::BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
        match write(&mut to).and_then(|()| to.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(error),
            _ => Ok(()),
        }
    }

    /// A line of talk.
    pub fn say(&self, line: impl std::fmt::Display) {
        if self.quiet {
            return;
        }
        let _guard = self.lock.lock();
        drop(writeln!(std::io::stderr(), "{line}"));
    }

    /// Something that deserves attention but stops nothing.
    pub fn warn(&self, line: impl std::fmt::Display) {
        self.say(format_args!("{} {line}", self.paint("33", "warning:")));
    }

    /// A line that a worker printed: control characters shown, not obeyed.
    pub fn worker_line(&self, label: &str, stderr: bool, line: &str) {
        self.say(format_args!("{label} {} {}", if stderr { '!' } else { '|' }, clean(line)));
    }

    /// A problem. With `--json` a JSON line on standard error.
    pub fn problem(&self, problem: &Diagnostic) {
        if self.json {
            match serde_json::to_string(problem) {
                Ok(text) => return self.say(text),
                Err(error) => return self.say(format_args!("error[MD0001]: a problem that is no JSON: {error}")),
            }
        }
        let text = problem.to_string();
        match text.split_once(':') {
            Some((head, rest)) => self.say(format_args!("{}:{rest}", self.paint("1;31", head))),
            None => self.say(text),
        }
    }

    /// `text` in an ANSI colour (`"32"` green, `"31"` red, `"33"` yellow, `"2"` dim), where colours are wanted.
    pub fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The same for a line of data.
    pub fn paint_out(&self, colour: &str, text: &str) -> String {
        if self.colour_out { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Whether the environment asks for no colours (no-color.org).
#[expect(clippy::disallowed_methods, reason = "edge: environment")]
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
