//! Decides about a certificate that was shown, and about one that is asked for.

use shared::WorkerId;

/// How long after a certificate was replaced requests with it may still be on their way: its agent's own.
pub const HANDOVER_MS: i64 = 60_000;

/// Why a certificate is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A newer one of its worker was used.
    Superseded,
    /// Somebody said so.
    Revoked,
}

/// What the catalog knows of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Whose it is.
    pub worker: WorkerId,
    /// Its number among those of its worker.
    pub generation: u64,
    /// When it ends, milliseconds since 1970 UTC.
    pub not_after_ms: i64,
    /// It was shown before.
    pub is_used: bool,
    /// Number of the authority that signed it.
    pub authority: u32,
    /// It is over: why, and since when.
    pub ended: Option<(End, i64)>,
}

/// Whether a request is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As the agent of its worker.
    Admit {
        /// It is shown for the first time: the worker's older ones are over.
        is_first: bool,
    },
    /// Not, because its time was ended.
    Revoked,
    /// Not, because a newer one took its place.
    Superseded {
        /// Too late to have been on its way: somebody has a copy.
        is_copy: bool,
    },
    /// Not, because this catalog did not issue it.
    Unknown,
}

/// Judges the certificate of a request, which says that it is of `claimed`.
pub fn judge(known: Option<&Known>, claimed: WorkerId, now_ms: i64) -> Verdict {
    match known {
        Some(known) if known.worker == claimed => match known.ended {
            None => Verdict::Admit { is_first: !known.is_used },
            Some((End::Revoked, _)) => Verdict::Revoked,
            Some((End::Superseded, at_ms)) => Verdict::Superseded { is_copy: now_ms > at_ms + HANDOVER_MS },
        },
        _ => Verdict::Unknown,
    }
}

/// What is known of a key that a certificate is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The certificate of that key, PEM.
    pub pem: String,
    /// Its number.
    pub generation: u64,
    /// When it ends.
    pub not_after_ms: i64,
    /// It is over.
    pub is_ended: bool,
}

/// What to answer to one who asks for a new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The one that was issued for this key already: the answer was lost.
    Again(Held),
    /// A new one.
    Issue,
    /// None.
    Refuse(&'static str),
}

/// Judges a renewal for the key `asked` by one who showed the key `shown` (sha256 each); `held` is what that worker
/// has of the key that is asked for.
pub fn renewal(shown: &[u8; 32], asked: &[u8; 32], held: Option<Held>, now_ms: i64) -> Renewal {
    if shown == asked {
        return Renewal::Refuse("a new certificate needs a new key");
    }
    match held {
        None => Renewal::Issue,
        Some(held) if held.is_ended || held.not_after_ms <= now_ms => {
            Renewal::Refuse("this key had a certificate that is over; a new one needs a new key")
        }
        Some(held) => Renewal::Again(held),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_its_own_and_not_over_is_let_in() {
        let worker = |n| WorkerId::from_uuid(uuid::Uuid::from_u128(n));
        let (used, fresh) = (true, false);
        let known =
            |is_used, ended| Known { worker: worker(1), generation: 3, not_after_ms: 10, is_used, authority: 1, ended };
        let superseded = |at| Some((End::Superseded, at));
        let now = 1_000_000;
        for (what, known, claimed, expected) in [
            ("good", Some(known(used, None)), 1, Verdict::Admit { is_first: false }),
            ("shown first", Some(known(fresh, None)), 1, Verdict::Admit { is_first: true }),
            ("another's", Some(known(used, None)), 2, Verdict::Unknown),
            ("not ours", None, 1, Verdict::Unknown),
            ("revoked", Some(known(used, Some((End::Revoked, now)))), 1, Verdict::Revoked),
            ("revoked long ago", Some(known(used, Some((End::Revoked, 0)))), 1, Verdict::Revoked),
            ("on its way", Some(known(used, superseded(now - 5))), 1, Verdict::Superseded { is_copy: false }),
            (
                "at the bound",
                Some(known(used, superseded(now - HANDOVER_MS))),
                1,
                Verdict::Superseded { is_copy: false },
            ),
            ("a copy", Some(known(used, superseded(now - HANDOVER_MS - 1))), 1, Verdict::Superseded { is_copy: true }),
            ("never used, replaced", Some(known(fresh, superseded(0))), 1, Verdict::Superseded { is_copy: true }),
        ] {
            assert_eq!(judge(known.as_ref(), worker(claimed), now), expected, "{what}");
        }
    }

    #[test]
    fn a_key_gets_one_certificate() {
        let held = |is_ended, not_after_ms| Held { pem: "pem".into(), generation: 2, not_after_ms, is_ended };
        let ask = |asked: u8, held| renewal(&[1; 32], &[asked; 32], held, 100);
        assert!(matches!(ask(1, None), Renewal::Refuse(_)), "the key that it has");
        assert_eq!(ask(2, None), Renewal::Issue);
        assert_eq!(ask(2, Some(held(false, 101))), Renewal::Again(held(false, 101)), "the answer was lost");
        assert!(matches!(ask(2, Some(held(true, 101))), Renewal::Refuse(_)), "it was revoked");
        assert!(matches!(ask(2, Some(held(false, 100))), Renewal::Refuse(_)), "it has ended");
    }
}
