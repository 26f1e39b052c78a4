//! The facade that a deploy calls: every event, its targets, its writes, its ends; without a deploy.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use controller::catalog::{Catalog, kv, read};
use controller::hooks::api::{Answering, Done, NotDone, Order, Work, Workers};
use controller::hooks::env::{Extras, OrderSource, Phase};
use controller::hooks::overlay::{Layered, Overlay, commit};
use controller::hooks::report::Report;
use controller::hooks::run::Outcome;
use controller::hooks::sink::{Sink, Who};
use controller::hooks::{Call, Runner, Setup};
use controller::model::kv::{Keys, Namespace, Source, Value};
use controller::model::{HookEvent, Snapshot};
use controller::paths::BucketDir;
use controller::secrets::SealingKey;
use harness::bucket::Bucket;
use serde_json::json;
use shared::{AllocId, JobName, RunId};

use super::{job, live, workers};

/// Keeps what was said.
#[derive(Debug, Default)]
struct Heard {
    lines: Mutex<Vec<String>>,
    on_line: Mutex<Option<std::sync::mpsc::Sender<()>>>,
}

impl Heard {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

impl Sink for Heard {
    fn started(&self, _: &Who<'_>) {}

    fn lines(&self, who: &Who<'_>, lines: &[(bool, String)]) {
        let shown = lines.iter().map(|(_, line)| format!("{}@{} {line}", who.job, who.host));
        self.lines.lock().unwrap().extend(shown);
        if let Some(tell) = &*self.on_line.lock().unwrap() {
            let _told = tell.send(());
        }
    }

    fn warning(&self, _: Option<&Who<'_>>, _: &str) {}

    fn ended(&self, _: &Who<'_>, _: &Outcome, _: u64) {}
}

/// Workers that answer without agents.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<Order>>);

impl Workers for Asked {
    fn run(&self, order: Order) -> Answering<'_> {
        let answer = match &order.work {
            Work::Make { target } if target == "slow" => Ok(Done { timed_out: true, ..Done::default() }),
            Work::Make { target } if target == "away" => Err(NotDone::Offline("offline since noon".into())),
            Work::Make { target } if target == "no" => Err(NotDone::Refused("the agent refuses".into())),
            Work::Make { .. } => Ok(Done { exit: Some(0), stdout: "made\n".into(), ..Done::default() }),
            Work::Script { script } => {
                Ok(Done { exit: Some(3), stdout: String::new(), stderr: format!("ran {script}"), timed_out: false })
            }
        };
        self.0.lock().unwrap().push(order);
        Box::pin(async { answer })
    }
}

struct Bench {
    bucket: Bucket,
    snapshot: Snapshot,
    heard: Arc<Heard>,
    asked: Arc<Asked>,
    runner: Runner,
}

impl Bench {
    fn new(bucket: Bucket) -> Self {
        bucket.maand(&["build"]).expect(0);
        Self::built(bucket)
    }

    fn built(bucket: Bucket) -> Self {
        let dir = BucketDir::new(bucket.path(""));
        let snapshot = Catalog::open(&dir.database()).unwrap().read(|tx| read::snapshot(tx)).unwrap();
        let (heard, asked) = (Arc::<Heard>::default(), Arc::<Asked>::default());
        let setup = Setup {
            database: dir.database(),
            bucket: dir,
            run: RunId::from_uuid(uuid::Uuid::from_u128(7)),
            sink: heard.clone(),
            workers: asked.clone(),
        };
        let runner = Runner::start(setup).unwrap();
        Self { bucket, snapshot, heard, asked, runner }
    }

    fn targets(&self, job: &str) -> Vec<AllocId> {
        let job: JobName = job.parse().unwrap();
        self.snapshot.allocations_of(&job).map(|a| a.alloc_id).collect()
    }

    fn run(&self, event: HookEvent, extras: Extras, step: &Arc<Overlay>) -> Report {
        let job: JobName = "api".parse().unwrap();
        let targets = self.targets("api");
        let call = Call { extras, ..Call::new(&job, event, &targets) };
        self.runner.run(&self.snapshot, &call, step).unwrap()
    }
}

fn on(events: &[HookEvent]) -> serde_json::Value {
    json!({"executed_on": events.iter().map(|event| event.word()).collect::<Vec<_>>()})
}

/// One that writes all that hooks can write, and prints the statuses.
const WRITE: &str = "import maand, time\nnew = time.time_ns()\n\
    print(maand.hook_event(), maand.put_job_variable('k', new).status_code, maand.put_job_secret('s', new).status_code,\
    maand.put_rollout_order(['w2', 'w1']).status_code, maand.delete_job_variable('there').status_code,\
    maand.delete_job_secret('there').status_code)\n";

#[test]
fn what_may_be_written_at_each_event() {
    let bucket = workers(1);
    job(&bucket, "api", &[("hook_x", on(&HookEvent::ALL), WRITE)]);
    let bench = Bench::new(bucket);
    for event in HookEvent::ALL {
        let step = Overlay::new();
        assert!(bench.run(event, Extras::None, &step).is_ok());
        let word = event.word();
        let want = match event {
            HookEvent::HealthCheck => "400 400 400 400 400",
            HookEvent::PreDeploy | HookEvent::Cli => "200 200 200 404 404",
            _ => "200 200 400 404 404",
        };
        assert_eq!(bench.heard.take(), [format!("api@w1 {word} {want}")]);
        let keys: Vec<String> = step.drain().into_iter().map(|write| write.key).collect();
        let want: &[&str] = match event {
            HookEvent::HealthCheck => &[],
            HookEvent::PreDeploy | HookEvent::Cli => &["rollout_order", "k", "s"],
            _ => &["k", "s"],
        };
        assert_eq!(keys, want, "{word}");
    }
}

#[test]
fn the_step_has_what_succeeded_and_a_dry_run_throws_it_away() {
    let bucket = workers(2);
    let one = "import maand\nmaand.put_job_variable('one', '1')\nmaand.put_job_secret('hidden', 'x')\n";
    let two = "import maand\nprint(maand.get_kv_value('vars/job/api', 'one'))\nmaand.put_job_variable('two', '2')\n\
               raise SystemExit(maand.allocation_ip() == 'w2')\n";
    let three = "print('not begun')\n";
    let pre = || on(&[HookEvent::PreDeploy]);
    job(&bucket, "api", &[("hook_c", pre(), three), ("hook_a", pre(), one), ("hook_b", pre(), two)]);
    let bench = Bench::new(bucket);
    let step = Overlay::new();
    let report = bench.run(HookEvent::PreDeploy, Extras::None, &step);
    assert!(!report.is_ok());
    let ran: Vec<String> = report.ran.iter().map(|ran| format!("{}@{} {}", ran.hook, ran.host, ran.outcome)).collect();
    assert_eq!(ran, ["hook_a@w1 ok", "hook_a@w2 ok", "hook_b@w1 ok", "hook_b@w2 exit code 1"]);
    assert_eq!(
        bench.heard.take(),
        ["api@w1 1", "api@w2 1"],
        "an earlier hook's writes are seen, the next is not begun"
    );
    // What a template of the same step would see, in a dry run too.
    #[derive(Debug)]
    struct Under;
    impl Source for Under {
        fn keys(&self, _: &Namespace) -> Result<Arc<Keys>, String> {
            Ok(Arc::new(BTreeMap::from([("under".to_owned(), Value::plain("0"))])))
        }
    }
    let key = Arc::new(SealingKey::load(&bench.bucket.path("secrets/kv.key")).unwrap());
    let layered = Layered { overlay: step.clone(), source: Arc::new(Under), key };
    let vars = layered.keys(&"vars/job/api".parse().unwrap()).unwrap();
    assert_eq!(
        vars.iter().map(|(key, value)| (key.as_str(), value.text.as_str())).collect::<Vec<_>>(),
        [("one", "1"), ("under", "0")]
    );
    let secrets = layered.keys(&"secrets/job/api".parse().unwrap()).unwrap();
    assert_eq!(secrets["hidden"], Value { text: "x".into(), secret: true });
    // Nothing reaches the catalog unless the caller commits.
    assert_eq!(live(&bench.bucket, "vars/job/api"), []);
    let writes = step.drain();
    assert_eq!(writes.len(), 2);
    assert!(!format!("{writes:?}").contains('1'), "values stay out of logs: {writes:?}");
    let mut catalog = Catalog::open(&bench.bucket.path("data/maand.db")).unwrap();
    catalog.write(|tx| commit(tx, &writes, 1)).unwrap();
    assert_eq!(live(&bench.bucket, "vars/job/api"), [("one".to_owned(), "1".to_owned())]);
    assert!(kv::get(catalog.connection(), "secrets/job/api", "hidden").unwrap().unwrap().is_sealed());
}

#[test]
fn batches_and_controls_are_told_what_they_are() {
    let bucket = workers(2);
    let script = "import os\nnames = ['BATCH_ALLOCATIONS', 'BATCH_INDEX', 'BATCH_COUNT', 'DEPLOY_PHASE', 'ROLLOUT_ORDER',\
        'ROLLOUT_ORDER_SOURCE', 'NEW_ALLOCATIONS', 'UPDATED_ALLOCATIONS', 'TARGET']\n\
        print(os.environ['EVENT'], *(os.environ.get(name, '-') for name in names), sep=';')\n";
    let events = [
        HookEvent::AfterAllocationStarted,
        HookEvent::AfterAllocationStopped,
        HookEvent::JobControl,
        HookEvent::PostDeploy,
    ];
    job(&bucket, "api", &[("hook_x", on(&events), script)]);
    let bench = Bench::new(bucket);
    let (w1, w2) = ("w1".parse().unwrap(), "w2".parse().unwrap());
    let order = Some(("w2,w1".to_owned(), OrderSource::Kv));
    let started = Extras::Batch { phase: Phase::New, allocations: vec![w2, w1], index: 1, count: 3, order };
    let w1 = "w1".parse().unwrap();
    let stopped = Extras::Batch { phase: Phase::Stop, allocations: vec![w1], index: 0, count: 1, order: None };
    let control = Extras::Control { new: vec!["w2".parse().unwrap()], updated: vec!["w1".parse().unwrap()] };
    for (event, extras, want) in [
        (events[0], started, "after_allocation_started;w2,w1;1;3;new;w2,w1;kv;-;-;-"),
        (events[1], stopped, "after_allocation_stopped;w1;0;1;stop;;;-;-;-"),
        (events[2], control, "job_control;-;-;-;-;-;-;w2;w1;-"),
        (events[2], Extras::Target("status".into()), "job_control;-;-;-;-;-;-;-;-;status"),
        (events[3], Extras::None, "post_deploy;-;-;-;-;-;-;-;-;-"),
    ] {
        let report = bench.run(event, extras, &Overlay::new());
        assert!(report.is_ok(), "{report:?}");
        let mut heard = bench.heard.take();
        heard.sort();
        assert_eq!(heard, [format!("api@w1 {want}"), format!("api@w2 {want}")]);
    }
    assert!(bench.run(HookEvent::PreDeploy, Extras::None, &Overlay::new()).ran.is_empty(), "no hook is no failure");
}

#[test]
fn targets_are_those_that_are_given_and_a_removed_one_keeps_its_index() {
    let bucket = workers(3);
    let script = "import maand\nprint(maand.allocation_index(), maand.is_allocation_disabled())\n";
    job(&bucket, "api", &[("hook_x", on(&[HookEvent::AfterAllocationStopped]), script)]);
    bucket.maand(&["build"]).expect(0);
    // w2 leaves the pool and w1 is drained; w3 moves up.
    let hosts =
        |hosts: &[&str]| json!(hosts.iter().map(|host| json!({"host": host, "labels": ["all"]})).collect::<Vec<_>>());
    bucket.write("workspace/workers.json", &hosts(&["w1", "w3"]).to_string());
    bucket.write("workspace/disabled.json", r#"{"workers": ["w1"]}"#);
    bucket.maand(&["build"]).expect(0);
    // Long ago: even then the index is known.
    let catalog = Catalog::open(&bucket.path("data/maand.db")).unwrap();
    assert!(kv::purge(catalog.connection(), i64::MAX).unwrap() > 0);
    drop(catalog);
    let bench = Bench::built(bucket);
    let report = bench.run(HookEvent::AfterAllocationStopped, Extras::None, &Overlay::new());
    assert!(report.is_ok(), "{report:?}");
    let mut heard = bench.heard.take();
    heard.sort();
    assert_eq!(heard, ["api@w1 0 True", "api@w2 1 False", "api@w3 1 False"]);

    let job: JobName = "api".parse().unwrap();
    let only = [bench.targets("api")[0]];
    let call = Call::new(&job, HookEvent::AfterAllocationStopped, &only);
    assert_eq!(bench.runner.run(&bench.snapshot, &call, &Overlay::new()).unwrap().ran.len(), 1);
}

#[test]
fn work_on_workers_goes_through_their_agents() {
    let bucket = workers(2);
    job(&bucket, "other", &[]);
    let script = r#"
import maand, subprocess
print(maand.run_make_target('status').stdout.strip())
print(maand.run_runner_target('status', 'w2', 'api', 7).returncode)
done = maand.run_ssh('w2', 'df -h', check=False, user='root')
print(done.returncode, done.stderr)
try: maand.run_ssh('w1', 'df')
except subprocess.CalledProcessError as error: print('failed', error.returncode)
try: maand.run_make_target('slow', timeout=5)
except subprocess.TimeoutExpired as error: print('timed out', error.timeout)
for target in ['away', 'no', '-x']:
    try: maand.run_make_target(target)
    except maand.HTTPError as error: print(error)
try: maand.run_ssh('w9', 'df')
except maand.HTTPError as error: print(error)
try: maand.run_make_target('status', job='other')
except ValueError as error: print(error)
try: maand.load_ssh()
except RuntimeError as error: print(error)
"#;
    job(&bucket, "api", &[("hook_x", on(&[HookEvent::PostDeploy]), script)]);
    let bench = Bench::new(bucket);
    let job: JobName = "api".parse().unwrap();
    let first = [bench.targets("api")[0]];
    let call = Call::new(&job, HookEvent::PostDeploy, &first);
    let report = bench.runner.run(&bench.snapshot, &call, &Overlay::new()).unwrap();
    assert!(report.is_ok(), "{:?}", report.problems());
    let heard = bench.heard.take();
    let heard: Vec<&str> = heard.iter().map(|line| line.strip_prefix("api@w1 ").unwrap()).collect();
    assert_eq!(
        heard,
        [
            "made",
            "0",
            "3 ran df -h",
            "failed 3",
            "timed out 5",
            "POST /make: 503 offline since noon",
            "POST /make: 409 the agent refuses",
            "POST /make: 400 target \"-x\" is not a make target: a letter or digit, then letters, digits, _ . -",
            "POST /script: 400 job api has no allocation on \"w9\"; it has on w1, w2",
            "a hook of job api runs targets of its own job, not of other",
            "nothing connects to workers with SSH any more: run_ssh() and run_make_target() ask their agents",
        ]
    );
    let asked = bench.asked.0.lock().unwrap();
    let orders: Vec<String> =
        asked.iter().take(3).map(|o| format!("{} {} {:?} {}", o.host, o.job, o.work, o.timeout.as_secs())).collect();
    assert_eq!(
        orders,
        [
            r#"w1 api Make { target: "status" } 300"#,
            r#"w2 api Make { target: "status" } 7"#,
            r#"w2 api Script { script: "df -h" } 300"#
        ]
    );
    assert_eq!(asked[0].worker_id, bench.snapshot.allocations[0].worker_id);
}

#[test]
fn hooks_that_demand_this_one_are_listed() {
    let bucket = workers(1);
    let script = "import json, maand\nprint(json.dumps(maand.list_hook_demands().json()))\n";
    job(&bucket, "api", &[("hook_x", on(&[HookEvent::PreDeploy]), script)]);
    let demand = json!({"executed_on": ["post_build", "cli"], "demands": {"job": "api", "hook": "hook_x",
        "config": {"database": "shop"}}});
    job(&bucket, "web", &[("hook_y", demand, "pass\n")]);
    let bench = Bench::new(bucket);
    assert!(bench.run(HookEvent::PreDeploy, Extras::None, &Overlay::new()).is_ok());
    assert_eq!(
        bench.heard.take(),
        [r#"api@w1 [{"job": "web", "hook": "hook_y", "command": "hook_y", "demand_config": {"database": "shop"}}]"#]
    );
}

#[test]
fn several_jobs_run_at_once_and_a_cancel_ends_them_all() {
    let bucket = workers(1);
    let script = "import time\nprint('runs', flush=True)\ntime.sleep(300)\n";
    for name in ["a", "b"] {
        job(&bucket, name, &[("hook_x", on(&[HookEvent::PostDeploy]), script)]);
    }
    let bench = Bench::new(bucket);
    let (tell, told) = std::sync::mpsc::channel();
    *bench.heard.on_line.lock().unwrap() = Some(tell);
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let run = |name: &'static str| {
            let bench = &bench;
            scope.spawn(move || {
                let (job, targets) = (name.parse().unwrap(), bench.targets(name));
                let call = Call::new(&job, HookEvent::PostDeploy, &targets);
                bench.runner.run(&bench.snapshot, &call, &Overlay::new()).unwrap()
            })
        };
        let threads = [run("a"), run("b")];
        for _ in 0..2 {
            told.recv_timeout(harness::poll::LONG).expect("both run at the same time");
        }
        bench.runner.cancel();
        threads.map(|thread| thread.join().unwrap()).into()
    });
    for report in reports {
        assert!(report.is_interrupted());
        assert_eq!(report.ran[0].outcome, Outcome::Interrupted);
    }
}

#[test]
fn only_so_many_processes_at_once() {
    let bucket = workers(5);
    // Marks in the bucket's own directory, which is above where it runs.
    let script = "import maand, os, time\nroot = maand.find_bucket_root()\nmark = root + '/at-' + maand.allocation_ip()\n\
        open(mark, 'w')\nprint(len([name for name in os.listdir(root) if name.startswith('at-')]))\ntime.sleep(0.05)\n\
        os.remove(mark)\n";
    job(&bucket, "api", &[("hook_x", on(&[HookEvent::JobControl]), script)]);
    let bench = Bench::new(bucket);
    let job: JobName = "api".parse().unwrap();
    let targets = bench.targets("api");
    let call = Call { concurrency: 2, ..Call::new(&job, HookEvent::JobControl, &targets) };
    let report = bench.runner.run(&bench.snapshot, &call, &Overlay::new()).unwrap();
    assert!(report.is_ok(), "{:?}", report.problems());
    let heard = bench.heard.take();
    let most = heard.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).max();
    assert!(heard.len() == 5 && most.is_some_and(|most| most <= 2), "{heard:?}");
}
