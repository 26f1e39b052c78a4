//! Edge: renders templates in a process of its own, which may take so much memory, stack and time and no more. What a
//! template does to it is the template's mistake, with its place; this process, and the next template, go on.

pub mod child;
mod death;
mod pipe;
mod process;
mod talk;
mod wire;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use shared::{Diagnostic, JobName, RelPath};
use thiserror::Error;

use crate::model::kv::{Namespace, Source as Values};
use crate::render::template::{Source, output};
use crate::render::{Rendered, Scope, Unrendered};
use process::Process;
use talk::Talk;

/// How the process is called; see [`child`].
pub const COMMAND: &str = "__render";

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
    /// Which of its renderer's it is.
    number: u64,
    job: JobName,
    sources: Vec<RelPath>,
    volatile: Vec<RelPath>,
    older: bool,
    /// What they asked for that each worker has its own of, for any worker: the next one is given it before it asks.
    asked: BTreeSet<(Namespace, String)>,
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
    /// It, and the number of what it has compiled.
    process: Option<(Process, u64)>,
    /// The number of what was compiled last.
    compiled: u64,
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
        Self { program, limits, process: None, compiled: 0 }
    }

    /// Compiles the templates of a job; all problems at once.
    pub fn compile(&mut self, job: &JobName, sources: &[Source]) -> Result<Compiled, Failed> {
        self.compiled += 1;
        let mut compiled = Compiled {
            number: self.compiled,
            job: job.clone(),
            sources: sources.iter().map(|source| source.path.clone()).collect(),
            volatile: Vec::new(),
            older: false,
            asked: BTreeSet::new(),
        };
        if sources.is_empty() {
            return Ok(compiled);
        }
        let process = match self.process.take() {
            Some((process, _)) => process,
            None => Process::start(&self.program, &self.limits).map_err(Failed::Renderer)?,
        };
        let mut talk = Talk::new(process, self.limits);
        match talk.compile(job, sources) {
            Ok(answer) => {
                self.process = Some((talk.over(), compiled.number));
                compiled.volatile = answer?;
                Ok(compiled)
            }
            Err(error) => Err(talk.ended(&compiled, None, &error)),
        }
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
        let process = match self.process.take() {
            Some((process, number)) if number == compiled.number => process,
            other => {
                self.process = other;
                return Err(Failed::Renderer(Error::Ended("it has other templates".to_owned())));
            }
        };
        let mut talk = Talk::new(process, self.limits);
        match talk.render(&mut compiled.asked, scope, values) {
            Ok(answer) => {
                self.process = Some((talk.over(), compiled.number));
                let (files, older) = answer.map_err(Failed::Workspace)?;
                compiled.older |= older;
                Ok(files)
            }
            Err(error) => Err(talk.ended(compiled, Some(scope), &error)),
        }
    }
}
