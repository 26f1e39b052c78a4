//! Raw bytes to a [`Workspace`], or all problems at once, in the order of the files.

use std::collections::{BTreeMap, BTreeSet};

use shared::path::RESERVED;
use shared::{Code, Diagnostic, JobName};

use super::json::{Reader, flat_toml};
use super::{JobInput, Manifest, Raw, RawFile, RawJob, Workspace, disabled, manifest, overrides, workers};
use crate::model::{FileKind, JobFile};

/// Numbers for dynamic ports when bucket.conf names none.
const POOL: (u16, u16) = (30_000, 39_999);

/// Parses everything, as far as it goes.
pub fn parse(raw: &Raw) -> Workspace {
    let mut workspace = Workspace { port_pool: POOL, ..Workspace::default() };
    let mut problems = Vec::new();

    if let Some(text) = &raw.bucket_conf {
        let parsed = flat_toml("workspace/bucket.conf", text).and_then(|variables| {
            workspace.port_pool = pool(&variables)?;
            Ok(variables)
        });
        workspace.variables = parsed.map_err(|found| problems.extend(found)).unwrap_or_default();
    }
    // Jobs and workers before what names them; the order in which problems are told is made at the end.
    let mut of_jobs = Vec::new();
    for (name, raw) in &raw.jobs {
        let (job, found) = job(name, raw, &mut workspace.older);
        match job {
            Some(job) if found.is_empty() => workspace.jobs.push(job),
            _ => drop(workspace.broken.insert(name.clone())),
        }
        of_jobs.extend(found);
    }
    let mut of_workers = Vec::new();
    match raw.workers.as_deref().map(workers::parse) {
        None => workspace.workers_known = true,
        Some(Ok(workers)) => {
            workspace.workers = workers;
            workspace.workers_known = true;
        }
        Some(Err(found)) => of_workers = found,
    }

    let known: Vec<&str> = raw.jobs.keys().map(String::as_str).collect();
    match &raw.overrides {
        None => {}
        Some((file, None)) => {
            let problem =
                Diagnostic::new(Code::Settings, format!("there is no {file}, which job_config_selector chooses"));
            problems.push(problem.at("maand.conf job_config_selector").remedy("add the file, or take the setting out"));
        }
        Some((file, Some(text))) => {
            let (tables, found) = overrides::parse(file, text);
            problems.extend(found);
            problems.extend(overrides::apply(file, tables, &mut workspace.jobs, &known));
        }
    }
    if let Some(text) = &raw.disabled {
        let hosts: Vec<&str> = workspace.workers.iter().map(|worker| worker.host.as_str()).collect();
        match disabled::parse(text, &known, workspace.workers_known.then_some(&hosts)) {
            Ok(disabled) => workspace.disabled = disabled,
            Err(found) => problems.extend(found),
        }
    }
    workspace.problems = [problems, of_jobs, of_workers].concat();
    workspace
}

fn pool(variables: &BTreeMap<String, String>) -> Result<(u16, u16), Vec<Diagnostic>> {
    let file = "workspace/bucket.conf";
    let bound = |key: &str, default: u16| match variables.get(key) {
        None => Ok(default),
        Some(text) => text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
            vec![
                Diagnostic::new(Code::InvalidValue, format!("{text:?} is not a port from 1 to 65535"))
                    .at(format!("{file} {key}")),
            ]
        }),
    };
    let (min, max) = (bound("port_min", POOL.0)?, bound("port_max", POOL.1)?);
    if min > max {
        let problem = Diagnostic::new(Code::InvalidValue, format!("port_min {min} is above port_max {max}"));
        return Err(vec![problem.at(file)]);
    }
    Ok((min, max))
}

fn job(
    name: &str,
    raw: &RawJob,
    older: &mut BTreeMap<&'static str, &'static str>,
) -> (Option<JobInput>, Vec<Diagnostic>) {
    let dir = format!("workspace/jobs/{name}");
    let file = format!("{dir}/manifest.json");
    let mut problems = Vec::new();
    let parsed: Option<JobName> = match name.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            let error: shared::id::IdError = error;
            problems
                .push(Diagnostic::new(Code::InvalidName, error.to_string()).at(&dir).remedy("rename the directory"));
            None
        }
    };
    let files = files(&dir, &raw.files, &mut problems);
    let mut reader = Reader::new(&file);
    let manifest = manifest::parse(&mut reader, name, &raw.manifest);
    scripts(&mut reader, &manifest, &raw.files);
    older.extend(&reader.older);
    problems.extend(reader.problems);
    let variables = match &raw.vars {
        None => BTreeMap::new(),
        Some(text) => {
            flat_toml(&format!("{dir}/vars.toml"), text).map_err(|found| problems.extend(found)).unwrap_or_default()
        }
    };
    let job = parsed.map(|name| JobInput { name, manifest, variables, overrides: BTreeMap::new(), files });
    (job, problems)
}

/// Every hook has one script.
fn scripts(reader: &mut Reader<'_>, manifest: &Manifest, files: &[RawFile]) {
    for name in manifest.hooks.keys() {
        let wanted: Vec<String> = ["py", "ts", "js"].iter().map(|ending| format!("_modules/{name}.{ending}")).collect();
        let there: Vec<&str> = wanted
            .iter()
            .map(String::as_str)
            .filter(|path| files.iter().any(|file| file.path.as_str() == *path))
            .collect();
        let key = format!("hooks.{name}");
        match there[..] {
            [_] => {}
            [] => {
                let problem = reader.problem(Code::UnknownReference, &key, format!("hook {name} has no script"));
                problem.remedy = Some(format!("add one of {}", wanted.join(", ")));
            }
            _ => {
                let message = format!("hook {name} has {} scripts: {}", there.len(), there.join(", "));
                let problem = reader.problem(Code::PathConflict, &key, message);
                problem.remedy = Some("keep one of them".to_owned());
            }
        }
    }
}

fn files(dir: &str, raw: &[RawFile], problems: &mut Vec<Diagnostic>) -> Vec<JobFile> {
    let mut files = Vec::new();
    let names: BTreeSet<&str> = raw.iter().map(|file| file.path.as_str()).collect();
    if !names.contains("Makefile") && !names.contains("Makefile.j2") && !names.contains("Makefile.tpl") {
        let problem = Diagnostic::new(Code::MissingMakefile, "this job has no Makefile");
        problems.push(problem.at(dir).remedy("add one with the targets start, stop, restart and reload"));
    }
    let mut refused = BTreeSet::new();
    for file in raw {
        let path = file.path.as_str();
        let top = path.split('/').next().unwrap_or(path);
        let at = format!("{dir}/{path}");
        if file.path.is_reserved() {
            if refused.insert(top) {
                let problem = Diagnostic::new(Code::ReservedPath, format!("{top:?} is the job's own on the worker"));
                problems.push(problem.at(format!("{dir}/{top}")).remedy(format_args!(
                    "rename it: {} are never shipped, the job fills them itself",
                    RESERVED.join(", ")
                )));
            }
            continue;
        }
        if top == "_prometheus" {
            if refused.insert(top) {
                let problem = Diagnostic::new(Code::NotSupportedYet, "_prometheus is not supported yet");
                problems.push(
                    problem.at(format!("{dir}/{top}")).remedy("take it out: this version would not do what it says"),
                );
            }
            continue;
        }
        let control = matches!(path, "manifest.json" | "vars.toml") || top == "_modules";
        if !control && path.ends_with(".tpl") {
            let problem = Diagnostic::new(Code::NotSupportedYet, "Go templates (.tpl) cannot be rendered");
            problems.push(
                problem.at(at).remedy("write it as a Jinja template, NAME.j2: {{ .WorkerIP }} becomes {{ worker_ip }}"),
            );
            continue;
        }
        let kind = match path.strip_suffix(".j2") {
            _ if control => FileKind::Control,
            Some(rendered) if rendered.is_empty() || rendered.ends_with('/') => {
                let problem = Diagnostic::new(Code::InvalidName, "a template needs a name before .j2");
                problems.push(problem.at(at).remedy("call it after the file that it renders, NAME.j2"));
                continue;
            }
            Some(rendered) if names.contains(rendered) => {
                let problem = Diagnostic::new(
                    Code::PathConflict,
                    format!("{rendered:?} is there twice: as it is, and rendered from {path:?}"),
                );
                problems.push(problem.at(at).remedy("keep one of the two"));
                continue;
            }
            Some(_) => FileKind::Template,
            None => FileKind::Shipped,
        };
        files.push(JobFile { path: file.path.clone(), mode: file.mode, len: file.len, blob: file.blob, kind });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::BlobDigest;

    fn raw_job(manifest: &str, files: &[&str]) -> RawJob {
        let file =
            |path: &&str| RawFile { path: path.parse().unwrap(), mode: 0o644, len: 0, blob: BlobDigest::of(b"") };
        RawJob { manifest: manifest.to_owned(), vars: None, files: files.iter().map(file).collect() }
    }

    #[test]
    fn what_stays_and_what_is_rendered() {
        let files = ["Makefile", "_modules/hook_x.py", "conf/a.j2", "manifest.json", "vars.toml"];
        let raw = Raw { jobs: [("api".to_owned(), raw_job("{}", &files))].into(), ..Raw::default() };
        let kinds: Vec<FileKind> = parse(&raw).jobs[0].files.iter().map(|file| file.kind).collect();
        use FileKind::{Control, Shipped, Template};
        assert_eq!(kinds, [Shipped, Control, Template, Control, Control]);
    }
}
