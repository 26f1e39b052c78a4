//! Semaphores, as hooks use them.

use super::built;

#[test]
fn one_at_a_time_though_all_run_at_once() {
    let script = r#"
import maand, os, time
lock = os.environ['HOME'] + '/held'
maand.acquire_semaphore('one').raise_for_status()
os.mkdir(lock)
time.sleep(0.05)
status = maand.semaphore_status('one').json()
assert status['holders'] == [maand.allocation_id()] and status['available'] == 0, status
os.rmdir(lock)
maand.release_semaphore('one').raise_for_status()
"#;
    let bucket = built(4, script);
    bucket.maand(&["hooks", "hook_x", "--concurrency", "4"]).expect(0);
}

#[test]
fn every_refusal_has_its_status() {
    let script = r#"
import maand
def show(response): print(response.status_code, response.text.strip())
show(maand.semaphore_status('new'))
show(maand.acquire_semaphore('two', capacity=2))
show(maand.acquire_semaphore('two', capacity=2))
show(maand.acquire_semaphore('two', capacity=3))
show(maand.acquire_semaphore('many', capacity=65))
show(maand.release_semaphore('never'))
show(maand.acquire_semaphore(' '))
show(maand.release_semaphore('two'))
show(maand.release_semaphore('two'))
"#;
    let bucket = built(1, script);
    let output = bucket.maand(&["hooks", "hook_x", "--verbose"]).expect(0);
    let id = bucket.cat("allocations")[0]["allocation_id"].as_str().unwrap().to_owned();
    let said: Vec<&str> =
        output.stderr.lines().filter_map(|line| line.strip_prefix("api@w1 | ")).map(str::trim).collect();
    let held = format!(r#"200 {{"name":"two","allocation_id":"{id}","capacity":2,"acquired":true}}"#);
    assert_eq!(
        said[..9],
        [
            r#"200 {"name":"new","capacity":1,"holders":[],"waiting":0,"available":1}"#,
            &held,
            &held,
            r#"409 semaphore "two" has capacity 2, not 3"#,
            "409 capacity 65 is above 64",
            r#"409 semaphore "never" is not held by this allocation"#,
            "400 name is missing or blank",
            "200",
            r#"409 semaphore "two" is not held by this allocation"#,
        ]
    );
}

#[test]
fn a_wait_has_an_end() {
    let script = r#"
import maand, os, time
home = os.environ['HOME']
if maand.allocation_ip() == 'w1':
    maand.acquire_semaphore('one').raise_for_status()
    open(home + '/held', 'w').close()
    while not os.path.exists(home + '/waited'): time.sleep(0.01)
else:
    while not os.path.exists(home + '/held'): time.sleep(0.01)
    answer = maand.acquire_semaphore('one', timeout_seconds=1)
    print(answer.status_code, answer.text.strip())
    open(home + '/waited', 'w').close()
"#;
    let bucket = built(2, script);
    let output = bucket.maand(&["hooks", "hook_x", "--verbose", "--concurrency", "2"]).expect(0);
    let id = bucket.cat("allocations")[0]["allocation_id"].as_str().unwrap().to_owned();
    let want = format!("api@w2 | 408 semaphore \"one\" was not free within 1 s: held by {id}\n");
    assert!(output.stderr.contains(&want), "{}", output.stderr);
}
