//! An allocation: one job on one worker, and what was promoted there.

use shared::{AllocId, BundleDigest, Host, JobName, WorkerId};

/// One job on one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// Stable over rebuilds.
    pub alloc_id: AllocId,
    /// Its job.
    pub job: JobName,
    /// Its worker's name.
    pub host: Host,
    /// Its worker.
    pub worker_id: WorkerId,
    /// Drained by disabled.json.
    pub disabled: bool,
    /// The job, the worker or the match is gone; the row stays until gc.
    pub removed: bool,
    /// Re-enabled since it last ran: the next deploy starts it.
    pub start_pending: bool,
    /// The job's place in the order of waves.
    pub deployment_seq: u32,
    /// Version that the next deploy brings; canonical.
    pub new_version: String,
    /// Bundle that the next deploy brings; `None` when removed.
    pub bundle: Option<BundleDigest>,
    /// What was last proved good here; `None` when nothing ever was.
    pub promoted: Option<Promoted>,
    /// What rollouts have made of it; `None` before the first that concerned it.
    pub rolled: Option<Rolled>,
    /// Digest of what its templates were rendered from at the last build; `None` without templates.
    pub render_inputs: Option<[u8; 32]>,
}

/// What rollouts have made of an allocation, apart from what was promoted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rolled {
    /// It was released with a start and no stop has succeeded since: something of it may run.
    pub may_run: bool,
    /// How its job's post_deploy hooks ended; `None` when the job has none.
    pub post_deploy: Option<PostDeploy>,
    /// Its last gate was not passed.
    pub health_failed: bool,
    /// Its last action did not end well, and was not for new content: what runs there is not proved.
    pub action_failed: bool,
    /// Its agent was out of reach when its turn came; the deploy went on without it.
    pub deferred: Option<Deferral>,
}

/// What an allocation gets when its agent is back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferral {
    /// Since when it is waited for, milliseconds since 1970 UTC.
    pub since_ms: i64,
    /// The files that the deploy went on with.
    pub bundle: BundleDigest,
    /// Their version.
    pub version: String,
}

/// How a job's post_deploy hooks ended (`spec/debugging-deploy.txt`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostDeploy {
    /// A rollout began, and they have not run yet.
    Pending,
    /// All of them ended well.
    Success,
    /// One did not.
    Failed,
}

impl PostDeploy {
    /// As `cat deployments` shows it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }

    /// The status of that name.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Pending, Self::Success, Self::Failed].into_iter().find(|status| status.word() == word)
    }
}

impl Allocation {
    /// Neither removed nor disabled.
    pub fn is_active(&self) -> bool {
        !self.removed && !self.disabled
    }

    /// Whether something of it may run on its worker.
    pub fn may_run(&self) -> bool {
        self.rolled.as_ref().is_some_and(|rolled| rolled.may_run)
    }

    /// Whether what was promoted is not proved any more: it was rolled again, and that did not end well.
    pub fn is_unproved(&self) -> bool {
        self.rolled.as_ref().is_some_and(|rolled| rolled.health_failed || rolled.action_failed)
    }

    /// Version that was promoted; `0.0.0` when none was.
    pub fn current_version(&self) -> &str {
        self.promoted.as_ref().map_or("0.0.0", |promoted| &promoted.version)
    }

    /// Whether content or version differ from what was promoted.
    pub fn differs(&self) -> bool {
        match &self.promoted {
            None => true,
            Some(promoted) => self.bundle != Some(promoted.bundle) || promoted.version != self.new_version,
        }
    }

    /// The word of `cat deployments` (`spec/debugging-deploy.txt`, "Read allocation hash state").
    pub fn rollout_word(&self) -> &'static str {
        match (self.removed, self.disabled, &self.promoted) {
            (true, _, _) => "removed",
            (_, true, Some(_)) if self.differs() => "disabled_restart",
            (_, true, _) => "disabled",
            (_, _, None) => "new",
            (_, _, Some(_)) if self.start_pending => "new",
            (_, _, Some(_)) if self.rolled.as_ref().is_some_and(|rolled| rolled.health_failed) => "health_failed",
            (_, _, Some(_)) if self.differs() || self.is_unproved() => "restart",
            _ => "promoted",
        }
    }
}

/// What an allocation ran when its gate was passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    /// Its files.
    pub bundle: BundleDigest,
    /// Its version; canonical.
    pub version: String,
}
