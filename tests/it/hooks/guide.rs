//! The tutorial: what it tells to write is written, what it tells to run is run, and prints what it shows.

use std::path::Path;

/// What does not stay the same from run to run.
fn steady(line: &str) -> String {
    if let Some(name) = line.strip_suffix(" UTC").and_then(|line| line.split(": ").next()) {
        return name.to_owned();
    }
    let words = line.split_whitespace().filter(|word| !word.starts_with("current_hash="));
    let words = words.scan(false, |after_open, word| {
        let duration = word.starts_with('(') && word[1..].parse::<u64>().is_ok();
        *after_open = duration;
        Some(if duration { "(N" } else { word })
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_tutorial_works_as_it_is_written() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/hooks-tutorial.md");
    let text = std::fs::read_to_string(page).unwrap();
    let bucket = crate::support::bucket();
    let (mut files, mut commands) = (0, 0);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```").filter(|info| !info.is_empty()) else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match info.split_once(' ') {
            Some((_, path)) => {
                bucket.write(path, &format!("{}\n", block.join("\n")));
                files += 1;
            }
            None if info == "console" => {
                let mut at = 0;
                while at < block.len() {
                    let command = block[at].strip_prefix("$ maand ").unwrap_or_else(|| panic!("{}", block[at]));
                    at += 1;
                    let from = at;
                    while at < block.len() && !block[at].starts_with("$ ") {
                        at += 1;
                    }
                    let words: Vec<&str> = command.split(" #").next().unwrap().split_whitespace().collect();
                    let output = bucket.maand(&words);
                    let printed = format!("{}{}", output.stdout, output.stderr);
                    let got: Vec<String> = printed.lines().map(steady).collect();
                    let want: Vec<String> = block[from..at].iter().map(|line| steady(line)).collect();
                    assert_eq!(got, want, "$ maand {command}\n{printed}");
                    commands += 1;
                }
            }
            None => {}
        }
    }
    assert!(files >= 4 && commands >= 5, "{files} files, {commands} commands");
}
