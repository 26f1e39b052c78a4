//! The seeds of `tests/fuzz`: what a parser accepts, or just does not, a handful of each.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use harness::outside::wire::{PACKED, base, wants};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use serde_json::{Value, json};
use shared::api::v1::want::{BundleAnswer, WantList};
use shared::token::JoinToken;
use shared::{BlobDigest, Bundle, Entry, pack};

/// By target, then by file name.
pub type Seeds = BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>;

const ONE: &str = "00000000-0000-0000-0000-000000000001";
const TWO: &str = "00000000-0000-0000-0000-000000000002";
const FIVE: &str = "00000000-0000-0000-0000-000000000005";

fn texts<const N: usize>(all: [(&str, &str); N]) -> BTreeMap<String, Vec<u8>> {
    all.into_iter().map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).collect()
}

fn values<const N: usize>(all: [(&str, Value); N]) -> BTreeMap<String, Vec<u8>> {
    all.into_iter().map(|(name, value)| (name.to_owned(), serde_json::to_vec(&value).unwrap())).collect()
}

/// All that can be made.
pub fn made() -> Seeds {
    [
        ("bundle", bundles()),
        ("certificate", certificates()),
        ("desired", desired()),
        ("enrol", enrolments()),
        ("hook_api", hook_api()),
        ("log_lines", log_lines()),
        ("logs", logs()),
        ("mountinfo", mountinfo()),
        ("pack", packs()),
        ("report", reports()),
        ("settings", settings()),
        ("template", templates()),
        ("token", tokens()),
        ("want", wanted()),
        ("words", words()),
        ("workspace", workspaces()),
    ]
    .into()
}

fn bundles() -> BTreeMap<String, Vec<u8>> {
    let base = base();
    let mut entries = base.entries().to_vec();
    entries[0].mode = 0o755;
    entries.push(Entry { path: "certs/a.key".parse().unwrap(), private: true, ..entries[1].clone() });
    let next = Bundle::new(entries).unwrap();
    let diff = BundleAnswer::Diff { base: base.digest(), diff: next.diff(&base) };
    let entry = |path: &str, mode: u32| json!({"path": path, "mode": mode, "len": 3, "blob": BlobDigest::of(b"one")});
    values([
        ("full.json", serde_json::to_value(BundleAnswer::Full(next)).unwrap()),
        ("diff.json", serde_json::to_value(diff).unwrap()),
        ("removes.json", json!({"diff": {"base": base.digest(), "diff": {"changed": [], "removed": ["Makefile"]}}})),
        ("empty.json", json!({"full": []})),
        ("above.json", json!({"full": [entry("../etc/passwd", 0o644)]})),
        ("below.json", json!({"full": [entry("a", 0o644), entry("a-b", 0o644), entry("a/c", 0o4755)]})),
    ])
}

fn certificate(uri: &str, usages: Vec<ExtendedKeyUsagePurpose>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.extended_key_usages = usages;
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn certificates() -> BTreeMap<String, Vec<u8>> {
    let own = format!("spiffe://maand/{ONE}/worker/{TWO}");
    let client = vec![ExtendedKeyUsagePurpose::ClientAuth];
    [
        ("agent.der", certificate(&own, client.clone())),
        ("no-usage.der", certificate(&own, vec![])),
        ("other-bucket.der", certificate(&own.replace(ONE, FIVE), client)),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

fn enrolments() -> BTreeMap<String, Vec<u8>> {
    let request = |key: &KeyPair| CertificateParams::default().serialize_request(key).unwrap().der().to_vec();
    let p256 = request(&KeyPair::generate().unwrap());
    let ed25519 = request(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let p384 = request(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap());
    let body = json!({"token_id": "AQEBAQEBAQEBAQEBAQEBAQ", "csr": BASE64.encode(b"0"), "proof": ""});
    let proven = json!({"certificate": "MAA=", "csr": "MAA=", "proof": ""});
    let renewal = json!({"csr": "MAA="});
    let mut all = values([("body.json", body), ("renewal.json", renewal), ("proven.json", proven)]);
    all.extend([("p256.der", p256), ("ed25519.der", ed25519), ("p384.der", p384)].map(|(n, b)| (n.to_owned(), b)));
    all
}

fn desired() -> BTreeMap<String, Vec<u8>> {
    let state = json!({
        "bucket_id": ONE, "worker_id": TWO, "host": "10.0.0.1", "labels": ["web", "worker"],
        "epoch": 1, "update_seq": 17, "generation": 43, "issued_at_ms": 1_700_000_000_000_i64,
        "allocations": [
            {"alloc_id": FIVE, "job": "api", "state": "running", "bundle": base().digest(), "current_version": "1.0.0",
             "new_version": "1.1.0", "dir_mode": 448,
             "action": {"id": ONE, "kind": "reload", "timeout_s": 300, "run_id": TWO},
             "health": {"checks": [{"type": "http", "port": 80, "path": "/", "scheme": "http", "expect_status": 200}],
                        "timeout_s": 5, "attempts": 3, "interval_s": 1}},
            {"alloc_id": ONE, "job": "old", "state": "purged", "current_version": "", "new_version": ""}],
        "prefetch": [base().digest()],
        "operations": [
            {"id": ONE, "run_id": TWO, "work": {"kind": "make", "alloc_id": FIVE, "job": "api", "target": "migrate"},
             "timeout_s": 10, "not_after_ms": 1},
            {"id": TWO, "run_id": TWO, "work": {"kind": "script", "body": "true"}, "timeout_s": 1, "not_after_ms": 2,
             "cancel": true, "precondition": {"update_seq": 17}},
            {"id": TWO, "run_id": TWO, "work": {"kind": "dance"}, "timeout_s": 1, "not_after_ms": 2}]
    });
    let mut older = state.clone();
    older["update_seq"] = 16.into();
    let mut other = state.clone();
    other["worker_id"] = FIVE.into();
    let text = serde_json::to_string(&state).unwrap();
    values([
        ("envelope.json", json!({"payload": BASE64.encode(text.as_bytes()), "signatures": []})),
        ("newer.json", state),
        ("older.json", older),
        ("another-workers.json", other),
        ("no-base64.json", json!({"payload": "=", "signatures": ["x"]})),
    ])
}

fn hook_api() -> BTreeMap<String, Vec<u8>> {
    values([
        ("entry.json", json!({"namespace": "vars/job/api", "key": "db_name", "value": "x"})),
        ("place.json", json!({"namespace": "maand/worker/10.0.0.1", "key": "host"})),
        ("acquire.json", json!({"name": "leader", "capacity": -1, "timeout_seconds": i64::MAX})),
        ("make.json", json!({"target": "-f", "host": "10.0.0.1", "timeout_seconds": null})),
        ("script.json", json!({"script": "true\n", "timeout_seconds": 1})),
        ("list.json", json!(["vars/job/api", "db_name"])),
    ])
}

fn log_lines() -> BTreeMap<String, Vec<u8>> {
    let run = "018f0000-0000-7000-8000-000000000000";
    let output = format!(
        "ts=2026-01-01T00:00:01.000Z level=info run={run} maand=deploy seq=4 worker=10.0.0.1 job=api action=start"
    );
    texts([
        (
            "block.log",
            &format!(
                "{output} event=command_begin cmd=\"make \\\"start\\\"\"\n{output} stream=stdout msg=\"a b\"\n{output} stream=stderr msg=x\n{output} event=command_end exit=1 duration_ms=12 level=error\n"
            ),
        ),
        (
            "json.log",
            &format!(
                "{}\n",
                json!({"ts": "2026-01-01T00:00:00.000Z", "level": "warn", "event": "deploy_skip", "run": run, "maand": "deploy", "worker": "-", "msg": "\u{1b}[2J\u{202e}"})
            ),
        ),
        ("cut.log", "ts=2026-01-01T00:00:01.000Z level=info maand=job msg=\"a \\\""),
        ("odd.log", "ts=1 job=a,b worker=- phase=rollout seq=x exit=99999999999999999999 msg=\"\"\n\n=\nts\n"),
    ])
}

fn logs() -> BTreeMap<String, Vec<u8>> {
    let action = json!({"kind": "action", "action_id": ONE, "job": "api", "target": "start"});
    let operation = json!({"kind": "operation", "operation_id": TWO});
    let chunk = |source: &Value, offset: u64, text: &[u8]| json!({"source": source, "run_id": TWO, "stream": "stdout", "offset": offset, "bytes": BASE64.encode(text)});
    values([
        ("two.json", json!({"chunks": [chunk(&action, 0, b"one\ntwo\n"), chunk(&action, 8, b"three\n")]})),
        ("operation.json", json!({"chunks": [chunk(&operation, 5, b"\xff\0\x1b[2J")]})),
        ("far.json", json!({"chunks": [chunk(&action, u64::MAX, b"x"), chunk(&action, 1 << 50, b"x")]})),
        ("none.json", json!({"chunks": []})),
    ])
}

fn mountinfo() -> BTreeMap<String, Vec<u8>> {
    texts([
        (
            "container",
            "24 1 254:0 / / rw - ext4 /dev/vda rw\n30 24 254:16 /vol /opt/worker rw - ext4 /dev/vdb rw\n--\n90 80 0:50 / / rw - overlay overlay rw\n91 90 254:16 /vol/b/jobs/api/app.conf /etc/app.conf rw - ext4 /dev/vdb rw\n92 90 254:16 /vol/b/jobs/api/conf.d//deleted /x rw\n",
        ),
        (
            "escaped",
            "1 1 8:1 / / rw - ext4 a rw\n2 1 8:2 /a\\040b\\134 /opt/worker/b\\011 rw - ext4 b rw\n3 1 8:2 \\777 \\08 rw\n",
        ),
        ("short", "1 2 3\n\n1 2 3 4\n1 2 3 4 /\n"),
    ])
}

/// See `harness::outside`: the first byte says whether the rest is still to be compressed.
fn packs() -> BTreeMap<String, Vec<u8>> {
    let find = |digest: &BlobDigest| *PACKED.iter().find(|content| BlobDigest::of(content) == *digest).unwrap();
    let mut good = vec![0];
    pack::write(&wants(), |digest| Ok(find(digest)), &mut good).unwrap();
    let tar = zstd::decode_all(&good[1..]).unwrap();
    let plain = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = tar.clone();
        change(&mut bytes);
        [vec![1], bytes].concat()
    };
    let kind = |to: u8| {
        plain(&move |bytes| {
            bytes[156] = to;
            let sum: u32 = bytes[..512]
                .iter()
                .enumerate()
                .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
                .sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        })
    };
    let cut = good[..good.len() / 2].to_vec();
    [
        ("good.pack", good),
        ("cut.pack", cut),
        ("good.tar", plain(&|_| {})),
        ("link.tar", kind(b'2')),
        ("sparse.tar", kind(b'S')),
        ("long-name.tar", kind(b'L')),
        ("trailing.tar", plain(&|bytes| bytes.push(1))),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

fn reports() -> BTreeMap<String, Vec<u8>> {
    let report = |number: u64, more: Value| {
        let mut report = json!({"agent_version": "0.1.0", "session": 1, "number": number, "boot_id": ONE,
            "clock_ms": 1_700_000_000_000_i64, "allocations": []});
        report.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        report
    };
    let action =
        json!({"id": ONE, "outcome": {"kind": "failed", "exit": 2}, "started_ms": 5, "duration_ms": 7, "tail": "no\n"});
    let allocation = json!({"alloc_id": FIVE, "job": "api", "bundle": base().digest(), "version": "1.0.0", "phase": "idle",
        "process": "failed", "action": action, "problem": "disk full", "drift": ["conf/app.toml"], "unmanaged": ["x"],
        "health": {"state": "unhealthy", "since_ms": 1, "problem": "tcp 80", "final": true}});
    values([
        (
            "first.json",
            report(
                1,
                json!({"accepted": {"epoch": 1, "update_seq": 3, "generation": 4}, "allocations": [allocation],
            "operations": [{"id": ONE, "outcome": {"kind": "refused", "reason": "not allowed"}, "started_ms": 1}],
            "facts": {"memory_mb": 1, "cpu_mhz": 2, "cpus": 3, "kernel": "6", "arch": "x86_64", "disk_free_mb": 4, "tools": ["make"]}}),
            ),
        ),
        (
            "another-workers.json",
            report(
                2,
                json!({"allocations": [
            {"alloc_id": "00000000-0000-0000-0000-000000000006", "job": "api", "phase": "running", "process": "unknown"},
            {"alloc_id": TWO, "job": "gone", "phase": "applying", "process": "started"}]}),
            ),
        ),
        ("clock.json", report(3, json!({"clock_ms": i64::MIN, "refused": "older"}))),
        (
            "numbers.json",
            report(
                u64::MAX,
                json!({"session": u64::MAX, "accepted": {"epoch": u64::MAX, "update_seq": 0, "generation": 0}}),
            ),
        ),
    ])
}

fn settings() -> BTreeMap<String, Vec<u8>> {
    texts([
        (
            "maand.conf",
            "listen = \"127.0.0.1:7443\"\nadvertise = \"https://c:1/\"\npickup_timeout = 5\ncerts_ttl = 10\ncerts_renewal_buffer = 2\nlog_format = \"json\"\nlog_max_mb = 1\nlog_keep = 1\nlog_keep_runs = 2\n",
        ),
        ("wrong.conf", "listen = 3\npickup_timout = 1\nuse_sudo = true\ncerts_ttl = 1\n"),
        (
            "agent.toml",
            &format!(
                "controller = \"https://c:7443\"\nbucket_id = \"{ONE}\"\nworker_id = \"{TWO}\"\nroot = \"/opt/worker\"\nstate = \"/var/lib/maand-agent\"\nallow = [\"make\", \"probe\"]\n"
            ),
        ),
        ("deep.toml", "a = [[[[[[[[{b = [1, 2.5e3, 07:32:00, 'x']}]]]]]]]]\n[c.d.e]\n'f' = \"\"\"\n\\u0041\"\"\"\n"),
    ])
}

fn templates() -> BTreeMap<String, Vec<u8>> {
    texts([
        (
            "plain.j2",
            "{{ worker_ip }} {{ labels | join(',') }}{% if new_version %}\n{{ get('vars/job/api', 'db_name') }}{% endif %}\n",
        ),
        ("secret.j2", "password={{ get_secret('password') | upper }}{{ get_optional('vars/job/api', 'no') }}\n"),
        ("wrong.j2", "{{ int(get_secret('password')) }}{{ get('secrets/job/other', 'x') }}"),
        (
            "macro.j2",
            "{% macro m(n) %}{% for i in range(n) %}{{ i ~ loop.index }}{% endfor %}{% endmacro %}{{ m(3) }}{% set ns = namespace(x=1) %}",
        ),
        (
            "double.j2",
            "{% set ns = namespace(x='abcdefgh') %}{% for i in range(20) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x | length }}",
        ),
        (
            "wide.j2",
            "{{ 'x' * 1000000 }}{{ 'x' | indent(1000000000) }}{{ '%1000000000d' | format(1) }}{{ [1] * 1000000000 }}",
        ),
        // What a fuzzer makes that reads comparisons: the secret, as a word of the template's own.
        ("spelled.j2", "hush-4711-hush {% if worker_ip %}{{ get_secret('hush-4711-hush') }}{% endif %}"),
        (
            "split.j2",
            "{{ keys('vars/job/api') | join }} {{ max(int('2'), 3) + 1 }} {{ join(split('a,b', ','), '-') }}{{ add(9223372036854775807, 1) }}",
        ),
    ])
}

fn tokens() -> BTreeMap<String, Vec<u8>> {
    let token = JoinToken { id: [1; 16], secret: [2; 32], pin: [3; 32] }.to_string();
    texts([
        ("good", &token),
        ("blank", &format!(" {token}\n")),
        ("cut", &token[..40]),
        ("other", &token.replace("mj1", "mj2")),
    ])
}

fn wanted() -> BTreeMap<String, Vec<u8>> {
    let mut blobs: Vec<BlobDigest> = wants().into_keys().collect();
    let good = WantList { blobs: blobs.clone(), private: true };
    blobs.reverse();
    let twice = [blobs.clone(), blobs.clone()].concat();
    values([
        ("good.json", serde_json::to_value(good).unwrap()),
        ("backwards.json", json!({"blobs": blobs})),
        ("twice.json", json!({"blobs": twice, "private": false})),
    ])
}

fn words() -> BTreeMap<String, Vec<u8>> {
    texts([
        ("name", "web-1_x.y"),
        ("path", "conf/app.d/01-a.toml"),
        ("above", "a/../../b"),
        ("digest", "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("fence", "1.17.18446744073709551615"),
        ("id", FIVE),
        ("version", "v1.2.3-rc.1+build.5"),
        ("glob", "**/{a,b}/[!c-e]*.conf"),
        ("memory", "1.5 GB"),
        ("cpu", "2.4 GHz"),
        ("namespace", "maand/job/api/worker/10.0.0.1"),
    ])
}

fn workspaces() -> BTreeMap<String, Vec<u8>> {
    let manifest = json!({"version": "1.2.0", "selectors": ["web"], "dir_mode": "0750", "restart_globs": ["*.conf"],
        "resources": {"memory": {"min": "64 mb", "max": "1 gb"}, "cpu": {"min": "1 mhz", "max": "1 ghz"}, "ports": {"http": 80, "dyn": {}}},
        "hooks": {"hook_a": {"executed_on": ["pre_deploy", "cli"], "timeout_seconds": 5, "demands": {"job": "db", "hook": "hook_b", "config": {}}}},
        "certs": {"server": {"key": "rsa", "pkcs8": true, "subject": {"common_name": "x"}}},
        "health_check": {"type": "http", "port": "http", "path": "/", "wait": {"attempts": 3, "interval_seconds": 1}},
        "max_concurrent_starts": 2, "max_unreachable": "10%", "max_failed": 1});
    texts([
        ("manifest", &format!("m{manifest}")),
        ("manifest-wrong", "m{\"verison\": 1, \"hooks\": [], \"certs\": {\"..\": {}}, \"max_failed\": \"-5%\"}"),
        ("vars", "va = 1\nb = 'x'\nc = 1.5\nd = true\n[e]\nf = 1\n"),
        (
            "workers",
            "w[{\"host\": \"10.0.0.1\", \"labels\": [\"web\", \"Worker\"], \"tags\": {\"Rack\": \"A\"}, \"position\": -3, \"memory\": \"4 gb\", \"cpu\": \"2 ghz\"}, {\"host\": \"10.0.0.1\"}]",
        ),
        (
            "disabled",
            "d{\"jobs\": {\"api\": {\"allocations\": [\"10.0.0.1\"]}, \"nope\": {}}, \"workers\": [\"10.0.0.1\"]}",
        ),
        ("bucket", "bport_min = 40000\nport_max = 30000\nx = \"y\"\n"),
        ("overrides", "o[api]\nmemory = \"128 mb\"\n[nope]\ncpu = 1\n"),
        ("spans", "s[ { \"host\": \"a\\u0041\", \"memory\": 1, \"x\": [1.50, {\"memory\": \"no\"}] },\n {} ]"),
    ])
}
