//! `cargo xtask fuzz`: every target of tests/fuzz, one after the other, each for a while.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Memory that one input may take, MiB; what takes more counts as a crash.
const MEMORY_MB: u32 = 2048;
/// Time that one input may take, seconds; likewise.
const INPUT_S: u32 = 30;
/// Longest input that is made, bytes.
const LONGEST: u32 = 16 << 10;

const USAGE: &str = "usage: cargo xtask fuzz [TARGET ...] [--seconds N]";

/// What a run of the fuzzer said at its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    new_units: u64,
    /// Edges when the seeds had been read, and at the end.
    coverage: Option<(u64, u64)>,
}

/// Runs them. Needs nightly Rust and cargo-fuzz. 0 if none found anything.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (targets, seconds) = match parsed(arguments) {
        Some(parsed) => parsed,
        None => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).join("tests/fuzz");
    let all = match names(&fuzz) {
        Ok(all) => all,
        Err(error) => return failed(&format!("{}: {error}", fuzz.display())),
    };
    if let Some(unknown) = targets.iter().find(|target| !all.contains(target)) {
        return failed(&format!("there is no target {unknown}: {}", all.join(", ")));
    }
    let chosen = if targets.is_empty() { all } else { targets };
    let mut found = Vec::new();
    println!("{:<14}{:>14}{:>12}{:>22}  result", "target", "executions", "new inputs", "coverage (edges)");
    for target in &chosen {
        let (figures, ok) = match one(&fuzz, target, seconds) {
            Ok(done) => done,
            Err(error) => return failed(&format!("cargo fuzz cannot be run: {error}")),
        };
        let coverage = figures.coverage.map_or_else(|| "-".to_owned(), |(from, to)| format!("{from} -> {to}"));
        let result = if ok { "ok" } else { "FAILED: see tests/fuzz/artifacts" };
        println!("{target:<14}{:>14}{:>12}{coverage:>22}  {result}", figures.executions, figures.new_units);
        if !ok {
            found.push(target.as_str());
        }
    }
    if found.is_empty() { ExitCode::SUCCESS } else { failed(&format!("failed: {}", found.join(", "))) }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::FAILURE
}

fn parsed(arguments: impl Iterator<Item = OsString>) -> Option<(Vec<String>, u32)> {
    let (mut targets, mut seconds) = (Vec::new(), 60);
    let mut arguments = arguments.map(|argument| argument.into_string().ok());
    while let Some(argument) = arguments.next() {
        match argument?.as_str() {
            "--seconds" => seconds = arguments.next()??.parse().ok().filter(|seconds| *seconds > 0)?,
            option if option.starts_with('-') => return None,
            target => targets.push(target.to_owned()),
        }
    }
    Some((targets, seconds))
}

fn names(fuzz: &Path) -> std::io::Result<Vec<String>> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(fuzz.join("targets"))? {
        let path: PathBuf = file?.path();
        all.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    all.sort();
    Ok(all)
}

/// One target. What it finds that is new stays in tests/fuzz/corpus; the seeds are only read.
fn one(fuzz: &Path, target: &str, seconds: u32) -> std::io::Result<(Figures, bool)> {
    let corpus = fuzz.join("corpus").join(target);
    std::fs::create_dir_all(&corpus)?;
    let words = fuzz.join("dictionaries").join(format!("{target}.txt"));
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", "run", "--fuzz-dir"]).arg(fuzz).arg(target);
    command.arg(&corpus).arg(fuzz.join("seeds").join(target)).arg("--");
    command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
    command.arg(format!("-rss_limit_mb={MEMORY_MB}")).arg(format!("-timeout={INPUT_S}"));
    command.arg(format!("-max_len={LONGEST}"));
    if words.is_file() {
        command.arg(format!("-dict={}", words.display()));
    }
    // The toolchain that runs this must not choose the one of the fuzzer.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.stderr(Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = said.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
    }
    Ok((figures(&said), output.status.success()))
}

fn figures(said: &str) -> Figures {
    let stat = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
        line.and_then(|line| line.trim_start_matches(':').trim().parse().ok()).unwrap_or(0)
    };
    let coverage = |line: &str| line.split("cov: ").nth(1)?.split_whitespace().next()?.parse().ok();
    let seen: Vec<u64> = said.lines().filter(|line| line.starts_with('#')).filter_map(coverage).collect();
    let initial = said.lines().find(|line| line.contains("INITED")).and_then(coverage);
    Figures {
        executions: stat("number_of_executed_units"),
        new_units: stat("new_units_added"),
        coverage: initial.or(seen.first().copied()).zip(seen.last().copied()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_that_the_fuzzer_prints() {
        let said = "INFO: Seed: 1\n#12\tINITED cov: 310 ft: 500 corp: 5/1Kb exec/s: 0 rss: 60Mb\n\
            #900\tNEW    cov: 340 ft: 520 corp: 6/1Kb\n#4000\tDONE   cov: 351 ft: 530 corp: 7/1Kb\n\
            stat::number_of_executed_units: 4000\nstat::average_exec_per_sec:     80\nstat::new_units_added:          2\n";
        assert_eq!(figures(said), Figures { executions: 4000, new_units: 2, coverage: Some((310, 351)) });
        assert_eq!(figures("error"), Figures::default());
    }

    #[test]
    fn arguments() {
        let parse = |words: &[&str]| parsed(words.iter().map(OsString::from));
        assert_eq!(parse(&[]), Some((vec![], 60)));
        assert_eq!(parse(&["pack", "--seconds", "5"]), Some((vec!["pack".to_owned()], 5)));
        for bad in [&["--seconds"][..], &["--seconds", "0"], &["--second", "1"]] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
