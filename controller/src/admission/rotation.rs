//! Decides how the agents' authority is replaced: both are trusted until every agent trusts the new one and has a
//! certificate of it; only then the old one goes. The controller shows a certificate of the old one until that moment.

use shared::Host;

/// Which pairs of keys count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Signs what the controller shows.
    pub current: u32,
    /// Trusted beside it.
    pub other: Option<u32>,
    /// Signs agents' certificates.
    pub issues: u32,
    /// The highest number that was ever used.
    pub last: u32,
    /// Since when a replacement is under way, milliseconds since 1970 UTC.
    pub began_ms: Option<i64>,
}

impl Rotation {
    /// All that are trusted.
    pub fn trusted(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.current).chain(self.other)
    }

    /// With a new pair; `None` while one is being replaced.
    pub fn started(&self, now_ms: i64) -> Option<Self> {
        let next = self.last.checked_add(1)?;
        let begun = Self { other: Some(next), issues: next, last: next, began_ms: Some(now_ms), ..*self };
        self.other.is_none().then_some(begun)
    }

    /// Back to the old pair; `None` when there is nothing to take back.
    pub fn aborted(&self) -> Option<Self> {
        self.other.map(|_| Self { issues: self.current, ..*self })
    }

    /// With the pair that issues alone, and the number of the one that is over; `None` when nothing is under way.
    pub fn finished(&self) -> Option<(Self, u32)> {
        let other = self.other?;
        let over = if self.issues == other { self.current } else { other };
        Some((Self { current: self.issues, other: None, began_ms: None, ..*self }, over))
    }

    /// Whether it is being taken back.
    pub fn is_aborting(&self) -> bool {
        self.other.is_some() && self.issues == self.current
    }
}

/// How far a worker is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Its name.
    pub host: Host,
    /// Its agent trusts the authority that is to stay.
    pub trusts: bool,
    /// Its agent's certificate, which it has shown, is of that authority.
    pub has_certificate: bool,
}

impl Progress {
    /// Whether it would be shut out if the other authority went now.
    pub fn is_behind(&self) -> bool {
        !(self.trusts && self.has_certificate)
    }
}

/// The workers that would be shut out, without those that an operator named.
pub fn behind<'a>(all: &'a [Progress], without: &[Host]) -> Vec<&'a Progress> {
    all.iter().filter(|worker| worker.is_behind() && !without.contains(&worker.host)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Rotation = Rotation { current: 1, other: None, issues: 1, last: 1, began_ms: None };

    #[test]
    fn both_are_trusted_until_one_goes() {
        let begun = CALM.started(5).unwrap();
        assert_eq!(begun, Rotation { current: 1, other: Some(2), issues: 2, last: 2, began_ms: Some(5) });
        assert_eq!(begun.trusted().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(begun.started(6), None, "one at a time");
        let (done, over) = begun.finished().unwrap();
        assert_eq!((done, over), (Rotation { current: 2, other: None, issues: 2, last: 2, began_ms: None }, 1));
        let back = begun.aborted().unwrap();
        assert!(back.is_aborting() && !begun.is_aborting());
        let (calm, over) = back.finished().unwrap();
        assert_eq!((calm, over), (Rotation { last: 2, ..CALM }, 2));
        assert_eq!(calm.started(7).unwrap().other, Some(3), "a number is used once");
        assert_eq!((CALM.finished(), CALM.aborted()), (None, None));
    }

    #[test]
    fn who_lacks_either_is_behind() {
        let at =
            |host: &str, trusts, has_certificate| Progress { host: host.parse().unwrap(), trusts, has_certificate };
        let all = [at("a", true, true), at("b", true, false), at("c", false, true), at("d", false, false)];
        let names = |without: &[Host]| behind(&all, without).iter().map(|p| p.host.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&[]), ["b", "c", "d"]);
        assert_eq!(names(&["b".parse().unwrap(), "d".parse().unwrap()]), ["c"]);
    }
}
