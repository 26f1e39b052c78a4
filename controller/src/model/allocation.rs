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
    /// Digest of what its templates were rendered from at the last build; `None` without templates.
    pub render_inputs: Option<[u8; 32]>,
}

impl Allocation {
    /// Neither removed nor disabled.
    pub fn is_active(&self) -> bool {
        !self.removed && !self.disabled
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
            (_, _, Some(_)) if self.differs() => "restart",
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
