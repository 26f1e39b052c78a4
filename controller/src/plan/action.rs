//! The decision table: what happens to an allocation (`spec/behaviour.md` 4.6.2).

use shared::{ActionKind, RelPath};

use crate::model::{Allocation, JobSpec, RestartPolicy};

/// A row's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// In sync.
    Skip,
    /// Roll it.
    Move {
        /// How.
        kind: ActionKind,
        /// The changed paths that make it a restart.
        matched: Vec<RelPath>,
    },
}

fn act(kind: ActionKind) -> Decision {
    Decision::Move { kind, matched: Vec::new() }
}

/// Decides for an active allocation. `changed` are the paths that differ from what was promoted;
/// `None` when that is not known, or nothing differs.
pub fn decide(spec: &JobSpec, allocation: &Allocation, changed: Option<&[RelPath]>, force: bool) -> Decision {
    if allocation.promoted.is_none() || allocation.start_pending {
        return act(ActionKind::Start);
    }
    if !force && !allocation.differs() {
        return Decision::Skip;
    }
    match spec.restart_policy {
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
    use crate::model::Promoted;
    use shared::{AllocId, BundleDigest, WorkerId};
    use uuid::Uuid;

    fn spec(policy: RestartPolicy, globs: &[&str]) -> JobSpec {
        JobSpec {
            restart_policy: policy,
            restart_globs: globs.iter().map(|glob| glob.parse().unwrap()).collect(),
            ..JobSpec::default()
        }
    }

    fn allocation(promoted: Option<(u8, &str)>, start_pending: bool) -> Allocation {
        let digest = |n| BundleDigest::from_bytes([n; 32]);
        Allocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            job: "api".parse().unwrap(),
            host: "w".parse().unwrap(),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(2)),
            disabled: false,
            removed: false,
            start_pending,
            deployment_seq: 0,
            new_version: "1.0.0".into(),
            bundle: Some(digest(1)),
            promoted: promoted.map(|(n, version)| Promoted { bundle: digest(n), version: version.into() }),
            render_inputs: None,
        }
    }

    #[test]
    fn every_row() {
        use ActionKind::{Reload, Restart, Start, Sync};
        use RestartPolicy::{Always, Never};
        const RELOAD: RestartPolicy = RestartPolicy::Reload;
        let (same, content, version) = (Some((1, "1.0.0")), Some((2, "1.0.0")), Some((1, "0.9.0")));
        let makefile: &[&str] = &["Makefile", "bin/*"];
        // policy, globs, promoted, start pending, changed, force; what is done, what matched
        for (n, (policy, globs, promoted, pending, changed, force, kind, matched)) in [
            (Always, &[][..], None, false, &[][..], false, Some(Start), &[][..]),
            (Never, &[], None, false, &[], false, Some(Start), &[]),
            (RELOAD, &[], None, false, &[], true, Some(Start), &[]),
            (Always, &[], same, true, &[], false, Some(Start), &[]),
            (Always, &[], same, false, &[], false, None, &[]),
            (RELOAD, makefile, same, false, &[], false, None, &[]),
            (Always, &[], content, false, &["a"], false, Some(Restart), &[]),
            (Always, &[], version, false, &[], false, Some(Restart), &[]),
            (Always, &[], same, false, &[], true, Some(Restart), &[]),
            (Never, &[], content, false, &["a"], false, Some(Sync), &[]),
            (Never, &[], version, false, &[], false, Some(Sync), &[]),
            (Never, &[], same, false, &[], true, Some(Sync), &[]),
            (RELOAD, &[], content, false, &["a"], false, Some(Reload), &[]),
            (RELOAD, makefile, content, false, &["a"], false, Some(Reload), &[]),
            (
                RELOAD,
                makefile,
                content,
                false,
                &["Makefile", "a", "bin/x"],
                false,
                Some(Restart),
                &["Makefile", "bin/x"],
            ),
            (RELOAD, makefile, version, false, &[], false, Some(Reload), &[]),
            (RELOAD, makefile, same, false, &[], true, Some(Reload), &[]),
        ]
        .into_iter()
        .enumerate()
        {
            let paths = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<RelPath>>();
            let decision = decide(&spec(policy, globs), &allocation(promoted, pending), Some(&paths(changed)), force);
            let expected = kind.map_or(Decision::Skip, |kind| Decision::Move { kind, matched: paths(matched) });
            assert_eq!(decision, expected, "row {n}");
        }
        let unknown = decide(&spec(RELOAD, makefile), &allocation(content, false), None, false);
        assert_eq!(unknown, act(Reload), "nothing is known of what changed");
    }
}
