//! The guide as it is shipped: its commands can be parsed, its codes exist, and what it quotes is what the programs
//! say.

use std::path::Path;

use super::says;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn guide() -> String {
    std::fs::read_to_string(root().join("docs/guides/debugging-deploy.md")).unwrap()
}

/// Every command line of the guide: those of its blocks, and those that are quoted in its text.
fn commands(guide: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_block = false;
    for line in guide.lines() {
        if line.starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            found.extend(line.split(" #").next().unwrap().split("&&").map(|part| part.trim().to_owned()));
        }
    }
    // Quotes may go over the end of a line.
    let text: String = guide.split("```").step_by(2).collect::<Vec<_>>().join(" ");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for quoted in text.split('`').skip(1).step_by(2) {
        found.extend(quoted.split("&&").map(|part| part.trim().to_owned()));
    }
    found
}

/// The words of a command line, with what stands for something replaced by an example of it.
fn words(command: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for (n, piece) in command.split('"').enumerate() {
        match n % 2 {
            1 => words.push(piece.to_owned()),
            _ => words.extend(piece.split_whitespace().map(str::to_owned)),
        }
    }
    let stands_for = |word: &String| match word.trim_matches(['[', ']']) {
        "HOST" | "<ip>" | "<host>" => "10.0.0.1".to_owned(),
        "JOB" | "J" | "<job>" | "job" => "api".to_owned(),
        "RUN" => "018f3c1a".to_owned(),
        "TARGET" => "migrate".to_owned(),
        "HOOK" | "<cmd>" | "<hook>" => "hook_migrate".to_owned(),
        _ => word.clone(),
    };
    words
        .iter()
        .take(1)
        .cloned()
        .chain(words.iter().skip(1).map(|word| if word == "job" { word.clone() } else { stands_for(word) }))
        .collect()
}

#[test]
fn every_command_line_of_the_guide_can_be_parsed() {
    let guide = guide();
    let mut seen = (0, 0);
    let mut wrong = Vec::new();
    for command in commands(&guide) {
        let words = words(&command);
        let parsed = match words.first().map(String::as_str) {
            Some("maand") if words.len() > 1 => {
                seen.0 += 1;
                controller::cli::command().try_get_matches_from(&words)
            }
            Some("maand-agent") if words.len() > 1 => {
                seen.1 += 1;
                agent::cli::command().try_get_matches_from(&words)
            }
            _ => continue,
        };
        if let Err(error) = parsed {
            use clap::error::ErrorKind::{
                DisplayHelpOnMissingArgumentOrSubcommand, InvalidSubcommand, UnknownArgument,
            };
            // A command that is only named, without what it needs.
            let is_named = words.len() <= 3 && error.kind() != InvalidSubcommand && error.kind() != UnknownArgument;
            if !is_named && error.kind() != DisplayHelpOnMissingArgumentOrSubcommand {
                wrong.push(format!("{command}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.0 > 50 && seen.1 >= 3, "the commands are found: {seen:?}");
}

#[test]
fn every_command_of_the_operators_flow_and_reference_is_in_the_guide() {
    let commands = commands(&guide());
    for command in [
        "maand deploy --dry-run",
        "maand deploy -b -n",
        "maand deploy --dry-run --jobs api,vault",
        "maand deploy --dry-run --force",
        "maand cat deployments",
        "maand cat deployments --jobs api",
        "maand cat deployments --jobs api --active",
        "maand cat deployments --workers 10.0.0.1",
        "maand cat allocations",
        "maand cat allocations --jobs api",
        "maand cat jobs",
        "maand info",
        "maand build",
        "maand deploy",
        "maand gc",
        "maand cat kv --jobs api",
        "maand cat kv get vars/job/api mykey",
        "maand cat certs",
        "maand cat hooks --jobs api",
        "maand hooks hook_migrate api --verbose",
        "maand cat agents",
        "maand agent ping HOST",
        "maand why HOST",
        "maand health_check --jobs api --wait --verbose",
        "maand cat ports --jobs api",
        "maand job status api",
        "maand run_command \"cat /opt/worker/<bucket_id>/worker.json\" --workers 10.0.0.1",
        "maand run_command \"ls -la /opt/worker/<bucket_id>/jobs/api/\" --workers 10.0.0.1",
        "maand stage --jobs api",
        "maand logs show --worker 10.48.200.3 --job postgres --format human",
        "maand logs show --event deploy_skip --format human",
        "maand deploy --force --jobs api",
        "maand deploy --sync-only --jobs api",
        "maand-agent status",
        "maand-agent make JOB TARGET",
        "maand-agent logs JOB",
    ] {
        assert!(commands.iter().any(|known| known == command), "{command}");
    }
}

#[test]
fn what_the_guide_quotes_is_what_the_programs_have() {
    let guide = guide();
    for code in guide.match_indices("MD0").map(|(at, _)| &guide[at..at + 6]) {
        assert!(shared::Code::ALL.iter().any(|known| known.to_string() == code), "{code}");
    }
    // Texts of errors and of answers: each is somewhere in the programs.
    let mut programs = String::new();
    let mut open = ["controller/src", "agent/src"].map(|dir| root().join(dir)).to_vec();
    while let Some(dir) = open.pop() {
        for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => open.push(path),
                false => programs.push_str(&std::fs::read_to_string(path).unwrap()),
            }
        }
    }
    let programs = programs.replace("\\\"", "\"");
    for (quoted, parts) in [
        ("deployment required", vec!["deployment required"]),
        ("no deployment required", vec!["no deployment required"]),
        ("deploy required", vec![": deploy required\""]),
        ("deploy required (post_deploy only)", vec!["deploy required (post_deploy only)"]),
        ("skip (already promoted)", vec!["skip ({reason})", "\"already promoted\""]),
        ("skip (no active allocations)", vec!["\"no active allocations\""]),
        (
            "deploy: skip job \"api\" (deploy complete on all allocations)",
            vec!["deploy: skip job \"{", "\"deploy complete on all allocations\""],
        ),
        ("deploy failed: api", vec!["deploy failed: {}"]),
        ("blocked: database failed", vec!["blocked: {by} failed"]),
        ("make failed on 10.0.0.1 with exit code 2", vec!["make failed on {host} with exit code {exit}"]),
        ("make took too long", vec!["make took too long"]),
        ("runs and is not healthy", vec!["runs and is not healthy"]),
        ("which was rolled before, is not healthy any more", vec!["which was rolled before, is not healthy any more"]),
        ("--sync-only cannot start what was never deployed", vec!["--sync-only cannot start what was never deployed"]),
        ("is deploying this bucket", vec!["is deploying this bucket"]),
        ("the deploy is paused", vec!["the deploy is paused"]),
        ("no agent has joined for 10.0.0.1", vec!["no agent has joined for {host}"]),
        ("did not pick up its work within 60 s", vec!["did not pick up its work within {waited_s} s"]),
        ("make targets cannot run", vec!["make targets cannot run"]),
        (
            "deploy: removed worker X unreachable, assuming dead",
            vec!["deploy: removed worker {", "unreachable, assuming dead"],
        ),
        ("the bucket's certificate authority has ended", vec!["the bucket's certificate authority has ended"]),
        ("the bucket's certificate authority ends soon", vec!["the bucket's certificate authority ends soon"]),
        ("template reads a key that does not exist", vec!["template reads a key that does not exist"]),
        ("template reads a namespace that it may not read", vec!["template reads a namespace that it may not read"]),
    ] {
        says(&guide, &[quoted]);
        says_not_long(&programs, &parts);
    }
    for word in ["start", "restart", "reload", "sync", "skip", "stop", "promote", "stop+promote"] {
        says(&guide, &[&format!("`{word}`")]);
    }
    for word in ["new", "restart", "promoted", "health_failed", "disabled", "disabled_restart", "removed"] {
        says(&guide, &[&format!("| `{word}` |")]);
        says_not_long(&programs, &[&format!("\"{word}\"")]);
    }
}

/// The same as [`says`] for a text that is too long to be shown.
#[track_caller]
fn says_not_long(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is in no source file");
    }
}
