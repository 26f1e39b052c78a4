//! Edge: the process that renders, `maand __render`. It has nothing but two pipes, and may take so much.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufReader, BufWriter, Stdin, Stdout};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use shared::JobName;

use super::wire::{self, Down, Up};
use crate::model::kv::{Lookup, Namespace, Value};
use crate::render::template::Source;
use crate::render::{Context, Scope, Templates, Unrendered};

/// Its stack, bytes. What the engine does by recursion is bounded by the length of a template alone.
const STACK: usize = 64 << 20;

/// Runs it; `arguments` are seconds of CPU time for each template, and MiB of memory.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let numbers: Vec<u64> = arguments.filter_map(|word| word.to_str()?.parse().ok()).collect();
    let [cpu_s, memory_mb] = numbers[..] else { return ExitCode::from(2) };
    limit(Resource::Core, 0);
    limit(Resource::Data, memory_mb << 20);
    let run = move || serve(cpu_s);
    let thread = std::thread::Builder::new().name("render".to_owned()).stack_size(STACK).spawn(run);
    match thread.map(std::thread::JoinHandle::join) {
        // Nobody asks any more.
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(_))) => ExitCode::FAILURE,
        Ok(Err(_)) | Err(_) => ExitCode::from(101),
    }
}

/// Sets how much there may be from now on, never beyond what this process may give itself.
fn limit(resource: Resource, most: u64) {
    let was = getrlimit(resource);
    let current = was.maximum.map_or(most, |maximum| maximum.min(most));
    let _lowered = setrlimit(resource, Rlimit { current: Some(current), maximum: was.maximum });
}

/// The other process.
struct Pipes {
    from: BufReader<Stdin>,
    to: BufWriter<Stdout>,
}

/// Values that are known, by namespace and key.
type Known = BTreeMap<(Namespace, String), Option<Value>>;

/// What it is asked for by templates.
struct Other {
    pipes: Mutex<Pipes>,
    /// What all allocations of a job have in common is asked for once.
    common: Mutex<Known>,
    /// What came before it was asked for, for one allocation.
    ahead: Mutex<Known>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Other {
    fn send(&self, message: &Up, rest: &[u8]) -> io::Result<()> {
        wire::send(&mut lock(&self.pipes).to, message, rest)
    }

    fn write(&self, message: &Up, rest: &[u8]) -> io::Result<()> {
        wire::write(&mut lock(&self.pipes).to, message, rest)
    }

    fn receive(&self) -> io::Result<Option<(Down, Vec<u8>)>> {
        wire::receive(&mut lock(&self.pipes).from)
    }

    fn ask(&self, message: &Up) -> Result<(Down, Vec<u8>), String> {
        let gone = |error: io::Error| format!("the process that has the values does not answer: {error}");
        self.send(message, &[]).map_err(gone)?;
        self.receive().map_err(gone)?.ok_or_else(|| gone(io::ErrorKind::UnexpectedEof.into()))
    }
}

impl Lookup for Other {
    fn names(&self, namespace: &Namespace) -> Result<Vec<String>, String> {
        match self.ask(&Up::Names { namespace: namespace.to_string() })? {
            (Down::Names { names }, _) => Ok(names),
            (other, _) => Err(refused(other)),
        }
    }

    fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Value>, String> {
        let place = (namespace.clone(), key.to_owned());
        if let Some(value) = lock(&self.ahead).get(&place) {
            return Ok(value.clone());
        }
        let mut common = lock(&self.common);
        if let Some(value) = common.get(&place) {
            return Ok(value.clone());
        }
        let found = match self.ask(&Up::Get { namespace: namespace.to_string(), key: key.to_owned() })? {
            (Down::Value { secret }, text) => Some(value(text, secret)?),
            (Down::Missing, _) => None,
            (other, _) => return Err(refused(other)),
        };
        if !namespace.is_of_worker() {
            common.insert(place, found.clone());
        }
        Ok(found)
    }
}

fn value(text: Vec<u8>, secret: bool) -> Result<Value, String> {
    let text = String::from_utf8(text).map_err(|_| "a value is no text".to_owned())?;
    Ok(Value { text, secret })
}

fn refused(answer: Down) -> String {
    match answer {
        Down::Unreadable { why } => why,
        _ => "the process that has the values answered something else".to_owned(),
    }
}

/// Answers until nobody asks any more.
fn serve(cpu_s: u64) -> io::Result<()> {
    let pipes = Pipes { from: BufReader::new(io::stdin()), to: BufWriter::new(io::stdout()) };
    let other = Arc::new(Other { pipes: Mutex::new(pipes), common: Mutex::default(), ahead: Mutex::default() });
    let values: Arc<dyn Lookup> = other.clone();
    let begin = |source: usize, said: bool| {
        let spent = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
        limit(Resource::Cpu, u64::try_from(spent).unwrap_or_default().saturating_add(cpu_s + 1));
        if said {
            // A pipe that is gone is noticed with the answer.
            let _told = other.send(&Up::Begun { source }, &[]);
        }
    };
    let mut templates: Option<Templates> = None;
    while let Some((message, text)) = other.receive()? {
        match message {
            Down::Compile { job, sources } => {
                templates = compile(&other, &job, sources, &|source| begin(source, true))?
            }
            Down::Ahead { namespace, key, secret } => {
                let namespace = namespace.parse().map_err(|_| unexpected())?;
                let value = value(text, secret).map_err(io::Error::other)?;
                lock(&other.ahead).insert((namespace, key), Some(value));
            }
            Down::Render { scope } => {
                let Some(templates) = &templates else { return Err(unexpected()) };
                render(&other, templates, Arc::new(*scope), &values, &|source| begin(source, source > 0))?;
                lock(&other.ahead).clear();
            }
            _ => return Err(unexpected()),
        }
    }
    Ok(())
}

fn compile(other: &Other, job: &JobName, count: usize, begin: &dyn Fn(usize)) -> io::Result<Option<Templates>> {
    lock(&other.common).clear();
    let mut sources = Vec::new();
    for _ in 0..count {
        match other.receive()? {
            Some((Down::Source { path, mode }, text)) => {
                let text = String::from_utf8(text).map_err(io::Error::other)?;
                sources.push(Source { path, mode, text });
            }
            _ => return Err(unexpected()),
        }
    }
    match Templates::compile(job, sources, begin) {
        Ok(templates) => {
            let volatile = templates.volatile().into_iter().cloned().collect();
            other.send(&Up::Compiled { volatile }, &[])?;
            Ok(Some(templates))
        }
        Err(problems) => other.send(&Up::Refused { problems }, &[]).map(|()| None),
    }
}

fn render(
    other: &Other,
    templates: &Templates,
    scope: Arc<Scope>,
    values: &Arc<dyn Lookup>,
    begin: &dyn Fn(usize),
) -> io::Result<()> {
    match templates.render(&Context { scope: &scope, values }, begin) {
        Ok(files) => {
            for file in files {
                let head = Up::File { path: file.path, mode: file.mode, private: file.private };
                other.write(&head, &file.content)?;
            }
            other.send(&Up::Rendered { older: templates.used_older_key() }, &[])
        }
        Err(Unrendered { problems, missing }) => {
            let missing = missing.map(|all| all.iter().map(ToString::to_string).collect());
            other.send(&Up::Unrendered { problems, missing }, &[])
        }
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this was not expected here")
}
