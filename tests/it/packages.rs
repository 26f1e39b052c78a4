//! What `cargo xtask dist` makes.

use std::path::{Path, PathBuf};
use std::process::Command;

use packaging::dist::{self, Format};

/// Makes packages of the programs under test, as `version`.
pub fn make(version: &str, formats: &[Format], out: &Path) -> Vec<PathBuf> {
    let input = dist::Input {
        workspace: dist::workspace(),
        maand: env!("CARGO_BIN_EXE_maand-dup").into(),
        agent: env!("CARGO_BIN_EXE_maand-agent-dup").into(),
        version: version.to_owned(),
        time: 1_700_000_000,
        small: false,
        formats: formats.to_vec(),
    };
    dist::packages(&input, out).unwrap()
}

fn said(words: &[&str], path: &Path) -> Option<String> {
    let output = match Command::new(words[0]).args(&words[1..]).arg(path).output() {
        Ok(output) => output,
        Err(error) => {
            assert!(std::env::var_os("MAAND_CI").is_none(), "{} is needed here: {error}", words[0]);
            println!("skipped: {} is not here", words[0]);
            return None;
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words:?} {}: {}{}", path.display(), text(&output.stdout), text(&output.stderr));
    Some(text(&output.stdout))
}

#[test]
fn the_same_bytes_each_time_and_whole_to_those_who_read_them() {
    let dir = tempfile::tempdir().unwrap();
    let all = |place: &str| make("0.1.0", &Format::ALL, &dir.path().join(place));
    let (first, second) = (all("a"), all("b"));
    let names: Vec<_> = first.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for (one, other) in first.iter().zip(&second) {
        assert!(std::fs::read(one).unwrap() == std::fs::read(other).unwrap(), "{} differs", one.display());
    }
    let of = |end: &str| first.iter().filter(|path| path.to_string_lossy().ends_with(end)).collect::<Vec<_>>();
    for deb in of(".deb") {
        if let Some(listed) = said(&["dpkg-deb", "--contents"], deb) {
            let agent = deb.to_string_lossy().contains("maand-agent_");
            let expected: &[&str] = if agent {
                &[
                    "usr/bin/maand-agent",
                    "etc/maand/agent.toml",
                    "system/maand-agent@.service",
                    "man1/maand-agent-leave.1.gz",
                ]
            } else {
                &[
                    "usr/bin/maand",
                    "sysusers.d/maand.conf",
                    "completions/maand",
                    "examples/hello/workspace/workers.json",
                ]
            };
            for path in expected {
                assert!(listed.contains(path), "{path}: {listed}");
            }
            assert!(listed.lines().all(|line| line.contains("root/root")), "{listed}");
        }
        if let Some(complaints) = said(&["lintian", "--allow-root", "--fail-on", "error,warning"], deb) {
            assert_eq!(complaints, "");
        }
    }
    for rpm in of(".rpm") {
        if let Some(checked) = said(&["rpm", "--checksig"], rpm) {
            assert!(checked.contains("digests OK"), "{checked}");
        }
        if let Some(listed) = said(&["rpm", "-qlp"], rpm) {
            assert!(listed.contains("/usr/lib/systemd/system/maand-"), "{listed}");
        }
        if let Some(scripts) = said(&["rpm", "-qp", "--scripts"], rpm) {
            assert!(scripts.contains("refuse_older") && scripts.contains("after_upgrade"), "{scripts}");
        }
    }
    for archive in of(".tar.zst") {
        let tar = zstd::decode_all(std::fs::File::open(archive).unwrap()).unwrap();
        let text = String::from_utf8_lossy(&tar);
        assert!(text.contains("maand-0.1.0-linux-") && text.contains("/INSTALL"));
    }
}
