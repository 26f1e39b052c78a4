//! Edge: what is printed. Data goes to standard output, talk to standard error.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use shared::Diagnostic;
use shared::text::clean;

use crate::tally::{Tally, is_wanted, template};

/// What is over before nobody waits for.
const AFTER: Duration = Duration::from_secs(1);
/// How often a bar is drawn.
const FRAME: Duration = Duration::from_millis(100);

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
    /// Progress is shown.
    progress: bool,
    /// The bar that is on the terminal.
    bar: Mutex<Option<ProgressBar>>,
    /// Lines of several threads must not mix.
    lock: Mutex<()>,
}

impl Ui {
    /// `no_color` is whether the environment has NO_COLOR.
    pub fn new(json: bool, no_color: bool) -> Self {
        let interactive = std::io::stderr().is_terminal();
        let colour_out = std::io::stdout().is_terminal() && !no_color && !json;
        let term = term();
        Self {
            json,
            interactive,
            colour: interactive && !no_color,
            colour_out,
            quiet: false,
            progress: is_wanted(interactive, json, term.as_deref()),
            bar: Mutex::default(),
            lock: Mutex::new(()),
        }
    }

    /// For what has been said already.
    pub fn quiet() -> Self {
        Self { quiet: true, progress: false, ..Self::new(false, true) }
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
        self.beside_bar(|| drop(writeln!(std::io::stdout(), "{line}")));
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

    /// Does what may take long, and shows how far it is once it has taken a second.
    pub fn watched<T>(&self, tally: &Tally, work: impl FnOnce() -> T) -> T {
        if !self.progress {
            return work();
        }
        let (ended, end) = channel::<()>();
        std::thread::scope(move |scope| {
            scope.spawn(move || self.draw(tally, &end));
            // Dropped also by what unwinds.
            let _ended = ended;
            work()
        })
    }

    /// Draws until the other side of `end` is gone; leaves nothing behind.
    fn draw(&self, tally: &Tally, end: &Receiver<()>) {
        if end.recv_timeout(AFTER) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        loop {
            let stage = tally.stage();
            if let Ok(style) = ProgressStyle::with_template(template(stage)) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_length(stage.total);
            bar.set_position(stage.done);
            bar.set_message(stage.what);
            bar.tick();
            if end.recv_timeout(FRAME) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = None;
        bar.finish_and_clear();
    }

    /// Prints with the bar out of the way.
    fn beside_bar(&self, print: impl FnOnce()) {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// A line of talk.
    pub fn say(&self, line: impl std::fmt::Display) {
        if self.quiet {
            return;
        }
        let _guard = self.lock.lock();
        self.beside_bar(|| drop(writeln!(std::io::stderr(), "{line}")));
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

/// What the environment says of the terminal.
#[expect(clippy::disallowed_methods, reason = "edge: environment")]
fn term() -> Option<String> {
    std::env::var("TERM").ok()
}

/// The command line, as a shell would be told; what a script is made of is cut by the log.
pub fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:@%+".contains(c);
    let quoted = |word: String| match !word.is_empty() && word.chars().all(plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let words = std::env::args_os().skip(1).map(|word| quoted(word.to_string_lossy().into_owned()));
    std::iter::once("maand".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Whether the environment asks for no colours (no-color.org).
#[expect(clippy::disallowed_methods, reason = "edge: environment")]
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
