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

#[cfg(test)]
mod tests {
    use super::*;
    use shared::BlobDigest;

    fn raw_job(manifest: &str, files: &[&str]) -> RawJob {
        let file =
            |path: &&str| RawFile { path: path.parse().unwrap(), mode: 0o644, len: 0, blob: BlobDigest::of(b"") };
        RawJob { manifest: manifest.to_owned(), vars: None, files: files.iter().map(file).collect() }
    }

    fn problems(raw: &Raw) -> Vec<String> {
        parse(raw).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_rule_of_a_manifest_says_what_where_and_what_to_do() {
        let at = "\n  at workspace/jobs/api/manifest.json";
        for (manifest, said) in [
            ("{", format!("error[MD0020]: this is no JSON: EOF while parsing an object{at}:1:1")),
            ("[]", format!("error[MD0022]: expected an object, found a list{at}")),
            (
                "{\"verison\": \"1\"}",
                format!(
                    "error[MD0021]: there is no field \"verison\" here{at} verison\n  do: did you mean \"version\"?"
                ),
            ),
            (
                "{\"version\": \"one\"}",
                format!(
                    "error[MD0022]: \"one\" is not a version (1 to 3 numbers with dots, as in 2, 1.4 or v2.0.0-rc.1){at} version"
                ),
            ),
            (
                "{\"selectors\": [\"GPU\"]}",
                format!(
                    "error[MD0024]: \"GPU\" is not a valid name: 1 to 63 characters, a-z 0-9 first, then a-z 0-9 _ . -{at} selectors[0]\n  do: write it in lower case: \"gpu\""
                ),
            ),
            (
                "{\"max_concurrent_upgrades\": 0}",
                format!(
                    "error[MD0022]: expected a whole number from 1 to 1000000, found 0{at} max_concurrent_upgrades"
                ),
            ),
            (
                "{\"min_allocations_count\": -1}",
                format!("error[MD0022]: expected a whole number from 0 to 1000000, found -1{at} min_allocations_count"),
            ),
            (
                "{\"resources\": {\"ports\": {\"x\": 70000}}}",
                format!("error[MD0022]: expected a whole number from 1 to 65535, found 70000{at} resources.ports.x"),
            ),
            (
                "{\"restart_policy\": \"sometimes\"}",
                format!(
                    "error[MD0022]: expected \"always\", \"reload\" or \"never\", found \"sometimes\"{at} restart_policy"
                ),
            ),
            (
                "{\"hooks\": {\"hook_x\": {}}}",
                format!(
                    "error[MD0027]: hooks is not supported yet{at} hooks\n  do: take it out: this version would not do what it says"
                ),
            ),
        ] {
            let raw = Raw { jobs: [("api".to_owned(), raw_job(manifest, &["Makefile"]))].into(), ..Raw::default() };
            assert_eq!(problems(&raw), [said], "{manifest}");
        }
    }

    #[test]
    fn all_problems_come_at_once_in_the_order_of_the_files() {
        let raw = Raw {
            workers: Some("[{\"host\": \"a\", \"memory\": \"1 kb\"}, {\"hsot\": \"b\"}, 7]".to_owned()),
            bucket_conf: Some("port_min = 9\nport_max = 8\n".to_owned()),
            others: vec!["disabled.json".to_owned(), "notes.txt".to_owned()],
            jobs: [
                ("a".to_owned(), raw_job("{}", &["data/x", "data/y", "app.tpl"])),
                ("B".to_owned(), raw_job("{}", &["Makefile", "x", "x.j2"])),
            ]
            .into(),
        };
        let codes: Vec<String> = problems(&raw).iter().map(|text| text[6..12].to_owned()).collect();
        assert_eq!(
            codes,
            [
                "MD0022", "MD0027", "MD0024", "MD0029", "MD0025", "MD0026", "MD0027", "MD0022", "MD0021", "MD0022",
                "MD0022"
            ]
        );
    }

    #[test]
    fn what_stays_and_what_is_rendered() {
        let files = ["Makefile", "_modules/hook_x.py", "conf/a.j2", "manifest.json", "vars.toml"];
        let raw = Raw { jobs: [("api".to_owned(), raw_job("{}", &files))].into(), ..Raw::default() };
        let kinds: Vec<FileKind> = parse(&raw).unwrap().jobs[0].files.iter().map(|file| file.kind).collect();
        use FileKind::{Control, Shipped, Template};
        assert_eq!(kinds, [Shipped, Control, Template, Control, Control]);
    }
}
