//! Canaries: values that are like nothing else, put where secrets go, and looked for everywhere afterwards, in
//! every form in which they are easily written. They are found where they belong, and nowhere else.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use harness::agents::Agent;
use serde_json::{Value, json};
use shared::api::v1;

use crate::api::{Client, own};
use crate::support::{agents, bucket, hosts};

/// A value and every form in which it is looked for.
struct Canary {
    value: String,
    forms: Vec<Vec<u8>>,
}

impl Canary {
    /// One with characters that JSON, shells and URLs write otherwise.
    fn new() -> Self {
        let random = uuid::Uuid::new_v4().simple().to_string();
        Self::of(&format!("cAnArY-{}/\"+&é'{}", &random[..16], &random[16..]))
    }

    fn of(value: &str) -> Self {
        let bytes = value.as_bytes();
        let url = |byte: &u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(*byte).to_string(),
            other => format!("%{other:02X}"),
        };
        let json = serde_json::to_string(value).unwrap();
        let ascii: String =
            value.chars().map(|c| if c.is_ascii() { c.to_string() } else { format!("\\u{:04x}", c as u32) }).collect();
        let mut forms = vec![
            value.to_owned(),
            json[1..json.len() - 1].to_owned(),
            ascii,
            value.replace('"', "\\\""),
            bytes.iter().map(url).collect(),
            HEXLOWER.encode(bytes),
            HEXUPPER.encode(bytes),
        ];
        // In the middle of something else that is base64, at each of three places.
        for skip in 0..3 {
            let whole = &bytes[skip..skip + (bytes.len() - skip) / 3 * 3];
            forms.extend([BASE64_NOPAD.encode(whole), BASE64URL_NOPAD.encode(whole)]);
        }
        forms.push(BASE64.encode(bytes));
        Self { value: value.to_owned(), forms: forms.into_iter().map(String::into_bytes).collect() }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms.iter().any(|form| contains(bytes, form))
    }
}

fn contains(bytes: &[u8], form: &[u8]) -> bool {
    let Some((first, _)) = form.split_first() else { return false };
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| byte == first) {
        if bytes[from + at..].starts_with(form) {
            return true;
        }
        from += at + 1;
    }
    false
}

/// Every file below `dir`, with its content; not the programs under test.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && entry.file_name() != "programs" {
                open.push(entry.path());
            } else if kind.is_file() {
                // SQLite takes its files away when the last one closes them.
                found.extend(std::fs::read(entry.path()).ok().map(|content| (entry.path(), content)));
            }
        }
    }
    found
}

fn files_with(dir: &Path, canary: &Canary) -> Vec<PathBuf> {
    let found = files(dir).into_iter().filter(|(_, content)| canary.is_in(content));
    found.map(|(path, _)| path.strip_prefix(dir).unwrap().to_owned()).collect()
}

/// Whether anybody but the owner can read a file below `top`.
fn is_open(top: &Path, file: &Path) -> bool {
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    let dirs = file.ancestors().skip(1).take_while(|dir| dir.starts_with(top));
    mode(file) & 0o077 != 0 && dirs.into_iter().all(|dir| mode(dir) & 0o011 != 0)
}

/// Looks at the command lines and environments of all processes until it is dropped.
struct Watch {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<(usize, Vec<String>)>>,
}

impl Watch {
    fn start(values: Vec<String>, proc_files: &'static [&'static str]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        let thread = std::thread::spawn(move || {
            let (mut looked, mut found) = (0, Vec::new());
            while !ends.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                    for file in proc_files {
                        let Ok(bytes) = std::fs::read(entry.path().join(file)) else { continue };
                        looked += 1;
                        if values.iter().any(|value| contains(&bytes, value.as_bytes())) {
                            found.push(format!("{file}: {}", String::from_utf8_lossy(&bytes)));
                        }
                    }
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            (looked, found)
        });
        Self { over, thread: Some(thread) }
    }

    /// How many files were looked at, and where something was found.
    fn end(mut self) -> (usize, Vec<String>) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The hook of the job: stores the secret, and prints it, as careless people do.
const HOOK: &str = "import maand, os, sys, time\n\
secret = open(os.environ['HOME'] + '/given').read()\n\
maand.put_job_secret('password', secret).raise_for_status()\n\
print('hook says', secret, flush=True)\n\
print('hook errs', secret, file=sys.stderr, flush=True)\n\
open(os.environ['HOME'] + '/token-of-the-hook', 'w').write(os.environ['HOOK_API_TOKEN'])\n\
time.sleep(0.3)\n";

/// Its Makefile prints what it was given on every occasion, and fails while a file is there.
fn makefile(fails: &Path) -> String {
    let fails = fails.display();
    format!(
        "start restart:\n\t@echo printed by $@; cat conf/app.conf; cat conf/app.conf >&2; sleep 0.3; test ! -e {fails}\n\
         stop:\n\t@cat conf/app.conf\nshow:\n\t@cat conf/app.conf; false\n\
         forms:\n\t@echo b64 $$(base64 -w0 <conf/app.conf); echo hex $$(od -An -v -tx1 <conf/app.conf | tr -d ' \\n')\n\
         \t@echo json $$(sed 's/\\\\/\\\\\\\\/g; s/\"/\\\\\"/g' <conf/app.conf); cat certs/web.key\n\
         \t@head -c 65516 /dev/zero | tr '\\0' x; cat conf/app.conf\n"
    )
}

#[test]
fn a_secret_is_found_where_it_belongs_and_nowhere_else() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 2);
    let canary = Canary::new();
    let workers = json!([{"host": hosts[0], "labels": ["api"]}, {"host": hosts[1], "labels": ["other"]}]);
    bucket.write("workspace/workers.json", &workers.to_string());
    bucket.recording_job("other", &json!({"selectors": ["other"]}));
    let hooks = json!({"hook_x": {"executed_on": ["pre_deploy", "cli"]}});
    let certs = json!({"web": {"subject": {"common_name": "web"}}});
    let manifest = json!({"version": "1.0.0", "selectors": ["api"], "hooks": hooks, "certs": certs});
    let fails = bucket.dir().join("fails");
    bucket.write("workspace/jobs/api/manifest.json", &manifest.to_string());
    bucket.write("workspace/jobs/api/Makefile", &makefile(&fails));
    bucket.write("workspace/jobs/api/_modules/hook_x.py", HOOK);
    bucket.write("workspace/jobs/api/conf/app.conf.j2", "password = {{ get_secret('password') }}\n");
    std::fs::write(bucket.dir().join("given"), &canary.value).unwrap();
    std::fs::write(&fails, "").unwrap();
    let all = std::cell::RefCell::new(String::new());
    let run = |arguments: &[&str], code: i32| {
        let output = bucket.maand(arguments).expect(code);
        all.borrow_mut().push_str(&format!("$ maand {arguments:?}\n{}{}", output.stdout, output.stderr));
        output.stdout
    };
    run(&["build"], 0);
    let serve = bucket.serve();
    let agents = agents(&bucket, &hosts);

    let watch = Watch::start(
        canary.forms.iter().map(|form| String::from_utf8(form.clone()).unwrap()).collect(),
        &["cmdline", "environ"],
    );
    run(&["deploy", "--dry-run"], 0);
    run(&["deploy", "--verbose"], 1);
    run(&["why", &hosts[0]], 0);
    std::fs::remove_file(&fails).unwrap();
    run(&["deploy", "--verbose"], 0);
    run(&["hooks", "hook_x", "api", "--verbose"], 0);
    run(&["job", "run", "--target", "show", "api"], 1);
    let forms = run(&["job", "run", "--target", "forms", "api"], 0);
    for line in ["b64 ", "hex ", "json password = [secret]", "xxxxpassword = [secret]"] {
        assert!(forms.contains(line), "{line}\n{forms}");
    }
    let key = agents[0].read("api", "certs/web.key");
    for line in key.lines().filter(|line| !line.starts_with('-')) {
        assert!(!forms.contains(line), "a line of the key of a certificate was shown:\n{forms}");
    }
    // One in each form, the key, and the halves of the one that lies across the end of a chunk.
    assert_eq!(forms.matches("[secret]").count(), 6, "{forms}");
    run(&["run_command", "cat jobs/api/conf/app.conf; echo that was it"], 0);
    run(&["job", "restart", "api"], 0);
    let (looked, found) = watch.end();
    assert!(looked > 100 && found.is_empty(), "{looked} looked at: {found:?}");

    // It did arrive, and everybody printed it.
    let said = all.borrow().clone();
    assert_eq!(agents[0].read("api", "conf/app.conf"), format!("password = {}\n", canary.value));
    for line in ["hook says [secret]", "password = [secret]", "that was it"] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(bucket.read(&format!("logs/{}.log", hosts[0])).contains("[secret]"));

    // What commands say, in every form, without --reveal.
    for view in ["workers", "jobs", "allocations", "deployments", "agents", "hooks", "ports", "certs", "kv"] {
        // A view of nothing says so, and that is an error.
        let output = bucket.maand(&["cat", view, "--json"]);
        all.borrow_mut().push_str(&(output.stdout + &output.stderr));
    }
    run(&["info", "--json"], 0);
    run(&["cat", "kv", "get", "secrets/job/api", "password", "--json"], 0);
    run(&["logs", "show", "--json"], 0);
    run(&["logs", "show"], 0);
    run(&["why", &hosts[0], "api", "--json"], 0);
    let said = all.into_inner();
    assert!(!canary.is_in(said.as_bytes()), "a command said it:\n{said}");
    let revealed = bucket.maand(&["cat", "kv", "get", "secrets/job/api", "password", "--reveal"]).expect(0).stdout;
    assert!(revealed.contains(&canary.value), "{revealed}");
    assert!(!canary.is_in(serve.printed().as_bytes()), "{}", serve.printed());

    let body: String = key.lines().filter(|line| !line.starts_with('-')).take(1).collect();
    let of_key = Canary { value: body.clone(), forms: vec![body.into_bytes()] };
    assert_eq!(files_with(&bucket.path(""), &of_key), Vec::<PathBuf>::new(), "the key of a certificate");
    // Nowhere in the bucket: logs, catalog with its write-ahead log, store, packs, tmp.
    let in_bucket = files(&bucket.path(""));
    assert!(in_bucket.iter().any(|(path, _)| path.ends_with("data/maand.db")) && in_bucket.len() > 20);
    assert_eq!(files_with(&bucket.path(""), &canary), Vec::<PathBuf>::new());
    // Its backup is the same, sealed.
    let backup = bucket.dir().join("backup.tar.zst");
    run_backup(&bucket, &backup);
    let mut unpacked = Vec::new();
    zstd::Decoder::new(std::fs::File::open(&backup).unwrap()).unwrap().read_to_end(&mut unpacked).unwrap();
    assert!(unpacked.len() > 10_000 && !canary.is_in(&unpacked));

    on_the_workers(&agents, &canary);
    to_another_worker(&bucket, &hosts[1]);
    // What let the hook speak is written nowhere either.
    let token = std::fs::read_to_string(bucket.dir().join("token-of-the-hook")).unwrap();
    assert!(token.len() >= 43);
    assert_eq!(files_with(&bucket.path(""), &Canary::of(&token)), Vec::<PathBuf>::new());
}

fn run_backup(bucket: &harness::bucket::Bucket, to: &Path) {
    bucket.maand(&["backup", to.to_str().unwrap()]).expect(0);
    assert_eq!(std::fs::metadata(to).unwrap().permissions().mode() & 0o077, 0, "keys are in it");
}

/// The rendered file, and the output of what printed it, of which the ledger has the end: for their owner alone.
/// Not on the other worker, nor in what the agent logs.
fn on_the_workers(agents: &[Agent], canary: &Canary) {
    let place = |agent: &Agent| agent.root().parent().unwrap().to_owned();
    let own = files_with(&place(&agents[0]), canary);
    let conf = agents[0].job_path("api", "conf/app.conf");
    assert!(own.iter().any(|path| conf.ends_with(path)), "{own:?}");
    for path in &own {
        let shown = path.display().to_string();
        let is_run = shown.contains(".maand/runs/");
        assert!(
            conf.ends_with(path) || is_run || shown.contains(".maand/store/") || shown.contains(".maand/ledger.db"),
            "{shown}"
        );
        assert!(!is_open(&agents[0].root(), &place(&agents[0]).join(path)), "{shown} can be read by anybody");
    }
    assert_eq!(files_with(&place(&agents[1]), canary), Vec::<PathBuf>::new());
}

/// The other worker's agent asks for everything that is not its own.
fn to_another_worker(bucket: &harness::bucket::Bucket, host: &str) {
    let client = Client::new(bucket, own(bucket, host));
    let database = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    let text = |sql: &str| -> String { database.query_row(sql, [], |row| row.get(0)).unwrap() };
    let bundle: shared::BundleDigest = text("SELECT bundle FROM allocation WHERE job = 'api'").parse().unwrap();
    let mut catalog = controller::catalog::Catalog::open(&bucket.path("data/maand.db")).unwrap();
    let list = catalog.read(|tx| controller::catalog::bundles::get(tx, &bundle)).unwrap().unwrap();
    let secret = list.entries().iter().find(|entry| entry.private).unwrap();
    let status = |path: &str, body: Option<Value>| client.call(path, body.map(|body| body.to_string()), &[]).unwrap().0;
    assert_eq!(status(&format!("{}/{bundle}", v1::BUNDLES), None), 404);
    for private in [true, false] {
        assert_eq!(status(v1::PACKS, Some(json!({"blobs": [secret.blob], "private": private}))), 404);
    }
    let own_state = client.call(v1::DESIRED, None, &[]).unwrap();
    assert_eq!(own_state.0, 200);
    let envelope: shared::api::v1::desired::Envelope = serde_json::from_slice(&own_state.1).unwrap();
    let (_, state) = envelope.opened().unwrap();
    assert!(state.allocations.iter().all(|allocation| allocation.job.as_str() == "other"), "{state:?}");
}

/// A join token's secret, and the key that an agent made with it.
#[test]
fn tokens_and_keys_of_agents_are_kept_by_those_who_need_them() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let line = bucket.maand(&["agent", "token", &hosts[0]]).expect(0).stdout;
    let words: Vec<&str> = line.split_whitespace().collect();
    let token: shared::token::JoinToken = words[3].parse().unwrap();
    let agent = Agent::prepare(&bucket, &hosts[0], &[]);
    agent.join_with(words[2], words[3]).expect(0);
    let mut agent = agent;
    agent.start();
    agent.wait_online(&bucket);
    bucket.maand(&["deploy"]).expect(0);
    let secret = BASE64URL_NOPAD.encode(&token.secret);
    let everywhere = files(bucket.dir());
    let forms = [secret.as_bytes(), &token.secret[..], HEXLOWER.encode(&token.secret).as_bytes()].map(<[u8]>::to_vec);
    for (path, content) in &everywhere {
        assert!(!forms.iter().any(|form| contains(content, form)), "the token's secret is in {}", path.display());
    }
    // The key: PEM, in one file, its owner's.
    let keys: Vec<_> = everywhere.iter().filter(|(path, _)| path.starts_with(bucket.dir().join("agents"))).collect();
    let keys: Vec<_> = keys.into_iter().filter(|(_, content)| contains(content, b"PRIVATE KEY-----")).collect();
    assert_eq!(keys.len(), 1, "{:?}", keys.iter().map(|(path, _)| path).collect::<Vec<_>>());
    let (path, pem) = keys[0];
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let body: String = std::str::from_utf8(pem).unwrap().lines().filter(|line| !line.starts_with('-')).collect();
    let der = BASE64.decode(body.as_bytes()).unwrap();
    // The middle: what stands before it is the same for all keys.
    let (lines, inner) = (&body.as_bytes()[40..80], &der[36..68]);
    for (other, content) in everywhere.iter().filter(|(other, _)| other != path) {
        assert!(!contains(content, lines) && !contains(content, inner), "an agent's key is in {}", other.display());
    }
    // The controller's keys are the bucket's alone.
    for (path, content) in &everywhere {
        if contains(content, b"PRIVATE KEY-----") && path.starts_with(bucket.path("")) {
            assert!(path.starts_with(bucket.path("secrets")), "{}", path.display());
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
        }
    }
}
