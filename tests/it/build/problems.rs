//! All problems at once, in file order.

use serde_json::{Value, json};

use super::{build, one_worker, shown, workspace};

/// The case of `rules.txt` with twenty mistakes: its files, its messages.
fn twenty() -> (Vec<(String, String)>, String) {
    let table = include_str!("../rules.txt");
    let (_, case) = table.split_once("# twenty mistakes in one run").unwrap();
    let case = case.split("\n# ").next().unwrap();
    let files = case.lines().filter_map(|line| line.strip_prefix('@')).map(|line| {
        let (path, text) = line.split_once(' ').unwrap_or((line, ""));
        (format!("workspace/{path}"), text.replace("\\n", "\n"))
    });
    let said: Vec<&str> = case.lines().filter_map(|line| line.strip_prefix("> ")).collect();
    (files.collect(), said.join("\n") + "\n")
}

#[test]
fn twenty_mistakes_are_told_in_one_run() {
    let bucket = workspace(&one_worker(), &[("api", json!({}))]);
    build(&bucket);
    let before = shown(&bucket);
    let (files, said) = twenty();
    files.iter().for_each(|(path, text)| bucket.write(path, text));
    let refused = bucket.maand(&["build"]).expect(3);
    assert_eq!((refused.stdout.as_str(), refused.stderr.as_str()), ("", said.as_str()));
    assert_eq!(refused.stderr.matches("error[MD").count(), 20);

    let refused = bucket.maand(&["build", "--json"]).expect(3);
    assert_eq!(refused.stdout, "");
    let problems: Vec<Value> = refused.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(problems.len(), 20, "{}", refused.stderr);
    for problem in &problems {
        let known = ["code", "message", "at", "notes", "do"];
        assert!(problem.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{problem}");
        let head = format!(
            "error[{}]: {}\n  at {}",
            problem["code"].as_str().unwrap(),
            problem["message"].as_str().unwrap(),
            problem["at"].as_str().unwrap()
        );
        assert!(said.contains(&head), "{head}");
    }
    let file = |problem: &Value| problem["at"].as_str().unwrap().split([' ', ':']).next().unwrap().to_owned();
    let order: Vec<String> = problems.iter().map(file).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(shown(&bucket), before, "the catalog is as it was");
}

#[test]
fn broken_templates_are_among_them() {
    let bucket = workspace(&one_worker(), &[("api", json!({"verison": "1"})), ("web", json!({"selectors": ["api"]}))]);
    bucket.write("workspace/jobs/web/a.conf.j2", "{% if %}\n");
    let refused = bucket.maand(&["build"]).expect(3);
    let said = refused.stderr;
    assert!(
        said.contains("MD0021") && said.contains("MD0040") && said.contains("workspace/jobs/web/a.conf.j2:1"),
        "{said}"
    );
    bucket.write("workspace/jobs/api/manifest.json", "{}");
    bucket.write("workspace/jobs/web/a.conf.j2", "a\n{{ get('vars/job/web', 'no') }}\n");
    bucket.write("workspace/jobs/api/a.conf.j2", "{{ nowhere }}\n");
    bucket.write("workspace/jobs/api/b.conf.j2", "{{ get('maand/worker/w2', 'labels') }}\n");
    let said = bucket.maand(&["build"]).expect(3).stderr;
    for (code, place) in [("MD0041", "api/a.conf.j2:1"), ("MD0043", "api/b.conf.j2:1"), ("MD0042", "web/a.conf.j2:2")] {
        assert!(said.contains(code) && said.contains(place), "{code} {place} in {said}");
    }
    assert_eq!(said.matches("error[MD").count(), 3, "{said}");
}
