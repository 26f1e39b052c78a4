//! Edge: which program runs a hook's script: the job's own Python of `_modules/.venv` in the workspace, the
//! system's `python3`, or `bun`.
#![expect(clippy::disallowed_methods, reason = "edge: looks for interpreters")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use shared::{Code, Diagnostic, JobName, Name};

use super::stage::MODULES;
use crate::failure::{Exit, Failure};
use crate::model::JobFile;
use crate::paths::BucketDir;

/// Where a job keeps a Python of its own, in the order in which they are looked for.
const OWN_PYTHON: [&str; 4] = [".venv/bin/python3", ".venv/bin/python", "venv/bin/python3", "venv/bin/python"];

/// How to run a script, but for its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interpreter {
    /// The program.
    pub(super) program: PathBuf,
    /// What stands before the script.
    pub(super) arguments: Vec<OsString>,
    /// The script's file, in `_modules`.
    pub(super) script: String,
}

/// Why a hook cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// Its script is not in the catalog.
    Script,
    /// This program is not there.
    Program(&'static str),
}

/// How to run the hook's script.
pub(super) fn of(bucket: &BucketDir, job: &JobName, hook: &Name, files: &[JobFile]) -> Result<Interpreter, Missing> {
    let script = ["py", "ts", "js"].iter().map(|ending| format!("{hook}.{ending}")).find(|script| {
        let path = format!("{MODULES}/{script}");
        files.iter().any(|file| file.path.as_str() == path)
    });
    let script = script.ok_or(Missing::Script)?;
    if script.ends_with(".py") {
        let modules = bucket.job(job.as_str()).join(MODULES);
        let own = OWN_PYTHON.iter().map(|path| modules.join(path)).find(|path| is_program(path));
        let program = own.or_else(|| on_path("python3")).ok_or(Missing::Program("python3"))?;
        // Unbuffered: what a hook printed before it was ended is what tells why it hung.
        return Ok(Interpreter { program, arguments: vec!["-u".into()], script });
    }
    let program = on_path("bun").ok_or(Missing::Program("bun"))?;
    Ok(Interpreter { program, arguments: vec!["run".into()], script })
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let here = std::env::current_dir().ok()?;
    std::env::split_paths(&path).map(|dir| here.join(dir).join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// One problem for everything that is missing.
pub(super) fn none_missing(missing: &[(Missing, JobName, Name)]) -> Result<(), Failure> {
    if missing.is_empty() {
        return Ok(());
    }
    let wanting = |what: &Missing| -> Vec<String> {
        let hooks = missing.iter().filter(|(other, _, _)| other == what);
        hooks.map(|(_, job, hook)| format!("{hook} of job {job}")).collect()
    };
    let programs: BTreeSet<&str> = missing
        .iter()
        .filter_map(|(what, _, _)| if let Missing::Program(name) = what { Some(*name) } else { None })
        .collect();
    let scripts = wanting(&Missing::Script);
    let mut problem = if programs.is_empty() {
        Diagnostic::new(Code::HookRuntime, "hooks have no script in the catalog")
    } else {
        let names = programs.iter().copied().collect::<Vec<_>>().join(" and ");
        let are = if programs.len() == 1 { "is" } else { "are" };
        Diagnostic::new(Code::HookRuntime, format!("hooks need {names}, which {are} not on the PATH of this machine"))
    };
    for name in &programs {
        let name: &'static str = if *name == "bun" { "bun" } else { "python3" };
        problem = problem.note(format!("{name}: {}", wanting(&Missing::Program(name)).join(", ")));
    }
    if !scripts.is_empty() {
        problem = problem.note(format!("no script: {}", scripts.join(", ")));
    }
    let remedy = if programs.is_empty() {
        "run maand build".to_owned()
    } else if programs.contains("bun") {
        "install it beside maand: hooks run here, not on workers (Bun: https://bun.sh); nothing was run".to_owned()
    } else {
        "install it beside maand: hooks run here, not on workers; nothing was run".to_owned()
    };
    Err(Failure::new(Exit::Failed, problem.remedy(remedy)))
}
