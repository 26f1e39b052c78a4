//! Jinja templates of a job: compiled once a build, rendered for each allocation. Strict: a name that
//! is not defined is an error, with file and line.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};
use shared::{Code, Diagnostic, JobName, RelPath};

use super::values::{self, FORBIDDEN, MISSING};
use super::{Rendered, Scope, functions};
use crate::model::kv::{Lookup, Namespace};

/// Longest output, bytes.
const OUTPUT_CAP: usize = 16 << 20;
/// Steps that one rendering may take; 64 bytes of what it makes count as one.
const FUEL: u64 = 4_000_000;
/// Longest text of the library in a message, characters.
const LONGEST_TEXT: usize = 400;
/// What to do about a template that takes more.
pub const LESS: &str =
    "make less of it: shorter loops, fewer and shorter texts; or let a hook work it out and store it";

/// A template as it is in the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `NAME.j2`, relative to the job's directory.
    pub path: RelPath,
    /// Mode of the file.
    pub mode: u32,
    /// Its text.
    pub text: String,
}

/// What a template sees.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Of the allocation that is rendered for.
    pub scope: &'a Arc<Scope>,
    /// Where values come from; access is checked for each read.
    pub values: &'a Arc<dyn Lookup>,
}

/// The templates of one job.
#[derive(Debug)]
pub struct Templates {
    job: JobName,
    environment: Environment<'static>,
    sources: Vec<Source>,
    /// A rendering read a key by its older name.
    older: Arc<AtomicBool>,
}

impl Templates {
    /// Compiles; all problems at once. `begin` is told the number of each template before it is looked at: one may take
    /// more than the process that it is in may have.
    pub fn compile(job: &JobName, sources: Vec<Source>, begin: &dyn Fn(usize)) -> Result<Self, Vec<Diagnostic>> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // A configuration file ends as its author ended it. Delimiters are the usual ones: this cannot fail.
        if let Ok(syntax) = minijinja::syntax::SyntaxConfig::builder().keep_trailing_newline(true).build() {
            environment.set_syntax(syntax);
        }
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        functions::add(&mut environment);
        let mut problems = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            begin(number);
            if let Err(error) = environment.add_template_owned(source.path.to_string(), source.text.clone()) {
                let place = place(job, &source.path, &error);
                problems.push(
                    Diagnostic::new(
                        Code::TemplateSyntax,
                        format!("this template cannot be parsed: {}", detail(&error)),
                    )
                    .at(place)
                    .remedy("correct the template; its syntax is that of Jinja, without import, include and extends"),
                );
            }
        }
        if problems.is_empty() {
            Ok(Self { job: job.clone(), environment, sources, older: Arc::default() })
        } else {
            Err(problems)
        }
    }

    /// Templates that use the version that was promoted, which changes with every promotion.
    pub fn volatile(&self) -> Vec<&RelPath> {
        let uses = |source: &&Source| {
            let template = self.environment.get_template(source.path.as_str());
            template.is_ok_and(|template| template.undeclared_variables(false).contains("current_version"))
        };
        self.sources.iter().filter(uses).map(|source| &source.path).collect()
    }

    /// Whether what was rendered so far read `deploy_order`, the older name of `rollout_order`.
    pub fn used_older_key(&self) -> bool {
        self.older.load(Ordering::Relaxed)
    }

    /// Renders all for one allocation; all problems at once. `begin` as for [`Templates::compile`].
    pub fn render(&self, context: &Context<'_>, begin: &dyn Fn(usize)) -> Result<Vec<Rendered>, Unrendered> {
        // Functions of this allocation, on a copy of the environment: it is shared and cheap to clone.
        let mut environment = self.environment.clone();
        let read = values::Read::default();
        values::add(&mut environment, context, &read, &self.older);
        let mut rendered = Vec::new();
        let mut problems = Vec::new();
        let mut missing = Some(BTreeSet::new());
        for (number, source) in self.sources.iter().enumerate() {
            begin(number);
            let Some(path) = output(&source.path) else {
                let problem = Diagnostic::new(Code::TemplateFailed, "a template needs a name before .j2");
                problems.push(problem.at(format!("workspace/jobs/{}/{}", self.job, source.path)));
                missing = None;
                continue;
            };
            let mut output = Output(Vec::new());
            let written = environment
                .get_template(source.path.as_str())
                .and_then(|template| template.render_captured_to(names(context.scope), &mut output).map(drop));
            let secrets = read.take();
            match written {
                Ok(()) => {
                    let private = !secrets.is_empty();
                    rendered.push(Rendered { path, mode: source.mode, content: output.0, private });
                }
                Err(error) => {
                    problems.push(self.problem(source, context, &error, &secrets));
                    match (lacking(&error), &mut missing) {
                        (Some(namespace), Some(all)) => drop(all.insert(namespace)),
                        _ => missing = None,
                    }
                }
            }
        }
        if problems.is_empty() { Ok(rendered) } else { Err(Unrendered { problems, missing }) }
    }

    /// `secrets` were read before, and may be part of what the library says.
    fn problem(&self, source: &Source, context: &Context<'_>, error: &Error, secrets: &[String]) -> Diagnostic {
        let place = place(&self.job, &source.path, error);
        let cause = innermost(error);
        let mut text = detail(cause);
        if !secrets.is_empty() && ![MISSING, FORBIDDEN].iter().any(|mark| text.starts_with(mark)) {
            text = format!("{} (what exactly is not shown: the template has read a secret)", cause.kind());
        }
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "[secret]");
        }
        // What the library says may repeat what it was given.
        if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
            text.truncate(end);
            text.push('…');
        }
        let problem = match (cause.kind(), text.split_once(' ')) {
            (ErrorKind::UndefinedError, _) => Diagnostic::new(Code::TemplateUndefined, "this template uses a name that is not defined")
                .remedy("the names are allocation_id, job, current_version, new_version, bucket_id, worker_id, worker_ip, labels, bucket_path, job_path; key-values are read with get(namespace, key)"),
            (ErrorKind::UnknownFunction, _) => Diagnostic::new(Code::TemplateUndefined, format!("this template calls what is not there: {text}"))
                .remedy("the functions are get, get_optional, get_secret, keys, split, join, trim, upper, lower, add, sub, mul, div, int, min, max"),
            (ErrorKind::InvalidOperation, Some((MISSING, rest))) => {
                let (namespace, key) = rest.split_once(' ').unwrap_or((rest, ""));
                let keys = namespace.parse().ok().and_then(|namespace| context.values.names(&namespace).ok());
                let keys = keys.filter(|keys| !keys.is_empty());
                let there = keys.map(|keys| {
                    let shown: Vec<&str> = keys.iter().map(String::as_str).take(20).collect();
                    format!("keys there: {}{}", shown.join(", "), if keys.len() > shown.len() { ", …" } else { "" })
                });
                let remedy = match namespace.split('/').next() {
                    Some("secrets") => "write it in a hook (put_job_secret), or read it with get_optional",
                    Some("vars") => "add it to vars.toml, write it in a pre_deploy hook, or read it with get_optional",
                    _ => "correct the key, or read it with get_optional",
                };
                Diagnostic::new(Code::TemplateKey, format!("template reads a key that does not exist: {key:?} in {namespace}"))
                    .note(there.unwrap_or_else(|| "there are no keys there".to_owned()))
                    .remedy(remedy)
            }
            (ErrorKind::InvalidOperation, Some((FORBIDDEN, namespace))) => {
                let readable = context.scope.access().readable().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Diagnostic::new(Code::TemplateNamespace, format!("template reads a namespace that it may not read: {namespace}"))
                    .remedy(format_args!("it may read {readable}"))
            }
            (ErrorKind::OutOfFuel, _) => {
                Diagnostic::new(Code::TemplateFailed, "this template takes too much time or memory").remedy(LESS)
            }
            (ErrorKind::WriteFailure, _) => {
                Diagnostic::new(Code::TemplateFailed, "this template renders to more than 16 MiB").remedy(LESS)
            }
            _ => Diagnostic::new(Code::TemplateFailed, format!("this template cannot be rendered: {text}"))
                .remedy("correct the template; maand build renders it again"),
        };
        problem.at(place).note(format!("for {} on {}", self.job, context.scope.host))
    }
}

/// Where the output of a template goes; `None` if its name is nothing but `.j2`.
pub fn output(source: &RelPath) -> Option<RelPath> {
    source.as_str().strip_suffix(".j2").and_then(|path| path.parse().ok())
}

/// The names that a template may use.
fn names(scope: &Scope) -> minijinja::Value {
    let bucket = scope.bucket_id;
    context! {
        allocation_id => scope.alloc_id.to_string(),
        job => scope.job.as_str(),
        current_version => scope.current_version.as_str(),
        new_version => scope.new_version.as_str(),
        bucket_id => bucket.to_string(),
        worker_id => scope.worker_id.to_string(),
        worker_ip => scope.host.as_str(),
        labels => scope.labels.clone(),
        bucket_path => format!("/opt/worker/{bucket}"),
        job_path => format!("/opt/worker/{bucket}/jobs/{}", scope.job),
    }
}

/// What a template has come to so far.
struct Output(Vec<u8>);

impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > OUTPUT_CAP {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Why the templates of a job could not be rendered.
#[derive(Debug, Clone)]
pub struct Unrendered {
    /// For the operator.
    pub problems: Vec<Diagnostic>,
    /// When nothing is wrong but keys that do not exist: of which namespaces.
    pub missing: Option<BTreeSet<Namespace>>,
}

fn innermost(error: &Error) -> &Error {
    let mut cause = error;
    while let Some(inner) = std::error::Error::source(cause).and_then(|source| source.downcast_ref::<Error>()) {
        cause = inner;
    }
    cause
}

/// The namespace that lacks a key, if that is what is wrong.
fn lacking(error: &Error) -> Option<Namespace> {
    let cause = innermost(error);
    let (mark, rest) = cause.detail()?.split_once(' ')?;
    let is_ours = cause.kind() == ErrorKind::InvalidOperation && mark == MISSING;
    if is_ours { rest.split_once(' ')?.0.parse().ok() } else { None }
}

fn place(job: &JobName, path: &RelPath, error: &Error) -> String {
    let line = error.line().or_else(|| innermost(error).line()).map(|line| format!(":{line}")).unwrap_or_default();
    format!("workspace/jobs/{job}/{path}{line}")
}

fn detail(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}
