//! Decides which edited files are put back where the manifest says `self_heal`: each content of a file three times
//! a day at most, so that two tools that want different things of one file do not fight for ever.

use serde::{Deserialize, Serialize};
use shared::{BlobDigest, Bundle, RelPath};

/// How often one content of one file is put back within [`PERIOD_MS`].
pub const TIMES: u32 = 3;
/// A day, milliseconds.
pub const PERIOD_MS: i64 = 86_400_000;

/// What was put back of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heal {
    /// The file.
    pub path: RelPath,
    /// Its content.
    pub blob: BlobDigest,
    /// How often.
    pub times: u32,
    /// Since when that is counted, milliseconds since 1970 UTC.
    pub since_ms: i64,
}

impl Heal {
    fn counts(&self, list: &Bundle, now_ms: i64) -> bool {
        let same = list.get(self.path.as_str()).is_some_and(|entry| entry.blob == self.blob);
        same && now_ms.saturating_sub(self.since_ms) < PERIOD_MS
    }
}

/// Of the files that were found edited, those that are put back and those that are left.
pub fn decide(drifted: &[RelPath], list: &Bundle, heals: &[Heal], now_ms: i64) -> (Vec<RelPath>, Vec<RelPath>) {
    let spent = |path: &&RelPath| {
        heals.iter().any(|heal| heal.path == **path && heal.times >= TIMES && heal.counts(list, now_ms))
    };
    let (left, back): (Vec<&RelPath>, Vec<&RelPath>) = drifted.iter().partition(spent);
    (back.into_iter().cloned().collect(), left.into_iter().cloned().collect())
}

/// The counts after `paths` were put back, or were tried to be; what no longer matters is forgotten.
pub fn counted(heals: &[Heal], paths: &[RelPath], list: &Bundle, now_ms: i64) -> Vec<Heal> {
    let mut heals: Vec<Heal> = heals.iter().filter(|heal| heal.counts(list, now_ms)).cloned().collect();
    for entry in paths.iter().filter_map(|path| list.get(path.as_str())) {
        match heals.iter_mut().find(|heal| heal.path == entry.path) {
            Some(heal) => heal.times = heal.times.saturating_add(1),
            None => heals.push(Heal { path: entry.path.clone(), blob: entry.blob, times: 1, since_ms: now_ms }),
        }
    }
    heals
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::Entry;

    fn list(content: &str) -> Bundle {
        let entry = |path: &str| Entry {
            path: path.parse().unwrap(),
            mode: 0o644,
            len: content.len() as u64,
            blob: BlobDigest::of(content.as_bytes()),
            private: false,
        };
        Bundle::new(vec![entry("a"), entry("b")]).unwrap()
    }

    #[test]
    fn a_file_is_put_back_three_times_a_day_and_anew_with_new_content() {
        let paths: Vec<RelPath> = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        let (a, v1) = (&paths[..1], list("1"));
        let mut heals = Vec::new();
        for hour in 0..3 {
            let now_ms = hour * 3_600_000;
            assert_eq!(decide(a, &v1, &heals, now_ms), (a.to_vec(), vec![]), "time {hour}");
            heals = counted(&heals, a, &v1, now_ms);
        }
        assert_eq!(
            decide(&paths, &v1, &heals, 4 * 3_600_000),
            (paths[1..].to_vec(), a.to_vec()),
            "the other one still is"
        );
        assert_eq!(decide(a, &list("2"), &heals, 4 * 3_600_000), (a.to_vec(), vec![]), "another content");
        assert_eq!(decide(a, &v1, &heals, PERIOD_MS), (a.to_vec(), vec![]), "another day");
        assert_eq!(decide(a, &v1, &heals, -5), (vec![], a.to_vec()), "a clock that was set back gives no new tries");
        assert_eq!(counted(&heals, &[], &list("2"), 0), [], "what is of no use is forgotten");
    }
}
