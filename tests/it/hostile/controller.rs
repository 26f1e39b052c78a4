//! A controller that is broken or means harm, as far as content goes: what an agent is sent cannot get out
//! of a job's directory, fill the agent's memory or stop it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use data_encoding::BASE64;
use harness::agents::Agent;
use harness::poll;
use serde_json::{Value, json};
use shared::api::v1;
use shared::{BlobDigest, Bundle, BundleDigest};

use super::evil::{Answer, Asked, Evil};
use crate::api::{Client, own};
use crate::support::{bucket, hosts};

/// What an agent may have resident at most.
const MEMORY_KIB: u64 = 64 << 10;

/// Every file below `dir` but the agent's own, with its mode and content.
fn tree(dir: &Path) -> BTreeMap<String, (u32, String)> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            if path.ends_with(".maand") {
                continue;
            }
            // What describes the accepted state to people is written anew with each.
            let is_description = path.ends_with("worker.json") || path.ends_with("jobs.json");
            let content = match meta.is_file() && !is_description {
                true => BlobDigest::of(&std::fs::read(&path).unwrap()).to_string(),
                false => String::new(),
            };
            if meta.is_dir() {
                dirs.push(path.clone());
            }
            files.insert(path.to_string_lossy().into_owned(), (meta.permissions().mode(), content));
        }
    }
    files
}

fn highest_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn envelope(state: &Value) -> Answer {
    Answer::Whole(
        200,
        json!({"payload": BASE64.encode(state.to_string().as_bytes()), "signatures": []}).to_string().into(),
    )
}

/// A pack as a good controller would make it, of blobs that may be lies.
fn pack(blobs: &BTreeMap<BlobDigest, Vec<u8>>) -> Vec<u8> {
    let lengths = blobs.iter().map(|(digest, content)| (*digest, content.len() as u64)).collect();
    let mut out = Vec::new();
    shared::pack::write(&lengths, |digest| Ok(std::io::Cursor::new(blobs[digest].clone())), &mut out).unwrap();
    out
}

fn zstd_of(bytes: impl std::io::Read) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// An archive with one entry of any kind.
fn archive(name: &str, kind: tar::EntryType, link: Option<&str>, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
    header.set_size(content.len() as u64);
    header.set_mode(0o6777);
    header.set_entry_type(kind);
    if let Some(link) = link {
        header.set_link_name(link).unwrap();
    }
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, content).unwrap();
    zstd_of(&builder.into_inner().unwrap()[..])
}

/// Where the agent's complaint is to be found.
enum Complains {
    /// In what it reports: what the operator sees.
    Reports(&'static str),
    /// In its own log, because no report could say it: the answer was no message.
    Logs(&'static str),
}
use Complains::{Logs, Reports};

type Scenario = (&'static str, Complains, Box<dyn Fn(&Asked) -> Answer + Send>);

#[test]
fn what_a_controller_sends_stays_in_the_job_in_memory_and_in_time() {
    let bucket = bucket();
    let host = hosts(&bucket, 1).remove(0);
    bucket.workers(std::slice::from_ref(&host), &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    bucket.write("workspace/jobs/api/kept", "as deployed\n");
    bucket.maand(&["build"]).expect(0);
    let mut serve = bucket.serve();
    let mut agent = Agent::join(&bucket, &host);
    bucket.maand(&["deploy"]).expect(0);
    let (status, body) = Client::new(&bucket, own(&bucket, &host)).call(v1::DESIRED, None, &[]).unwrap();
    assert_eq!(status, 200);
    let body: Value = serde_json::from_slice(&body).unwrap();
    let good: Value =
        serde_json::from_slice(&BASE64.decode(body["payload"].as_str().unwrap().as_bytes()).unwrap()).unwrap();
    serve.stop(poll::LONG);

    // Beside the job: whatever a path might lead to.
    let agent_dir = bucket.dir().join("agents").join(&host);
    std::fs::create_dir_all(agent.bucket_dir().join("jobs/other/certs")).unwrap();
    let place = agent.bucket_dir();
    for beside in [place.join("passwd"), place.join("jobs/passwd"), agent_dir.join("passwd")] {
        std::fs::write(beside, "not to be touched\n").unwrap();
    }
    std::fs::write(agent.job_path("other", "certs/key"), "not to be touched\n").unwrap();
    std::fs::create_dir_all(agent.job_path("api", "data")).unwrap();
    std::fs::write(agent.job_path("api", "data/precious"), "not to be touched\n").unwrap();
    let seen = || {
        let mut files = tree(&place);
        files.insert("passwd".into(), (0, std::fs::read_to_string(agent_dir.join("passwd")).unwrap()));
        files
    };
    let before = seen();

    let generation = std::cell::Cell::new(good["generation"].as_u64().unwrap());
    // The good document in a newer generation, with something else in it.
    let newer = |change: &dyn Fn(&mut Value)| {
        generation.set(generation.get() + 1);
        let mut state = good.clone();
        state["generation"] = generation.get().into();
        change(&mut state);
        state
    };
    let digest_of = |n: u64| BundleDigest::from_bytes(*BlobDigest::of(&n.to_be_bytes()).as_bytes());
    let scenarios = scenarios(&newer, &digest_of);
    let evil = Evil::listen(&bucket);
    let total = scenarios.len();
    for (name, complains, answers) in scenarios {
        std::fs::write(format!("/proc/{}/clear_refs", agent.process().pid()), "5").unwrap();
        let printed = agent.process().printed().len();
        evil.answer(answers);
        poll::until(name, poll::LONG, || {
            let (said, word): (Vec<String>, _) = match &complains {
                Reports(word) => {
                    let bodies = evil.bodies(v1::REPORTS);
                    (bodies.iter().map(|body| String::from_utf8_lossy(body).into_owned()).collect(), word)
                }
                Logs(word) => (vec![agent.process().printed()[printed..].to_owned()], word),
            };
            match said.iter().any(|said| said.contains(*word)) {
                true => Ok(()),
                false => Err(format!("{name}: no {word:?} in {:?}", said.last())),
            }
        });
        assert!(agent.process().ended().is_none(), "{name}: the agent ended");
        assert_eq!(seen(), before, "{name}: something else changed");
        let highest = highest_kib(agent.process().pid());
        println!("{name}: refused, at most {highest} KiB resident");
        assert!(highest <= MEMORY_KIB, "{name}: {highest} KiB resident");
    }
    println!("{total} answers refused");

    // And what is good is still done.
    let content = b"of a good controller\n".to_vec();
    let blob = BlobDigest::of(&content);
    let list: Bundle =
        serde_json::from_value(json!([{"path": "kept", "mode": 0o640, "len": content.len(), "blob": blob}])).unwrap();
    let digest = list.digest();
    let state = newer(&|state| state["allocations"][0]["bundle"] = json!(digest));
    let answered = pack(&BTreeMap::from([(blob, content)]));
    evil.answer(move |asked| match asked.path.as_str() {
        path if path.starts_with(v1::DESIRED) && path.contains(&format!(".{}&", state["generation"])) => {
            Answer::Nothing
        }
        path if path.starts_with(v1::DESIRED) => envelope(&state),
        path if path.starts_with(v1::BUNDLES) => Answer::Whole(200, json!({"full": list}).to_string().into()),
        path if path.starts_with(v1::PACKS) => Answer::Whole(200, answered.clone()),
        _ => Answer::Whole(200, Vec::new()),
    });
    poll::until("the good bundle to be in place", poll::LONG, || {
        let kept = agent.read("api", "kept");
        if kept == "of a good controller\n" { Ok(()) } else { Err(kept) }
    });
}

/// Makes a newer document than the last one, changed by what it is given.
type Newer<'a> = dyn Fn(&dyn Fn(&mut Value)) -> Value + 'a;

fn scenarios(newer: &Newer<'_>, digest_of: &dyn Fn(u64) -> BundleDigest) -> Vec<Scenario> {
    let mut all: Vec<Scenario> = Vec::new();
    // Answers to the question what to run.
    let mut desired = |name, complains, answer: Answer| {
        let answers = move |asked: &Asked| match asked.path.starts_with(v1::DESIRED) {
            true => answer.clone(),
            false => Answer::Whole(200, Vec::new()),
        };
        all.push((name, complains, Box::new(answers)));
    };
    desired("no JSON", Logs("not of its form"), Answer::Whole(200, b"\0\0\0".to_vec()));
    desired("nested deep", Logs("not of its form"), Answer::Whole(200, "[".repeat(1 << 20).into()));
    desired("an answer without end", Logs("longer than"), Answer::Endless(vec![b' '; 64 << 10]));
    desired("an answer that is cut", Logs("cannot be reached"), Answer::Cut(1000, b"{\"payload\":".to_vec()));
    desired("no base64", Reports("no base64"), Answer::Whole(200, br#"{"payload":"%%%","signatures":[]}"#.to_vec()));
    let labels = |state: &mut Value| state["labels"] = json!(vec!["a"; 2_000_000]);
    desired("two million labels", Reports("a list is longer than"), envelope(&newer(&labels)));
    let allocations = |state: &mut Value| state["allocations"] = json!(vec![state["allocations"][0].clone(); 20_000]);
    desired("twenty thousand allocations", Reports("a list is longer than"), envelope(&newer(&allocations)));
    for (name, word, key, value) in [
        ("another bucket's", "bucket", "bucket_id", json!(uuid::Uuid::from_u128(1))),
        ("another worker's", "worker", "worker_id", json!(uuid::Uuid::from_u128(1))),
        ("a host with a path in it", "not a valid name", "host", json!("../../etc")),
    ] {
        desired(name, Reports(word), envelope(&newer(&|state| state[key] = value.clone())));
    }
    let climbing = |state: &mut Value| state["allocations"][0]["job"] = json!("../other");
    desired("a job with a path in it", Reports("not of its form"), envelope(&newer(&climbing)));
    desired("an older generation", Reports("older"), envelope(&newer(&|state| state["generation"] = json!(1))));

    // Lists of bundles.
    let entry = |path: &str, mode: u32| json!({"path": path, "mode": mode, "len": 3, "blob": BlobDigest::of(b"one")});
    let mut number = 0;
    let mut listed = |name, word, list: Answer| {
        number += 1;
        let digest = digest_of(number);
        let state = newer(&|state| state["allocations"][0]["bundle"] = json!(digest));
        let confirmed = format!(".{}&", state["generation"]);
        let answers = move |asked: &Asked| match asked.path.as_str() {
            path if path.starts_with(v1::DESIRED) && path.contains(&confirmed) => Answer::Nothing,
            path if path.starts_with(v1::DESIRED) => envelope(&state),
            path if path.starts_with(v1::BUNDLES) => list.clone(),
            path if path.starts_with(v1::PACKS) => Answer::Whole(404, Vec::new()),
            _ => Answer::Whole(200, Vec::new()),
        };
        all.push((name, Reports(word), Box::new(answers)));
    };
    let full = |entries: Value| Answer::Whole(200, json!({ "full": entries }).to_string().into());
    for (name, path) in [
        ("a path upwards", "../../passwd"),
        ("a path upwards in its middle", "a/../../passwd"),
        ("an absolute path", "/etc/passwd"),
        ("the job's data", "data/precious"),
        ("the agent's own", ".maand-x"),
        ("a control character", "a\u{1b}[2J"),
        ("a backslash", "a\\b"),
        ("an empty component", "a//b"),
    ] {
        listed(name, "not of its form", full(json!([entry(path, 0o644)])));
    }
    listed("a set-uid file", "not of its form", full(json!([entry("x", 0o4755)])));
    listed("one path twice", "not of its form", full(json!([entry("x", 0o644), entry("x", 0o644)])));
    listed("a file that is a directory", "not of its form", full(json!([entry("x", 0o644), entry("x/y", 0o644)])));
    listed("another list than was asked for", "has digest", full(json!([entry("x", 0o644)])));
    listed("a list without end", "longer than", Answer::Endless(b"                                ".repeat(2048)));
    let many: Vec<Value> = (0..60_000).map(|n| entry(&format!("{n:05}"), 0o644)).collect();
    listed("sixty thousand files", "more than 50000", full(json!(many)));
    let long: Vec<Value> = (0..49_000).map(|n| entry(&format!("{n:05}/{}", "x".repeat(190)), 0o644)).collect();
    listed("a list as long as they come", "has digest", full(json!(long)));
    let diff = json!({"diff": {"base": digest_of(99), "diff": {"removed": [], "changed": []}}});
    listed("a difference from something else", "list", Answer::Whole(200, diff.to_string().into()));

    // Packs.
    let mut packed = |name, word, make: &dyn Fn(BlobDigest) -> Answer| {
        number += 1;
        let content = format!("content {number:03}");
        let blob = BlobDigest::of(content.as_bytes());
        let list: Bundle =
            serde_json::from_value(json!([{"path": "new", "mode": 0o644, "len": content.len(), "blob": blob}]))
                .unwrap();
        let digest = list.digest();
        let state = newer(&|state| state["allocations"][0]["bundle"] = json!(digest));
        let confirmed = format!(".{}&", state["generation"]);
        let pack = make(blob);
        let answers = move |asked: &Asked| match asked.path.as_str() {
            path if path.starts_with(v1::DESIRED) && path.contains(&confirmed) => Answer::Nothing,
            path if path.starts_with(v1::DESIRED) => envelope(&state),
            path if path.starts_with(v1::BUNDLES) => Answer::Whole(200, json!({ "full": list }).to_string().into()),
            path if path.starts_with(v1::PACKS) => pack.clone(),
            _ => Answer::Whole(200, Vec::new()),
        };
        all.push((name, Reports(word), Box::new(answers)));
    };
    let whole = |bytes: Vec<u8>| Answer::Whole(200, bytes);
    packed("other content", "other content", &|blob| whole(pack(&BTreeMap::from([(blob, b"contentless".to_vec())]))));
    packed("content of another length", "not asked for", &|blob| {
        whole(pack(&BTreeMap::from([(blob, b"x".repeat(70_000))])))
    });
    packed("no pack at all", "the pack is wrong", &|_| whole(b"<html>".to_vec()));
    packed("an empty pack", "missing", &|_| whole(pack(&BTreeMap::new())));
    packed("a pack that is cut", "pack", &|blob| {
        let good = pack(&BTreeMap::from([(blob, b"x".repeat(11))]));
        whole(good[..good.len() / 2].to_vec())
    });
    packed("a gigabyte of the same letter", "the pack is wrong", &|_| {
        whole(zstd_of(std::io::repeat(b'a').take(1 << 30)))
    });
    packed("a pack without end", "longer than", &|_| Answer::Endless(vec![7; 64 << 10]));
    for (name, kind, link) in [
        ("a symbolic link", tar::EntryType::Symlink, Some("/etc/passwd")),
        ("a hard link", tar::EntryType::Link, Some("kept")),
        ("a device", tar::EntryType::Char, None),
        ("a pipe", tar::EntryType::Fifo, None),
        ("a directory", tar::EntryType::Directory, None),
        ("a sparse file", tar::EntryType::GNUSparse, None),
        ("a header of another kind", tar::EntryType::XHeader, None),
        ("a long name's header", tar::EntryType::GNULongName, None),
    ] {
        packed(name, "the pack is wrong", &|blob| whole(archive(&blob.hex(), kind, link, b"")));
    }
    packed("a name upwards", "the pack is wrong", &|_| {
        whole(archive("../../../../passwd", tar::EntryType::Regular, None, b"content 0"))
    });
    all
}

#[test]
fn a_pack_that_trickles_holds_up_nothing_else() {
    let bucket = bucket();
    let host = hosts(&bucket, 1).remove(0);
    bucket.workers(std::slice::from_ref(&host), &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    bucket.maand(&["build"]).expect(0);
    let mut serve = bucket.serve();
    let agent = Agent::join(&bucket, &host);
    bucket.maand(&["deploy"]).expect(0);
    let (_, body) = Client::new(&bucket, own(&bucket, &host)).call(v1::DESIRED, None, &[]).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let mut state: Value =
        serde_json::from_slice(&BASE64.decode(body["payload"].as_str().unwrap().as_bytes()).unwrap()).unwrap();
    serve.stop(poll::LONG);
    let evil = Evil::listen(&bucket);
    let list: Bundle =
        serde_json::from_value(json!([{"path": "new", "mode": 0o644, "len": 7, "blob": BlobDigest::of(b"content")}]))
            .unwrap();
    let digest = list.digest();
    let generation = state["generation"].as_u64().unwrap() + 1;
    state["generation"] = generation.into();
    state["allocations"][0]["bundle"] = json!(digest);
    let operation = uuid::Uuid::from_u128(77);
    state["operations"] = json!([{
        "id": operation, "run_id": uuid::Uuid::from_u128(78), "timeout_s": 20, "not_after_ms": i64::MAX / 2,
        "work": {"kind": "script", "body": "echo not held up"},
    }]);
    evil.answer(move |asked| match asked.path.as_str() {
        path if path.starts_with(v1::DESIRED) && path.contains(&format!(".{generation}&")) => Answer::Nothing,
        path if path.starts_with(v1::DESIRED) => envelope(&state),
        path if path.starts_with(v1::BUNDLES) => Answer::Whole(200, json!({ "full": list }).to_string().into()),
        path if path.starts_with(v1::PACKS) => Answer::Trickle,
        _ => Answer::Whole(200, Vec::new()),
    });
    poll::until("the pack to be asked for", poll::LONG, || match evil.bodies(v1::PACKS).len() {
        0 => Err("no request"),
        _ => Ok(()),
    });
    poll::until("the script's result, while the pack trickles", poll::LONG, || {
        let reports = evil.bodies(v1::REPORTS);
        let last: Value = reports.last().map(|body| serde_json::from_slice(body).unwrap()).unwrap_or_default();
        let ended = last["operations"].as_array().into_iter().flatten().any(|o| !o["outcome"].is_null());
        let fetches = last["allocations"].as_array().into_iter().flatten().any(|a| a["phase"] == "fetching");
        if ended && fetches { Ok(()) } else { Err(last) }
    });
    assert!(agent.read("api", "new").is_empty());
}
