//! Edge: renders templates in a process of its own, which may take so much memory, stack and time and no more. What a
//! template does to it is the template's mistake, with its place; this process, and the next template, go on.
#![expect(clippy::disallowed_methods, reason = "edge: starts a process")]

pub mod child;
mod death;
mod pipe;
mod wire;

use std::collections::BTreeSet;
use std::io::{self, BufReader, BufWriter, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use shared::{Diagnostic, JobName, RelPath};
use thiserror::Error;

use crate::clock;
use crate::model::kv::{Namespace, Source as Values};
use crate::render::template::{Source, output};
use crate::render::{Rendered, Scope, Unrendered};
use death::{End, diagnosed};
use pipe::Pipe;
use wire::{Down, Up};

/// How the process is called; see [`child`].
pub const COMMAND: &str = "__render";
/// Most of what a process that ended has printed that is looked at, bytes.
const LAST_WORDS: u64 = 16 << 10;
/// How long one that has closed its pipes may take to end.
const ENDING: Duration = Duration::from_secs(2);

/// What rendering may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// CPU time of one template, seconds.
    pub cpu_s: u64,
    /// Memory of the process, MiB.
    pub memory_mb: u64,
    /// How long the process may say nothing. What ends a template is its CPU time; this is for a machine that stands.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu_s: 20, memory_mb: 1024, wait: Duration::from_secs(300) }
    }
}

/// Why nothing can be rendered, whatever the templates are.
#[derive(Debug, Error)]
pub enum Error {
    /// It does not start.
    #[error("the process that renders templates cannot be started")]
    Start(#[source] io::Error),
    /// It ended before it looked at a template.
    #[error("the process that renders templates ended before it began: {0}")]
    Ended(String),
}

/// Why these templates are not rendered.
#[derive(Debug)]
pub enum Failed {
    /// It is their fault.
    Workspace(Unrendered),
    /// It is not.
    Renderer(Error),
}

impl From<Vec<Diagnostic>> for Failed {
    fn from(problems: Vec<Diagnostic>) -> Self {
        Self::Workspace(Unrendered { problems, missing: None })
    }
}

/// The templates of one job, compiled by a [`Renderer`]; the next ones take their place there.
#[derive(Debug)]
pub struct Compiled {
    job: JobName,
    sources: Vec<RelPath>,
    volatile: Vec<RelPath>,
    older: bool,
}

impl Compiled {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Where the rendered files go.
    pub fn outputs(&self) -> Vec<RelPath> {
        self.sources.iter().filter_map(output).collect()
    }

    /// Templates that use the version that was promoted, which changes with every promotion.
    pub fn volatile(&self) -> &[RelPath] {
        &self.volatile
    }

    /// Whether what was rendered so far read `deploy_order`, the older name of `rollout_order`.
    pub fn used_older_key(&self) -> bool {
        self.older
    }
}

/// Starts the process when it is needed first, and anew when one has ended.
#[derive(Debug)]
pub struct Renderer {
    program: PathBuf,
    limits: Limits,
    process: Option<Process>,
}

impl Default for Renderer {
    /// Of this program: as it runs, also if its file was replaced meanwhile.
    fn default() -> Self {
        Self::new("/proc/self/exe".into(), Limits::default())
    }
}

impl Renderer {
    /// `program` is `maand`.
    pub fn new(program: PathBuf, limits: Limits) -> Self {
        Self { program, limits, process: None }
    }

    /// Compiles the templates of a job; all problems at once.
    pub fn compile(&mut self, job: &JobName, sources: &[Source]) -> Result<Compiled, Failed> {
        let paths = sources.iter().map(|source| source.path.clone()).collect();
        let mut compiled = Compiled { job: job.clone(), sources: paths, volatile: Vec::new(), older: false };
        if sources.is_empty() {
            return Ok(compiled);
        }
        let process = match self.process.take() {
            Some(process) => process,
            None => Process::start(&self.program, &self.limits).map_err(Failed::Renderer)?,
        };
        let mut process = Talk { process, begun: None };
        let said = process.ask(self.limits.wait, |to| {
            wire::send(to, &Down::Compile { job: job.clone(), sources: sources.len() }, &[])?;
            sources.iter().try_for_each(|source| {
                let head = Down::Source { path: source.path.clone(), mode: source.mode };
                wire::send(to, &head, source.text.as_bytes())
            })
        });
        let answer = said.and_then(|()| process.hear(self.limits.wait));
        match answer {
            Ok((Up::Compiled { volatile }, _)) => compiled.volatile = volatile,
            Ok((Up::Refused { problems }, _)) => {
                self.process = Some(process.process);
                return Err(problems.into());
            }
            Ok(_) => return Err(process.ended(&compiled, None, &unexpected(), &self.limits)),
            Err(error) => return Err(process.ended(&compiled, None, &error, &self.limits)),
        }
        self.process = Some(process.process);
        Ok(compiled)
    }

    /// Renders all for one allocation; all problems at once. What they read is asked of `values`, as far as `scope` lets.
    pub fn render(
        &mut self,
        compiled: &mut Compiled,
        scope: &Scope,
        values: &dyn Values,
    ) -> Result<Vec<Rendered>, Failed> {
        if compiled.is_empty() {
            return Ok(Vec::new());
        }
        let Some(process) = self.process.take() else {
            return Err(Failed::Renderer(Error::Ended("it has no templates any more".to_owned())));
        };
        let mut process = Talk { process, begun: Some(0) };
        match process.render(scope, values, self.limits.wait) {
            Ok(Ok((files, older))) => {
                compiled.older |= older;
                self.process = Some(process.process);
                Ok(files)
            }
            Ok(Err(unrendered)) => {
                self.process = Some(process.process);
                Err(Failed::Workspace(unrendered))
            }
            Err(error) => Err(process.ended(compiled, Some(scope), &error, &self.limits)),
        }
    }
}

/// One exchange with the process.
struct Talk {
    process: Process,
    /// The number of the template that it looked at last.
    begun: Option<usize>,
}

impl Talk {
    fn ask(
        &mut self,
        wait: Duration,
        say: impl FnOnce(&mut BufWriter<Pipe<ChildStdin>>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.process.to.get_mut().within(wait);
        say(&mut self.process.to)
    }

    fn hear(&mut self, wait: Duration) -> io::Result<(Up, Vec<u8>)> {
        loop {
            self.process.from.get_mut().within(wait);
            let received = wire::receive(&mut self.process.from)?;
            match received.ok_or(io::ErrorKind::UnexpectedEof)? {
                (Up::Begun { source }, _) => self.begun = Some(source),
                other => return Ok(other),
            }
        }
    }

    fn render(
        &mut self,
        scope: &Scope,
        values: &dyn Values,
        wait: Duration,
    ) -> io::Result<Result<(Vec<Rendered>, bool), Unrendered>> {
        self.ask(wait, |to| wire::send(to, &Down::Render { scope: Box::new(scope.clone()) }, &[]))?;
        let mut files = Vec::new();
        loop {
            let (answer, text) = match self.hear(wait)? {
                (Up::Names { namespace }, _) => (names(scope, values, &namespace), String::new()),
                (Up::Get { namespace, key }, _) => value(scope, values, &namespace, &key),
                (Up::File { path, mode, private }, content) => {
                    files.push(Rendered { path, mode, content, private });
                    continue;
                }
                (Up::Rendered { older }, _) => return Ok(Ok((files, older))),
                (Up::Unrendered { problems, missing }, _) => {
                    return Ok(Err(Unrendered { problems, missing: missing.and_then(parsed) }));
                }
                _ => return Err(unexpected()),
            };
            self.ask(wait, |to| wire::send(to, &answer, text.as_bytes()))?;
        }
    }

    /// It cannot be gone on with: why, as a word about the template that it was busy with.
    fn ended(self, compiled: &Compiled, scope: Option<&Scope>, error: &io::Error, limits: &Limits) -> Failed {
        let (end, words) = self.process.end(error);
        let busy = self.begun.and_then(|number| compiled.sources.get(number));
        let Some(path) = busy else {
            let first = words.lines().next().unwrap_or_default();
            return Failed::Renderer(Error::Ended(format!("{end} {first}").trim_end().to_owned()));
        };
        let problem = diagnosed(end, &words, limits).at(format!("workspace/jobs/{}/{path}", compiled.job));
        let problem = match scope {
            Some(scope) => problem.note(format!("for {} on {}", scope.job, scope.host)),
            None => problem,
        };
        vec![problem].into()
    }
}

/// Namespaces of which keys are missing; `None` if one is none.
fn parsed(all: BTreeSet<String>) -> Option<BTreeSet<Namespace>> {
    all.iter().map(|namespace| namespace.parse().ok()).collect()
}

/// What may be read is decided where it is asked for, with better words; and here, where it counts.
fn readable(scope: &Scope, namespace: &str) -> Result<Namespace, Down> {
    let namespace = namespace.parse::<Namespace>().ok().filter(|namespace| scope.access().may_read(namespace));
    namespace.ok_or_else(|| Down::Unreadable { why: "it may not be read".to_owned() })
}

fn names(scope: &Scope, values: &dyn Values, namespace: &str) -> Down {
    let namespace = match readable(scope, namespace) {
        Ok(namespace) => namespace,
        Err(refused) => return refused,
    };
    match values.keys(&namespace) {
        Ok(keys) => Down::Names { names: keys.keys().cloned().collect() },
        Err(why) => Down::Unreadable { why },
    }
}

fn value(scope: &Scope, values: &dyn Values, namespace: &str, key: &str) -> (Down, String) {
    let namespace = match readable(scope, namespace) {
        Ok(namespace) => namespace,
        Err(refused) => return (refused, String::new()),
    };
    match values.get(&namespace, key) {
        Ok(Some(value)) => (Down::Value { secret: value.secret }, value.text),
        Ok(None) => (Down::Missing, String::new()),
        Err(why) => (Down::Unreadable { why }, String::new()),
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this was not expected here")
}

/// The process, and the ways to it.
#[derive(Debug)]
struct Process {
    child: std::process::Child,
    to: BufWriter<Pipe<ChildStdin>>,
    from: BufReader<Pipe<ChildStdout>>,
    words: Pipe<ChildStderr>,
}

impl Process {
    fn start(program: &std::path::Path, limits: &Limits) -> Result<Self, Error> {
        let mut command = Command::new(program);
        command.arg(COMMAND).args([limits.cpu_s.to_string(), limits.memory_mb.to_string()]);
        command.env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: who presses Ctrl-C means this process, which decides what becomes of the other.
        let mut child = command.process_group(0).spawn().map_err(Error::Start)?;
        let (Some(to), Some(from), Some(words)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(Error::Start(io::Error::other("it has no pipes")));
        };
        let start = |error: io::Error| Error::Start(error);
        let to = BufWriter::new(Pipe::new(to).map_err(start)?);
        let from = BufReader::new(Pipe::new(from).map_err(start)?);
        Ok(Self { child, to, from, words: Pipe::new(words).map_err(start)? })
    }

    /// How it ended after `error` in speaking to it, and what it printed at its end.
    fn end(mut self, error: &io::Error) -> (End, String) {
        let end = match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => None,
            io::ErrorKind::TimedOut => Some(End::Silent),
            _ => Some(End::Garbled),
        };
        let until = clock::instant() + ENDING;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if end.is_none() && clock::instant() < until => std::thread::sleep(Duration::from_millis(1)),
                _ => break None,
            }
        };
        let end = end.or(status.map(|status| match (status.code(), status.signal()) {
            (Some(code), _) => End::Exit(code),
            (None, signal) => End::Signal(signal.unwrap_or_default()),
        }));
        let _killed = self.child.kill();
        let mut words = Vec::new();
        self.words.within(ENDING);
        let _read = (&mut self.words).take(LAST_WORDS).read_to_end(&mut words);
        (end.unwrap_or(End::Garbled), String::from_utf8_lossy(&words).into_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}
