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
                    "doc/maand-agent/THIRD-PARTY.gz",
                ]
            } else {
                &[
                    "usr/bin/maand",
                    "sysusers.d/maand.conf",
                    "completions/maand",
                    "examples/hello/workspace/workers.json",
                    "doc/maand/THIRD-PARTY.gz",
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
        if let Some(licences) = said(&["rpm", "-qp", "--licensefiles"], rpm) {
            assert!(licences.lines().any(|line| line.ends_with("/THIRD-PARTY.gz")), "{licences}");
        }
        if let Some(scripts) = said(&["rpm", "-qp", "--scripts"], rpm) {
            assert!(scripts.contains("refuse_older") && scripts.contains("after_upgrade"), "{scripts}");
        }
    }
    for archive in of(".tar.zst") {
        let tar = zstd::decode_all(std::fs::File::open(archive).unwrap()).unwrap();
        let text = String::from_utf8_lossy(&tar);
        assert!(text.contains("maand-0.1.0-linux-") && text.contains("/INSTALL"));
        terms(&tar);
    }
}

/// What is linked in is named with its licence and its text, for each program by itself.
fn terms(archive: &[u8]) {
    let mut found = 0;
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        if !path.ends_with("/THIRD-PARTY.gz") {
            continue;
        }
        found += 1;
        let mut page = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&mut entry), &mut page).unwrap();
        for words in
            ["\n[1] LICENSE of maand\n", "Apache License", "SQLite (C)", "AWS-LC", "Zstandard (C)", "\nrusqlite 0."]
        {
            assert!(page.contains(words), "{path}: {words}");
        }
        assert_eq!(page.contains("\nminijinja 3."), path.contains("/maand/"), "templates are the controller's: {path}");
        let (list, texts) = page.split_once("\n====").unwrap();
        let listed = |line: &str| line.contains(": ") && line.contains('[');
        let crates: Vec<&str> =
            list.lines().skip(4).filter(|line| !line.starts_with(' ') && !line.is_empty()).collect();
        assert!(crates.len() > 50 && crates.iter().all(|line| listed(line)), "{path}: {list}");
        let last =
            crates.iter().flat_map(|line| line.split('[')).filter_map(|part| part.split(']').next()?.parse().ok());
        let last: usize = last.max().unwrap();
        assert!(texts.contains(&format!("\n[{last}] ")), "{path}: text {last}");
    }
    assert_eq!(found, 2);
}

/// What a unit of one more bucket says where the first one's says something of the first bucket.
#[test]
fn units_of_more_buckets_say_what_the_first_ones_say() {
    let dir = dist::workspace().join("packaging/dist");
    let lines = |path: &str, said: &[(&str, &str)]| -> Vec<String> {
        let text = std::fs::read_to_string(dir.join(path)).unwrap();
        let text = said.iter().fold(text, |text, (from, to)| text.replace(from, to));
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    let instance = [
        ("/var/lib/maand/%i", "/var/lib/maand/bucket"),
        ("/backup/%i-", "/backup/bucket-"),
        ("\"%i-20", "\"bucket-20"),
        ("agent-%i.toml", "agent.toml"),
        ("@%i.service", ".service"),
        (" (%i)", ""),
    ];
    // One more bucket has a port of its own, and systemd does not hold it.
    let first =
        [("maand-serve.socket network-online.target", "network-online.target"), ("Also=maand-serve.socket\n", "")];
    let (controller, agent) = ("maand/usr/lib/systemd/system", "maand-agent/usr/lib/systemd/system");
    for (place, name, end) in [
        (controller, "maand-serve", "service"),
        (controller, "maand-drive", "service"),
        (controller, "maand-backup", "service"),
        (controller, "maand-backup", "timer"),
        (agent, "maand-agent", "service"),
    ] {
        let template = lines(&format!("{place}/{name}@.{end}"), &instance);
        assert_eq!(template, lines(&format!("{place}/{name}.{end}"), &first), "{name}.{end}");
    }
}
