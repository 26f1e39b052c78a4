//! Jinja templates of a job: compiled once a build, rendered for each allocation. Strict: a name that
//! is not defined is an error, with file and line.

use std::sync::Arc;

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context};
use shared::{BucketId, Code, Diagnostic, JobName, RelPath};

use super::{Rendered, functions};
use crate::model::kv::{Values, template_may_read};
use crate::model::{Allocation, Worker};

/// Longest output, bytes.
const OUTPUT_CAP: usize = 16 << 20;
/// Steps that one rendering may take.
const FUEL: u64 = 20_000_000;

/// A template as it is in the workspace.
#[derive(Debug, Clone)]
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
    /// The bucket.
    pub bucket: BucketId,
    /// The allocation that is rendered for.
    pub allocation: &'a Allocation,
    /// Its worker.
    pub worker: &'a Worker,
    /// Everything that is live; access is checked for each read.
    pub values: &'a Arc<Values>,
}

/// The templates of one job.
#[derive(Debug)]
pub struct Templates {
    job: JobName,
    environment: Environment<'static>,
    sources: Vec<Source>,
}

impl Templates {
    /// Compiles; all problems at once.
    pub fn compile(job: &JobName, sources: Vec<Source>) -> Result<Self, Vec<Diagnostic>> {
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
        for source in &sources {
            if let Err(error) = environment.add_template_owned(source.path.to_string(), source.text.clone()) {
                let place = place(job, &source.path, &error);
                problems.push(
                    Diagnostic::new(
                        Code::TemplateSyntax,
                        format!("this template cannot be parsed: {}", detail(&error)),
                    )
                    .at(place),
                );
            }
        }
        if problems.is_empty() { Ok(Self { job: job.clone(), environment, sources }) } else { Err(problems) }
    }

    /// Renders all for one allocation; all problems at once.
    pub fn render(&self, context: &Context<'_>) -> Result<Vec<Rendered>, Vec<Diagnostic>> {
        // Functions of this allocation, on a copy of the environment: it is shared and cheap to clone.
        let mut environment = self.environment.clone();
        add_values(&mut environment, context);
        let mut rendered = Vec::new();
        let mut problems = Vec::new();
        for source in &self.sources {
            let path: Option<RelPath> = source.path.as_str().strip_suffix(".j2").and_then(|path| path.parse().ok());
            let Some(path) = path else {
                let problem = Diagnostic::new(Code::TemplateFailed, "a template needs a name before .j2");
                problems.push(problem.at(format!("workspace/jobs/{}/{}", self.job, source.path)));
                continue;
            };
            let output = environment
                .get_template(source.path.as_str())
                .and_then(|template| template.render(self.scope(context)));
            match output {
                Ok(output) if output.len() > OUTPUT_CAP => {
                    let problem = Diagnostic::new(Code::TemplateFailed, "this template renders to more than 16 MiB");
                    problems.push(problem.at(format!("workspace/jobs/{}/{}", self.job, source.path)));
                }
                Ok(output) => rendered.push(Rendered { path, mode: source.mode, content: output.into_bytes() }),
                Err(error) => problems.push(self.problem(source, context, &error)),
            }
        }
        if problems.is_empty() { Ok(rendered) } else { Err(problems) }
    }

    fn scope(&self, context: &Context<'_>) -> minijinja::Value {
        let Context { bucket, allocation, worker, .. } = context;
        let promoted = allocation.promoted.as_ref().map_or("0.0.0", |promoted| promoted.version.as_str());
        context! {
            allocation_id => allocation.alloc_id.to_string(),
            job => allocation.job.as_str(),
            current_version => promoted,
            new_version => allocation.new_version.clone(),
            bucket_id => bucket.to_string(),
            worker_id => worker.worker_id.to_string(),
            worker_ip => worker.host.as_str(),
            labels => worker.labels.iter().map(ToString::to_string).collect::<Vec<_>>(),
            bucket_path => format!("/opt/worker/{bucket}"),
            job_path => format!("/opt/worker/{bucket}/jobs/{}", allocation.job),
        }
    }

    fn problem(&self, source: &Source, context: &Context<'_>, error: &Error) -> Diagnostic {
        let place = place(&self.job, &source.path, error);
        let mut cause: &Error = error;
        while let Some(inner) = std::error::Error::source(cause).and_then(|source| source.downcast_ref::<Error>()) {
            cause = inner;
        }
        let text = detail(cause);
        let problem = match (cause.kind(), text.split_once(' ')) {
            (ErrorKind::UndefinedError, _) => Diagnostic::new(Code::TemplateUndefined, "this template uses a name that is not defined")
                .remedy("the names are allocation_id, job, current_version, new_version, bucket_id, worker_id, worker_ip, labels, bucket_path, job_path; key-values are read with get(namespace, key)"),
            (ErrorKind::UnknownFunction, _) => Diagnostic::new(Code::TemplateUndefined, format!("this template calls what is not there: {text}"))
                .remedy("the functions are get, get_optional, keys, split, join, trim, upper, lower, int, min, max"),
            (ErrorKind::InvalidOperation, Some((MISSING, rest))) => {
                let (namespace, key) = rest.split_once(' ').unwrap_or((rest, ""));
                let there = context.values.get(namespace).map(|keys| keys.keys().map(String::as_str).take(20).collect::<Vec<_>>().join(", "));
                let note = there.map_or_else(|| "there are no keys there".to_owned(), |keys| format!("keys there: {keys}"));
                Diagnostic::new(Code::TemplateKey, format!("template reads a key that does not exist: {key:?} in {namespace}"))
                    .note(note)
                    .remedy("add it to vars.toml or bucket.conf, or read it with get_optional")
            }
            (ErrorKind::InvalidOperation, Some((FORBIDDEN, namespace))) => {
                Diagnostic::new(Code::TemplateNamespace, format!("template reads a namespace that it may not read: {namespace}"))
                    .remedy(format_args!("it may read maand/bucket, vars/bucket, maand/worker, maand/worker/{0}, maand/job/{1}, vars/job/{1}, maand/job/{1}/worker/{0}", context.worker.host, self.job))
            }
            _ => Diagnostic::new(Code::TemplateFailed, format!("this template cannot be rendered: {text}")),
        };
        problem.at(place).note(format!("for {} on {}", self.job, context.worker.host))
    }
}

/// Marks of our own errors, which the library hands through as text.
const MISSING: &str = "\u{1}missing";
const FORBIDDEN: &str = "\u{1}forbidden";

fn add_values(environment: &mut Environment<'static>, context: &Context<'_>) {
    let reader = |required: bool| {
        let (values, job, host) = (context.values.clone(), context.allocation.job.clone(), context.worker.host.clone());
        move |namespace: String, key: String| -> Result<String, Error> {
            if !template_may_read(&namespace, &job, &host) {
                return Err(Error::new(ErrorKind::InvalidOperation, format!("{FORBIDDEN} {namespace}")));
            }
            match values.get(&namespace).and_then(|keys| keys.get(&key)) {
                Some(value) => Ok(value.clone()),
                None if required => {
                    Err(Error::new(ErrorKind::InvalidOperation, format!("{MISSING} {namespace} {key}")))
                }
                None => Ok(String::new()),
            }
        }
    };
    environment.add_function("get", reader(true));
    environment.add_function("get_optional", reader(false));
    environment.add_function("getOptional", reader(false));
    for name in ["get_secret", "getSecret"] {
        environment.add_function(name, |_: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "get_secret is not supported yet"))
        });
    }
    let (values, job, host) = (context.values.clone(), context.allocation.job.clone(), context.worker.host.clone());
    environment.add_function("keys", move |namespace: String| -> Result<Vec<String>, Error> {
        if !template_may_read(&namespace, &job, &host) {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("{FORBIDDEN} {namespace}")));
        }
        Ok(values.get(&namespace).map(|keys| keys.keys().cloned().collect()).unwrap_or_default())
    });
}

fn place(job: &JobName, path: &RelPath, error: &Error) -> String {
    let line = error.line().map(|line| format!(":{line}")).unwrap_or_default();
    format!("workspace/jobs/{job}/{path}{line}")
}

fn detail(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::{AllocId, WorkerId};
    use uuid::Uuid;

    fn render(text: &str) -> Result<String, String> {
        let job: JobName = "api".parse().unwrap();
        let source = Source { path: "conf/a.j2".parse().unwrap(), mode: 0o644, text: text.to_owned() };
        let worker = Worker {
            worker_id: WorkerId::from_uuid(Uuid::from_u128(1)),
            host: "w1".parse().unwrap(),
            hostname: None,
            labels: vec!["web".parse().unwrap()],
            tags: Default::default(),
            memory_mb: 0.0,
            cpu_mhz: 0.0,
            position: 0,
        };
        let allocation = Allocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(2)),
            job: job.clone(),
            host: worker.host.clone(),
            worker_id: worker.worker_id,
            disabled: false,
            removed: false,
            start_pending: false,
            deployment_seq: 0,
            new_version: "1.2.0".into(),
            bundle: None,
            promoted: None,
        };
        let mut values = Values::new();
        values.entry("vars/job/api".into()).or_default().insert("db_name".into(), "x".into());
        values.entry("vars/job/other".into()).or_default().insert("k".into(), "v".into());
        let values = Arc::new(values);
        let context = Context {
            bucket: BucketId::from_uuid(Uuid::from_u128(3)),
            allocation: &allocation,
            worker: &worker,
            values: &values,
        };
        let text = |problems: Vec<Diagnostic>| problems[0].to_string();
        let templates = Templates::compile(&job, vec![source]).map_err(text)?;
        templates.render(&context).map(|files| String::from_utf8(files[0].content.clone()).unwrap()).map_err(text)
    }

    #[test]
    fn names_functions_and_values() {
        assert_eq!(render("{{ worker_ip }} {{ new_version }} {{ labels | join(',') }}\n").unwrap(), "w1 1.2.0 web\n");
        assert_eq!(
            render("{{ get('vars/job/api', 'db_name') }}{{ get_optional('vars/job/api', 'no') }}").unwrap(),
            "x"
        );
        assert_eq!(
            render("{{ keys('vars/job/api') | join }} {{ max(int('2'), 3) + 1 }} {{ join(split('a,b', ','), '-') }}")
                .unwrap(),
            "db_name 4 a-b"
        );
        assert_eq!(render("{{ '<&>' }}").unwrap(), "<&>", "nothing is escaped");
    }

    #[test]
    fn errors_say_where_why_and_what_to_do() {
        assert_eq!(
            render("a\nb\n{{ get('vars/job/api', 'db_host') }}").unwrap_err(),
            "error[MD0042]: template reads a key that does not exist: \"db_host\" in vars/job/api\n\
             \x20 at workspace/jobs/api/conf/a.j2:3\n\
             \x20 keys there: db_name\n\
             \x20 for api on w1\n\
             \x20 do: add it to vars.toml or bucket.conf, or read it with get_optional"
        );
        for (text, code) in [
            ("{{ nowhere }}", "MD0041"),
            ("{{ nothing() }}", "MD0041"),
            ("{{ get('vars/job/other', 'k') }}", "MD0043"),
            ("{{ keys('maand/worker/w2') }}", "MD0043"),
            ("{% if %}", "MD0040"),
            ("{{ int('x') }}", "MD0044"),
            ("{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}", "MD0044"),
        ] {
            let said = render(text).unwrap_err();
            assert!(said.contains(code) && said.contains("conf/a.j2"), "{text}: {said}");
        }
    }
}
