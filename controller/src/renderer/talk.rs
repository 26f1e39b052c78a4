//! Edge: one exchange with the process that renders: what it is told, what it asks, what it answers.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write as _};
use std::process::ChildStdin;

use shared::{Diagnostic, Host, JobName, RelPath};

use super::death::diagnosed;
use super::pipe::Pipe;
use super::process::Process;
use super::wire::{self, Down, Up};
use super::{Compiled, Error, Failed, Limits};
use crate::model::kv::{Namespace, Source as Values};
use crate::render::template::Source;
use crate::render::{Rendered, Scope, Unrendered};

/// Most values that are given before they are asked for.
const AHEAD: usize = 64;

/// What was rendered, and whether a key was read by its older name.
type Files = (Vec<Rendered>, bool);

/// One exchange with the process.
#[derive(Debug)]
pub(super) struct Talk {
    process: Process,
    limits: Limits,
    /// The number of the template that it looked at last.
    begun: Option<usize>,
}

impl Talk {
    pub(super) fn new(process: Process, limits: Limits) -> Self {
        Self { process, limits, begun: None }
    }

    /// It is over, and another one may begin.
    pub(super) fn over(self) -> Process {
        self.process
    }

    /// Has it compile; those that use the version that was promoted. The inner error is what is wrong with them.
    pub(super) fn compile(
        &mut self,
        job: &JobName,
        sources: &[Source],
    ) -> io::Result<Result<Vec<RelPath>, Vec<Diagnostic>>> {
        self.ask(|to| {
            wire::write(to, &Down::Compile { job: job.clone(), sources: sources.len() }, &[])?;
            for source in sources {
                let head = Down::Source { path: source.path.clone(), mode: source.mode };
                wire::write(to, &head, source.text.as_bytes())?;
            }
            Ok(())
        })?;
        match self.hear()? {
            (Up::Compiled { volatile }, _) => Ok(Ok(volatile)),
            (Up::Refused { problems }, _) => Ok(Err(problems)),
            _ => Err(unexpected()),
        }
    }

    fn ask(&mut self, say: impl FnOnce(&mut BufWriter<Pipe<ChildStdin>>) -> io::Result<()>) -> io::Result<()> {
        let to = &mut self.process.to;
        to.get_mut().within(self.limits.wait);
        say(to)?;
        to.flush()
    }

    fn hear(&mut self) -> io::Result<(Up, Vec<u8>)> {
        loop {
            self.process.from.get_mut().within(self.limits.wait);
            let received = wire::receive(&mut self.process.from)?;
            match received.ok_or(io::ErrorKind::UnexpectedEof)? {
                (Up::Begun { source }, _) => self.begun = Some(source),
                other => return Ok(other),
            }
        }
    }

    /// Has it render what it has compiled. The inner error is what is wrong with that.
    pub(super) fn render(
        &mut self,
        asked: &mut BTreeSet<(Namespace, String)>,
        scope: &Scope,
        values: &dyn Values,
    ) -> io::Result<Result<Files, Unrendered>> {
        self.begun = Some(0);
        self.ask(|to| {
            for (namespace, key) in asked.iter() {
                let namespace = namespace.at(&scope.host).to_string();
                if let (Down::Value { secret }, text) = value(scope, values, &namespace, key) {
                    wire::write(to, &Down::Ahead { namespace, key: key.clone(), secret }, text.as_bytes())?;
                }
            }
            wire::write(to, &Down::Render { scope: Box::new(scope.clone()) }, &[])
        })?;
        let every = Host::unknown();
        let mut files = Vec::new();
        loop {
            let (answer, text) = match self.hear()? {
                (Up::Names { namespace }, _) => (names(scope, values, &namespace), String::new()),
                (Up::Get { namespace, key }, _) => {
                    let answer = value(scope, values, &namespace, &key);
                    let of_worker = namespace.parse().ok().filter(Namespace::is_of_worker);
                    if let Some(namespace) = of_worker.filter(|_| asked.len() < AHEAD) {
                        asked.insert((namespace.at(&every), key));
                    }
                    answer
                }
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
            self.ask(|to| wire::write(to, &answer, text.as_bytes()))?;
        }
    }

    /// It cannot be gone on with: why, as a word about the template that it was busy with.
    pub(super) fn ended(self, compiled: &Compiled, scope: Option<&Scope>, error: &io::Error) -> Failed {
        let (end, words) = self.process.end(error);
        let busy = self.begun.and_then(|number| compiled.sources.get(number));
        let Some(path) = busy else {
            let first = words.lines().next().unwrap_or_default();
            return Failed::Renderer(Error::Ended(format!("{end} {first}").trim_end().to_owned()));
        };
        let problem = diagnosed(end, &words, &self.limits).at(format!("workspace/jobs/{}/{path}", compiled.job));
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
