//! The decision table: what happens to an allocation (`spec/behaviour.md` 1.6, 4.6.2, 4.12 with the
//! changes of `spec/decisions.md`). Every row of it is a row of the test below.

use shared::{ActionKind, RelPath};

use crate::model::{Allocation, JobSpec, RestartPolicy};

/// What happens to an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// In sync, or nothing of it was ever deployed.
    Skip,
    /// Active: roll it.
    Move {
        /// How.
        kind: ActionKind,
        /// The changed paths that make it a restart and not a reload.
        matched: Vec<RelPath>,
    },
    /// Drained: stop it, once.
    Stop,
    /// Drained and stopped: it gets the new files, and nothing runs.
    Promote,
    /// Drained: stop it with the files it runs on, then give it the new ones.
    StopPromote,
    /// No longer wanted: take its files away, after a stop if it may run.
    Remove {
        /// Whether it may run.
        stop: bool,
    },
}

/// What of the operator's options the table knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Roll also what is in sync.
    pub force: bool,
    /// Files only.
    pub sync_only: bool,
}

fn act(kind: ActionKind) -> Decision {
    Decision::Move { kind, matched: Vec::new() }
}

/// Decides for one allocation. `changed` are the paths that differ from what was promoted; `None` when
/// that is not known, or nothing differs.
pub fn decide(spec: &JobSpec, allocation: &Allocation, changed: Option<&[RelPath]>, asked: Asked) -> Decision {
    if allocation.removed {
        return match &allocation.rolled {
            None => Decision::Skip,
            Some(rolled) => Decision::Remove { stop: rolled.may_run },
        };
    }
    if allocation.disabled {
        let pending = allocation.promoted.is_some() && allocation.differs();
        return match (allocation.may_run(), pending) {
            (true, true) => Decision::StopPromote,
            (true, false) => Decision::Stop,
            (false, true) => Decision::Promote,
            (false, false) => Decision::Skip,
        };
    }
    if allocation.promoted.is_none() || allocation.start_pending || !allocation.may_run() {
        return act(ActionKind::Start);
    }
    if !asked.force && !allocation.differs() && !allocation.is_unproved() {
        return Decision::Skip;
    }
    match spec.restart_policy {
        _ if asked.sync_only => act(ActionKind::Sync),
        RestartPolicy::Never => act(ActionKind::Sync),
        RestartPolicy::Always => act(ActionKind::Restart),
        RestartPolicy::Reload => {
            let matches = |path: &&RelPath| spec.restart_globs.iter().any(|glob| glob.matches(path.as_str()));
            let matched: Vec<RelPath> = changed.unwrap_or_default().iter().filter(matches).cloned().collect();
            let kind = if matched.is_empty() { ActionKind::Reload } else { ActionKind::Restart };
            Decision::Move { kind, matched }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Promoted, Rolled};
    use ActionKind::{Reload, Restart, Start, Sync};
    use RestartPolicy::{Always, Never};
    use shared::{AllocId, BundleDigest, WorkerId};
    use uuid::Uuid;

    const RELOAD: RestartPolicy = RestartPolicy::Reload;
    const PLAIN: Asked = Asked { force: false, sync_only: false };
    const FORCE: Asked = Asked { force: true, sync_only: false };
    const SYNC: Asked = Asked { force: false, sync_only: true };
    const BOTH: Asked = Asked { force: true, sync_only: true };

    fn spec(policy: RestartPolicy, globs: &[&str]) -> JobSpec {
        JobSpec {
            restart_policy: policy,
            restart_globs: globs.iter().map(|glob| glob.parse().unwrap()).collect(),
            ..JobSpec::default()
        }
    }

    /// Its bundle is 1, its version 1.0.0; what was promoted is given.
    fn allocation(promoted: Option<(u8, &str)>) -> Allocation {
        let digest = |n| BundleDigest::from_bytes([n; 32]);
        Allocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            job: "api".parse().unwrap(),
            host: "w".parse().unwrap(),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(2)),
            disabled: false,
            removed: false,
            start_pending: false,
            deployment_seq: 0,
            new_version: "1.0.0".into(),
            bundle: Some(digest(1)),
            rolled: promoted.map(|_| Rolled { may_run: true, ..Rolled::default() }),
            promoted: promoted.map(|(n, version)| Promoted { bundle: digest(n), version: version.into() }),
            render_inputs: None,
        }
    }

    fn paths(texts: &[&str]) -> Vec<RelPath> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn active_allocations() {
        let (new, same, content, version) = (None, Some((1, "1.0.0")), Some((2, "1.0.0")), Some((1, "0.9.0")));
        let makefile: &[&str] = &["Makefile", "bin/*"];
        // policy, globs, promoted, changed, asked; what is done, what matched
        for (n, (policy, globs, promoted, changed, asked, kind, matched)) in [
            (Always, &[][..], new, &[][..], PLAIN, Some(Start), &[][..]),
            (Never, &[], new, &[], PLAIN, Some(Start), &[]),
            (RELOAD, &[], new, &[], FORCE, Some(Start), &[]),
            (Always, &[], new, &[], SYNC, Some(Start), &[]),
            (Always, &[], new, &[], BOTH, Some(Start), &[]),
            (Always, &[], same, &[], PLAIN, None, &[]),
            (Always, &[], same, &[], SYNC, None, &[]),
            (RELOAD, makefile, same, &[], PLAIN, None, &[]),
            (Always, &[], content, &["a"], PLAIN, Some(Restart), &[]),
            (Always, &[], version, &[], PLAIN, Some(Restart), &[]),
            (Always, &[], same, &[], FORCE, Some(Restart), &[]),
            (Always, &[], content, &["a"], SYNC, Some(Sync), &[]),
            (Always, &[], version, &[], SYNC, Some(Sync), &[]),
            (Always, &[], same, &[], BOTH, Some(Sync), &[]),
            (Never, &[], content, &["a"], PLAIN, Some(Sync), &[]),
            (Never, &[], version, &[], PLAIN, Some(Sync), &[]),
            (Never, &[], same, &[], FORCE, Some(Sync), &[]),
            (RELOAD, &[], content, &["a"], PLAIN, Some(Reload), &[]),
            (RELOAD, makefile, content, &["a"], PLAIN, Some(Reload), &[]),
            (RELOAD, makefile, content, &["Makefile", "a", "bin/x"], PLAIN, Some(Restart), &["Makefile", "bin/x"]),
            (RELOAD, makefile, content, &["Makefile"], SYNC, Some(Sync), &[]),
            (RELOAD, makefile, content, &["Makefile"], FORCE, Some(Restart), &["Makefile"]),
            (RELOAD, makefile, version, &[], PLAIN, Some(Reload), &[]),
            (RELOAD, makefile, same, &[], FORCE, Some(Reload), &[]),
        ]
        .into_iter()
        .enumerate()
        {
            let decision = decide(&spec(policy, globs), &allocation(promoted), Some(&paths(changed)), asked);
            let expected = kind.map_or(Decision::Skip, |kind| Decision::Move { kind, matched: paths(matched) });
            assert_eq!(decision, expected, "row {n}");
        }
        let unknown = decide(&spec(RELOAD, makefile), &allocation(content), None, PLAIN);
        assert_eq!(unknown, act(Reload), "nothing is known of what changed");
    }

    #[test]
    fn what_was_enabled_again_or_stopped_starts() {
        for asked in [PLAIN, FORCE, SYNC, BOTH] {
            let mut enabled = allocation(Some((1, "1.0.0")));
            enabled.start_pending = true;
            assert_eq!(decide(&spec(Never, &[]), &enabled, None, asked), act(Start));
            let mut stopped = allocation(Some((2, "0.9.0")));
            stopped.rolled = Some(Rolled::default());
            assert_eq!(decide(&spec(Never, &[]), &stopped, None, asked), act(Start));
        }
    }

    #[test]
    fn what_a_forced_restart_left_unproved_is_rolled_again() {
        for rolled in [
            Rolled { may_run: true, health_failed: true, ..Rolled::default() },
            Rolled { may_run: true, action_failed: true, ..Rolled::default() },
        ] {
            let mut same = allocation(Some((1, "1.0.0")));
            same.rolled = Some(rolled);
            assert_eq!(decide(&spec(Always, &[]), &same, None, PLAIN), act(Restart));
            assert_eq!(decide(&spec(RELOAD, &[]), &same, None, PLAIN), act(Reload));
            assert_eq!(decide(&spec(Always, &[]), &same, None, SYNC), act(Sync));
        }
    }

    #[test]
    fn drained_allocations() {
        let (new, same, content, version) = (None, Some((1, "1.0.0")), Some((2, "1.0.0")), Some((1, "0.9.0")));
        for (n, (promoted, may_run, expected)) in [
            (new, false, Decision::Skip),
            // Started, and its gate never passed.
            (new, true, Decision::Stop),
            (same, true, Decision::Stop),
            (same, false, Decision::Skip),
            (content, true, Decision::StopPromote),
            (version, true, Decision::StopPromote),
            (content, false, Decision::Promote),
            (version, false, Decision::Promote),
        ]
        .into_iter()
        .enumerate()
        {
            let mut drained = allocation(promoted);
            drained.disabled = true;
            drained.rolled = Some(Rolled { may_run, ..Rolled::default() });
            for asked in [PLAIN, FORCE, SYNC, BOTH] {
                assert_eq!(decide(&spec(Always, &[]), &drained, None, asked), expected, "row {n}, {asked:?}");
            }
        }
    }

    #[test]
    fn removed_allocations() {
        for (rolled, expected) in [
            (None, Decision::Skip),
            (Some(true), Decision::Remove { stop: true }),
            (Some(false), Decision::Remove { stop: false }),
        ] {
            for disabled in [false, true] {
                let mut removed = allocation(rolled.map(|_| (1, "1.0.0")));
                (removed.removed, removed.disabled, removed.bundle) = (true, disabled, None);
                removed.rolled = rolled.map(|may_run| Rolled { may_run, ..Rolled::default() });
                assert_eq!(decide(&spec(Always, &[]), &removed, None, FORCE), expected);
            }
        }
    }
}
