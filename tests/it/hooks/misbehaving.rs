//! One hook for each way to misbehave, and what the operator sees of it.

use harness::poll;
use rustix::process::Signal;
use serde_json::json;

use super::{built, job, live, workers};

/// The part of what was printed that does not vary.
fn shown(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = match line.rsplit_once(" (") {
            Some((head, tail)) if tail.ends_with(" ms)") => head,
            _ => line,
        };
        out.push_str(line);
        out.push('\n');
    }
    out
}

fn gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.map_or(true, |stat| stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z')))
}

#[test]
fn one_that_exits_with_a_code_is_shown_with_its_last_lines_and_its_writes_are_forgotten() {
    let bucket = built(
        2,
        "import maand, sys\nmaand.put_job_variable('k', 'lost').raise_for_status()\nprint('about to', file=sys.stderr)\n\
         print('it broke', file=sys.stderr)\nsys.exit(3 if maand.allocation_ip() == 'w2' else 0)\n",
    );
    let output = bucket.maand(&["hooks", "hook_x"]).expect(1);
    assert_eq!(
        shown(&output.stderr),
        "api@w1 | hook_x ok\napi@w2 | hook_x exit code 3\n\
         error[MD0090]: job api: hook_x failed for 1 of 2 allocations (cli)\n  w2: exit code 3\n    ! about to\n    ! \
         it broke\n  the whole output is in logs/w2.log\n  do: correct it and maand build; try it with maand hooks \
         hook_x api --verbose\n"
    );
    assert_eq!(output.stdout, "");
    assert_eq!(live(&bucket, "vars/job/api"), []);
    let log = bucket.read("logs/w2.log");
    assert!(log.contains("job=api phase=cli action=hook_x stream=stderr msg=\"it broke\""), "{log}");
    assert!(log.contains("event=hook_ended") && log.contains("exit=3"), "{log}");
}

#[test]
fn one_that_hangs_is_ended_with_its_children() {
    let bucket = workers(1);
    let script = "import os, subprocess\nchild = subprocess.Popen(['sleep', '300'])\n\
                  print(child.pid, flush=True)\nopen(os.environ['HOME'] + '/child', 'w').write(str(child.pid))\n\
                  print('waiting for it')\nchild.wait()\n";
    job(&bucket, "api", &[("hook_x", json!({"executed_on": ["cli"], "timeout_seconds": 2}), script)]);
    bucket.maand(&["build"]).expect(0);
    let output = bucket.maand(&["hooks", "hook_x"]).expect(1);
    assert!(
        output
            .stderr
            .contains("error[MD0090]: job api: hook_x failed (cli)\n  w1: did not end within 2 s and was ended\n")
            && output.stderr.contains("    | waiting for it\n")
            && output.stderr.ends_with(
                "  do: find what it waits for, or raise hooks.hook_x.timeout_seconds in \
                 workspace/jobs/api/manifest.json\n"
            ),
        "{}",
        output.stderr
    );
    assert!(gone(&std::fs::read_to_string(bucket.dir().join("child")).unwrap()));
}

#[test]
fn a_line_of_megabytes_neither_hangs_nor_fills_the_log() {
    let bucket = built(1, "import sys\nsys.stdout.write('x' * (8 << 20))\nsys.stdout.write('\\nend\\n')\n");
    let output = bucket.maand(&["hooks", "hook_x", "--verbose"]).expect(0);
    let long = output.stderr.lines().find(|line| line.len() > 1000).unwrap();
    assert!(long.starts_with("api@w1 | xxx") && long.ends_with("x … (8380416 bytes more)"), "{}", long.len());
    assert!(output.stderr.contains("\napi@w1 | end\n"), "what follows is there");
    assert!(bucket.read("logs/w1.log").len() < 64 << 10);
}

#[test]
fn of_endless_output_the_beginning_and_the_end_are_kept() {
    let bucket = built(1, "for n in range(60000): print(f'line {n} ' + 'x' * 40)\nraise SystemExit(1)\n");
    let output = bucket.maand(&["hooks", "hook_x"]).expect(1);
    assert!(output.stderr.contains("    | line 59999 xxx"), "{}", output.stderr);
    let log = bucket.read("logs/w1.log");
    assert!(log.contains("msg=\"line 0 ") && log.contains("msg=\"line 59999 "));
    assert!(log.contains("of output left out here …\"") && !log.contains("msg=\"line 40000 "));
}

#[test]
fn a_daemon_does_not_outlive_its_hook() {
    let bucket = built(
        1,
        "import os, signal, sys, time\nif os.fork() == 0:\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
         \x20   open(os.environ['HOME'] + '/daemon', 'w').write(str(os.getpid()))\n    time.sleep(300)\n\
         while not os.path.exists(os.environ['HOME'] + '/daemon'): time.sleep(0.01)\nprint('started it')\n",
    );
    let output = bucket.maand(&["hooks", "hook_x", "--verbose"]).expect(0);
    assert_eq!(
        shown(&output.stderr),
        "api@w1 | started it\napi@w1 ! hook_x left processes running: they were ended with it\napi@w1 | hook_x ok\n"
    );
    assert!(gone(&std::fs::read_to_string(bucket.dir().join("daemon")).unwrap()));
}

#[test]
fn binary_output_is_shown_and_obeyed_by_no_terminal() {
    let bucket = built(
        1,
        "import sys\nsys.stdout.buffer.write(b'\\x1b[2J\\x00\\xff' + bytes(range(256)) + b'end')\nsys.stdout.flush()\n\
         sys.exit(1)\n",
    );
    let output = bucket.maand(&["hooks", "hook_x", "--verbose"]).expect(1);
    for text in [&output.stderr, &bucket.read("logs/w1.log")] {
        assert!(text.contains("\\u{1b}[2J\\u{0}\u{fffd}"), "{text:?}");
        assert!(!text.contains(['\x1b', '\0']), "{text:?}");
    }
}

#[test]
fn a_semaphore_that_is_not_given_back_is_given_back_with_its_process() {
    let bucket = built(
        2,
        "import maand\nmaand.acquire_semaphore('one', timeout_seconds=20).raise_for_status()\nprint('holds it')\n",
    );
    let output = bucket.maand(&["hooks", "hook_x", "--verbose", "--concurrency", "2"]).expect(0);
    assert_eq!(output.stderr.matches("| holds it").count(), 2, "{}", output.stderr);
    let said = "! hook_x ended with a semaphore held, given back for it: one\n";
    assert_eq!(output.stderr.matches(said).count(), 2, "{}", output.stderr);
}

#[test]
fn a_token_is_of_one_run_and_gives_nobody_else_a_right() {
    // w1 tells its token and waits; w2 uses it, with its own headers and then without any.
    let script = r#"
import json, maand, os, time, urllib.error, urllib.request
home = os.environ['HOME']
def ask(token, headers={}):
    request = urllib.request.Request(os.environ['HOOK_API_URL'] + '/kv/keys?namespace=', headers=headers)
    if token is not None:
        request.add_header('Authorization', 'Bearer ' + token)
    try:
        with urllib.request.urlopen(request) as answer: return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as answer: return answer.code, answer.read().decode().strip()
def wait(name):
    while not os.path.exists(home + '/' + name): time.sleep(0.01)
    return open(home + '/' + name).read()
def tell(name, text):
    open(home + '/.' + name, 'w').write(text)
    os.rename(home + '/.' + name, home + '/' + name)
if maand.allocation_ip() == 'w1':
    tell('token', os.environ['HOOK_API_TOKEN'])
    wait('done')
else:
    other = wait('token')
    own = {'X-ALLOCATION-ID': maand.allocation_id(), 'EVENT': 'cli', 'COMMAND': 'hook_x'}
    print(*ask(other, own))
    print(*ask(os.environ['HOOK_API_TOKEN'], {'EVENT': 'pre_deploy'}))
    print(*ask(None))
    print(*ask('x' * 43))
    print(*ask(os.environ['HOOK_API_TOKEN'], {'Host': 'evil.example'}))
    print(ask(os.environ['HOOK_API_TOKEN'], own)[0])
    tell('done', '')
"#;
    let bucket = built(2, script);
    let output = bucket.maand(&["hooks", "hook_x", "--verbose", "--concurrency", "2"]).expect(0);
    let ids: Vec<String> = bucket
        .cat("allocations")
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["allocation_id"].as_str().unwrap().to_owned())
        .collect();
    let said: Vec<&str> = output.stderr.lines().filter_map(|line| line.strip_prefix("api@w2 | ")).collect();
    assert_eq!(
        said[..6],
        [
            &format!("401 the header X-ALLOCATION-ID does not agree with the token, which is of {}", ids[0]),
            "401 the header EVENT does not agree with the token, which is of cli",
            "401 there is no token: send Authorization: Bearer with what HOOK_API_TOKEN has (the SDK does)",
            "401 this token is unknown: it is good while its hook runs, and for this command alone",
            "401 the Host header is not 127.0.0.1",
            "200"
        ]
    );
    let log = bucket.read("logs/maand.log");
    assert!(log.contains("level=warn event=hook_warned") && log.contains("X-ALLOCATION-ID does not agree"), "{log}");
}

#[test]
fn a_namespace_that_is_not_for_it_stays_closed_and_says_so() {
    let bucket = workers(1);
    job(&bucket, "other", &[]);
    bucket.write("workspace/jobs/other/vars.toml", "k = \"v\"\n");
    let script = "import maand\nprint(maand.get_kv_value('vars/job/other', 'k'))\n";
    job(&bucket, "api", &[("hook_x", json!({"executed_on": ["cli"]}), script)]);
    bucket.maand(&["build"]).expect(0);
    let output = bucket.maand(&["hooks", "hook_x"]).expect(1);
    let last =
        "    ! maand.HTTPError: GET /kv: 400 vars/job/other may not be read by a hook of job api on this worker\n";
    assert!(output.stderr.contains(last), "{}", output.stderr);
    let log = bucket.read("logs/w1.log");
    assert!(log.contains("event=hook_warned") && log.contains("vars/job/other may not be read"), "{log}");
}

#[test]
fn one_that_asks_for_what_it_may_not_again_and_again_does_not_fill_the_log() {
    let script = "import maand\nfor n in range(300): maand.get_store_value('vars/job/other', 'k')\n";
    let bucket = built(1, script);
    bucket.maand(&["hooks", "hook_x"]).expect(0);
    let log = bucket.read("logs/w1.log");
    assert_eq!(log.matches("vars/job/other may not be read").count(), 100);
    assert_eq!(log.matches("more requests are refused, which is not logged any more").count(), 1);
}

#[test]
fn an_interrupted_command_ends_its_hooks_and_a_killed_one_leaves_nothing_for_long() {
    // It ends by itself when its controller is gone.
    let script = "import maand, os, time\nopen(os.environ['HOME'] + '/runs', 'w').write(str(os.getpid()))\n\
                  while True:\n    maand.list_job_keys()\n    time.sleep(0.05)\n";
    let bucket = built(1, script);
    let runs = bucket.dir().join("runs");
    let begun = |running: &mut harness::process::Running| {
        poll::until("the hook to run", poll::LONG, || {
            assert!(running.ended().is_none(), "{}", running.printed());
            std::fs::read_to_string(&runs).ok().filter(|pid| !pid.is_empty()).ok_or_else(|| running.printed())
        })
    };
    let stages =
        || std::fs::read_dir(bucket.path("tmp/hooks")).unwrap().flatten().filter(|e| e.path().is_dir()).count();

    let mut running = bucket.start("interrupted", &["hooks", "hook_x"]);
    let pid = begun(&mut running);
    running.signal(Signal::INT);
    assert_eq!(running.wait(poll::LONG).code(), Some(1));
    assert!(running.printed().contains("w1: interrupted"), "{}", running.printed());
    assert!(gone(&pid));
    assert_eq!(stages(), 0);

    std::fs::remove_file(&runs).unwrap();
    let mut running = bucket.start("killed", &["hooks", "hook_x"]);
    let pid = begun(&mut running);
    running.kill();
    poll::until("the hook to notice", poll::LONG, || if gone(&pid) { Ok(()) } else { Err(()) });
    assert_eq!(stages(), 1, "a crash leaves it");
    bucket.write("workspace/jobs/api/_modules/hook_x.py", "pass\n");
    bucket.maand(&["build"]).expect(0);
    bucket.maand(&["hooks", "hook_x"]).expect(0);
    assert_eq!(stages(), 0, "the next command removes it");
}
