//! Raw bytes to a [`Workspace`], or all problems at once, in the order of the files.

use std::collections::{BTreeMap, BTreeSet};

use shared::path::RESERVED;
use shared::{Code, Diagnostic, JobName};

use super::json::flat_toml;
use super::{JobInput, Raw, RawFile, RawJob, Workspace, manifest, workers};
use crate::model::{FileKind, JobFile};

/// Numbers for dynamic ports when bucket.conf names none.
const POOL: (u16, u16) = (30_000, 39_999);

/// Parses everything.
pub fn parse(raw: &Raw) -> Result<Workspace, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let mut take = |result: Result<(), Vec<Diagnostic>>| problems.extend(result.err().unwrap_or_default());
    let mut workspace =
        Workspace { workers: Vec::new(), variables: BTreeMap::new(), port_pool: POOL, jobs: Vec::new() };

    if let Some(text) = &raw.bucket_conf {
        take(flat_toml("workspace/bucket.conf", text).and_then(|variables| {
            workspace.port_pool = pool(&variables)?;
            workspace.variables = variables;
            Ok(())
        }));
    }
    for name in &raw.others {
        let what = match name.as_str() {
            "disabled.json" => "draining with disabled.json",
            conf if conf.starts_with("bucket.jobs") && conf.ends_with(".conf") => {
                "overriding resources in bucket.jobs.conf"
            }
            _ => continue,
        };
        let problem = Diagnostic::new(Code::NotSupportedYet, format!("{what} is not supported yet"));
        take(Err(vec![
            problem
                .at(format!("workspace/{name}"))
                .remedy("take the file away: this version would not do what it says"),
        ]));
    }
    for (name, raw) in &raw.jobs {
        take(job(name, raw).map(|job| workspace.jobs.push(job)));
    }
    if let Some(text) = &raw.workers {
        take(workers::parse(text).map(|found| workspace.workers = found));
    }
    if problems.is_empty() { Ok(workspace) } else { Err(problems) }
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

fn job(name: &str, raw: &RawJob) -> Result<JobInput, Vec<Diagnostic>> {
    let dir = format!("workspace/jobs/{name}");
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
    let manifest = manifest::parse(&format!("{dir}/manifest.json"), &raw.manifest);
    let manifest = manifest.map_err(|found| problems.extend(found)).ok();
    let variables = match &raw.vars {
        None => Some(BTreeMap::new()),
        Some(text) => flat_toml(&format!("{dir}/vars.toml"), text).map_err(|found| problems.extend(found)).ok(),
    };
    let files = files(&dir, &raw.files, &mut problems);
    match (parsed, manifest, variables) {
        (Some(name), Some(manifest), Some(variables)) if problems.is_empty() => {
            Ok(JobInput { name, manifest, variables, files })
        }
        _ => Err(problems),
    }
}

fn files(dir: &str, raw: &[RawFile], problems: &mut Vec<Diagnostic>) -> Vec<JobFile> {
    let mut files = Vec::new();
    let names: BTreeSet<&str> = raw.iter().map(|file| file.path.as_str()).collect();
    if !names.contains("Makefile") && !names.contains("Makefile.j2") {
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
