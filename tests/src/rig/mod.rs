//! The rig that hits an agent in the middle of its work, and looks at what is there then and afterwards.
//!
//! - [`controller`]: a controller for one agent, light enough for thousands of applies
//! - [`ground`]: a disk whose power can be cut, that fills up, that fails
//! - [`trace`]: an agent that is hit at its n-th mutating system call
//! - [`calls`]: which system calls change a file
//! - [`scenario`]: what is there and what is to be there
//! - [`tree`]: what is there, taken down
//! - [`oracle`]: the ten invariants
//! - [`point`]: one point, from the saved ground to the last look
//! - [`neighbour`]: another user who owns part of the job's tree
//! - [`sweep`]: which points there are, and how many of them are gone through

pub mod calls;
pub mod controller;
pub mod ground;
pub mod neighbour;
pub mod oracle;
pub mod point;
pub mod scenario;
pub mod sweep;
pub mod trace;
pub mod tree;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::reconcile::Row;
use agent::state::layout::Layout;
use agent::state::ledger::Ledger;
use shared::api::v1::desired::{DesiredAction, DesiredAllocation, DesiredState, Fence, RunState};
use shared::api::v1::report::Outcome;
use shared::{ActionId, ActionKind, AllocId, Bundle, JobName, RunId};

use self::controller::Controller;
use self::ground::Ground;
use self::point::{Agent, CONVERGE, Way};
use self::scenario::{CHANGED, OWN, UNMANAGED, Wish};
use self::tree::Listing;
use crate::process::Running;

/// Everything that points have in common.
#[derive(Debug)]
pub struct Rig {
    /// The one controller.
    pub controller: Controller,
    /// Where the agent is.
    pub ground: Ground,
    program: PathBuf,
    seq: u64,
    alloc: AllocId,
    job: JobName,
    saved: Fence,
}

impl Rig {
    /// Prepares what points begin with. `program` is maand-agent.
    pub fn new(program: &Path, ground: Ground) -> Result<Self, String> {
        let controller = Controller::start();
        let alloc = AllocId::from_uuid(uuid::Uuid::new_v4());
        let own = ground.file("maand-agent");
        // Beside the ground, so that whatever it starts is known by its path.
        std::fs::copy(program, &own).map_err(|error| format!("{}: {error}", program.display()))?;
        let job = "api".parse().unwrap();
        let mut rig = Self { controller, ground, program: own, seq: 0, alloc, job, saved: Fence::default() };
        rig.controller.enrol(&rig.ground.place());
        for (path, content) in [("sentinel/key", "precious"), ("sentinel/deep/file", "precious too")] {
            put(&rig.ground.place().join(path), content);
        }
        put(&rig.layout().jobs().join("other/Makefile"), "of another job");
        rig.ground.save("nothing")?;
        rig.place_first()?;
        rig.ground.save("placed")?;
        Ok(rig)
    }

    /// Version 1, some of whose files were placed so long before the rest that the agent believes their times.
    fn place_first(&mut self) -> Result<(), String> {
        for version in 1..=3 {
            self.offer(&scenario::files(version, &self.ran()));
        }
        let mut older = scenario::files(1, &self.ran());
        older.retain(|file| file.0 != "tool.sh");
        self.offer(&older);
        let mut agent = Agent::Plain(self.start());
        for (bundle, action, pause) in
            [(scenario::bundle(&older), None, 2500), (self.bundle(1), Some(ActionKind::Start), 0)]
        {
            let wish = Wish { state: RunState::Running, version: 1, action };
            let state = self.document(&wish, &bundle);
            self.controller.want(Some(&state));
            match self.wait(&wish, &bundle, &state, &mut agent, CONVERGE, false) {
                Way::Done(None | Some(Outcome::Ok)) => {}
                other => return Err(format!("the first files were not placed: {other:?}\n{}", self.log())),
            }
            std::thread::sleep(Duration::from_millis(pause));
        }
        if let Agent::Plain(agent) = &mut agent {
            agent.stop(Duration::from_secs(10));
        }
        self.saved = Fence { epoch: 1, update_seq: self.seq, generation: 1 };
        let job = self.job_dir();
        OWN.iter().chain(UNMANAGED).for_each(|(path, content)| put(&job.join(path), content));
        for (path, mode, uid, content) in CHANGED {
            let path = job.join(path);
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            std::os::unix::fs::chown(&path, Some(*uid), None).map_err(|error| format!("chown: {error}"))?;
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(*mode)).unwrap();
        }
        Ok(())
    }

    /// A newer state than any before, with an action of its own.
    fn document(&mut self, wish: &Wish, bundle: &Bundle) -> DesiredState {
        self.seq += 1;
        let action = wish.action.map(|kind| DesiredAction {
            id: ActionId::from_uuid(uuid::Uuid::new_v4()),
            kind,
            timeout_s: 60,
            run_id: RunId::from_uuid(uuid::Uuid::new_v4()),
        });
        let running = matches!(wish.state, RunState::Running | RunState::Stopped);
        let allocation = DesiredAllocation {
            alloc_id: self.alloc,
            job: self.job.clone(),
            state: wish.state,
            disabled: false,
            bundle: running.then(|| bundle.digest()),
            current_version: "0.0.0".to_owned(),
            new_version: format!("{}.0.0", wish.version),
            action,
            deployment_seq: 0,
            self_heal: false,
            dir_mode: None,
            health: None,
        };
        DesiredState {
            bucket_id: self.controller.bucket,
            worker_id: self.controller.worker,
            host: "127.0.0.1".parse().unwrap(),
            labels: Vec::new(),
            fence: Fence { epoch: 1, update_seq: self.seq, generation: 1 },
            issued_at_ms: 0,
            allocations: vec![allocation],
            prefetch: Vec::new(),
            hold: None,
            operations: Vec::new(),
        }
    }

    fn offer(&self, files: &[scenario::File]) {
        let contents = files.iter().map(|file| file.2.clone().into_bytes()).collect::<Vec<_>>();
        self.controller.offer_bundle(&scenario::bundle(files), contents);
    }

    fn bundle(&self, version: usize) -> Bundle {
        scenario::bundle(&scenario::files(version, &self.ran()))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/nonexistent");
        command.arg("--config").arg(self.ground.place().join("agent.toml")).arg("run");
        command
    }

    fn start(&self) -> Running {
        Running::start("agent", self.command(), &self.ground.file("agent.log"))
    }

    fn ledger(&self) -> Result<(Option<Fence>, Vec<Row>), String> {
        if !self.layout().ledger().is_file() {
            return Ok((None, Vec::new()));
        }
        let ledger = match Ledger::view(&self.layout()).map_err(|problem| problem.to_string()) {
            Ok(ledger) => ledger,
            // One that was hit before it had a table knows nothing, and says so.
            Err(problem) if problem.contains("there is nothing in it") => return Ok((None, Vec::new())),
            Err(problem) => return Err(problem),
        };
        let accepted = ledger.accepted().ok().flatten().map(|(accepted, _)| accepted.fence);
        Ok((accepted, ledger.rows().unwrap_or_default()))
    }

    /// Everything outside of what is the agent's to write.
    fn outside(&self) -> Listing {
        let bucket = self.layout().bucket().strip_prefix(self.ground.place()).unwrap().display().to_string();
        let job = format!("{bucket}/jobs/{}", self.job);
        // By which an agent knows that it, and its root, are not copies.
        let machine = format!("state/{}/machine.json", self.controller.bucket);
        let mine = |path: &str| {
            let below = |dir: &str| path == dir || path.starts_with(&format!("{dir}/"));
            let above = bucket.starts_with(path) || path == format!("{bucket}/jobs");
            let described =
                ["worker.json", "jobs.json", ".maand", "bin"].iter().any(|name| below(&format!("{bucket}/{name}")));
            let others = ["lost+found", "filler", &machine].iter().any(|name| below(name));
            above
                || below(&job)
                || described
                || others
                || (path.starts_with(&bucket) && !below(&format!("{bucket}/jobs")))
        };
        tree::list(&self.ground.place()).into_iter().filter(|(path, _)| !mine(path)).collect()
    }

    fn layout(&self) -> Layout {
        Layout::new(&self.ground.place().join("root"), self.controller.bucket)
    }

    /// Where the job is.
    pub fn job_dir(&self) -> PathBuf {
        self.layout().job(&self.job)
    }

    fn ran(&self) -> PathBuf {
        self.ground.file("ran")
    }

    fn ran_lines(&self) -> String {
        std::fs::read_to_string(self.ran()).unwrap_or_default()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.ground.file("agent.log")).unwrap_or_default()
    }
}

fn put(path: &Path, content: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
    let mode: fn(u32) -> std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(path, mode(0o644)).unwrap();
}
