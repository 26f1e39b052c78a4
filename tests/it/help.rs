//! The help of every command, as a new user reads it at 80 columns: `help.txt`, `help-agent.txt`.
//! `MAAND_BLESS=1` writes it anew, to be read before it is committed.

use std::fmt::Write as _;

use harness::bucket::Bucket;

use crate::support::bare;

/// Columns of the terminal.
const WIDTH: &str = "80";

fn help(bucket: &Bucket, program: &str, words: &[&str]) -> String {
    let all = [words, &["--help"]].concat();
    let mut command = match program {
        "maand" => bucket.command(&all),
        _ => {
            let mut command = std::process::Command::new(&bucket.programs().agent);
            command.env_clear().args(all);
            command
        }
    };
    let output = command.env("COLUMNS", WIDTH).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every command below `command`, itself first, as the words behind `maand`.
fn commands(command: &clap::Command, words: &[String], into: &mut Vec<Vec<String>>, long: &mut Vec<String>) {
    // What its author broke into lines is shown in those lines.
    let lines = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    long.extend(lines.lines().filter(|line| line.chars().count() > 80).map(|line| format!("{words:?}: {line}")));
    into.push(words.to_vec());
    for below in command.get_subcommands().filter(|below| below.get_name() != "help" && !below.is_hide_set()) {
        commands(below, &[words, &[below.get_name().to_owned()]].concat(), into, long);
    }
}

#[test]
fn the_help_of_every_command() {
    blessed("maand", &controller::cli::command(), "help.txt");
}

#[test]
fn the_help_of_every_command_of_the_agent() {
    let command = agent::cli::command();
    blessed("maand-agent", &command, "help-agent.txt");
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let long = below.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        assert!(long.starts_with("Example"), "maand-agent {} has no examples", below.get_name());
    }
}

/// Compares the help of a program and of each of its commands with the file that was read and committed.
fn blessed(program: &str, root: &clap::Command, file: &str) {
    let bucket = bare();
    let (mut all, mut long) = (Vec::new(), Vec::new());
    commands(root, &[], &mut all, &mut long);
    assert!(long.is_empty(), "{}", long.join("\n"));
    let mut text = String::new();
    for words in all {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let shown = help(&bucket, program, &words);
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "{words:?}: {line}");
        }
        let line = [&[program], &words[..], &["--help"]].concat().join(" ");
        writeln!(text, "$ {line}\n{}\n", shown.trim_end()).unwrap();
    }
    // No blanks at the ends of lines, which nobody sees.
    let text: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("it").join(file);
    if std::env::var_os("MAAND_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let known = std::fs::read_to_string(&path).unwrap();
    let differs = known.lines().zip(text.lines()).position(|(a, b)| a != b);
    let at = differs.unwrap_or_else(|| known.lines().count().min(text.lines().count()));
    let near = |of: &str| of.lines().skip(at.saturating_sub(3)).take(8).collect::<Vec<_>>().join("\n");
    assert!(
        known == text,
        "{file}, line {}: MAAND_BLESS=1 writes it anew\nwas:\n{}\nis:\n{}",
        at + 1,
        near(&known),
        near(&text)
    );
}

#[test]
fn a_wrong_command_line_says_what_is_meant() {
    let bucket = bare();
    for (words, said) in [
        (&["biuld"][..], "build"),
        (&["cat", "deployment"], "deployments"),
        (&["deploy", "--job", "a"], "--jobs"),
        (&["cat", "kv", "get", "vars/bucket"], "<KEY>"),
    ] {
        let refused = bucket.maand(words).expect(2);
        assert!(refused.stderr.contains(said) && refused.stdout.is_empty(), "{words:?}: {}", refused.stderr);
    }
}
