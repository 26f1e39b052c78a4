//! Decides when an agent asks for a new certificate, and how: from a third of what its certificate says on, spread, so
//! that a fleet that joined together does not come together; by proof with its key once TLS lets it in no more.

use std::time::Duration;

/// From when to when a certificate is good, milliseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Its begin.
    pub not_before_ms: i64,
    /// Its end.
    pub not_after_ms: i64,
}

impl Life {
    /// When it is to be renewed: between a third and a half of it. `random` is anywhere in [0, 1), the same for as long
    /// as it is held.
    pub fn due_ms(self, random: f64) -> i64 {
        let whole = self.not_after_ms.saturating_sub(self.not_before_ms).max(0);
        let spread = (whole / 6) as f64 * random.clamp(0.0, 1.0);
        self.not_before_ms.saturating_add(whole / 3).saturating_add(spread as i64)
    }
}

/// What is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The newest certificate.
    pub life: Life,
    /// It has not been let in yet.
    pub is_untried: bool,
    /// TLS said that it has ended, or the controller that it wants another one.
    pub is_ended: bool,
    /// The controller wants it renewed now.
    pub is_unwanted: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing for so long, unless something is heard.
    Wait(Duration),
    /// Show the new certificate.
    Try,
    /// Ask for a new one with the one that there is.
    Renew,
    /// Ask for a new one by a proof with the key of the one that has ended.
    Prove,
}

/// Longest wait: clocks are set, machines sleep.
const LOOK: Duration = Duration::from_secs(3600);

/// The next step; `now_ms` by the controller's clock, as far as that is known.
pub fn step(known: &Known, now_ms: i64, random: f64) -> Step {
    let life = known.life;
    if known.is_ended || now_ms >= life.not_after_ms {
        return Step::Prove;
    }
    if known.is_untried {
        return Step::Try;
    }
    let due_ms = life.due_ms(random);
    if known.is_unwanted || now_ms >= due_ms {
        return Step::Renew;
    }
    let left = u64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(0);
    Step::Wait(Duration::from_millis(left).min(LOOK))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    #[test]
    fn from_a_third_on_spread_and_by_proof_after_the_end() {
        let life = Life { not_before_ms: 0, not_after_ms: 90 * DAY };
        assert_eq!(life.due_ms(0.0), 30 * DAY);
        assert!(life.due_ms(0.999) < 45 * DAY && life.due_ms(0.999) > 44 * DAY);
        let plain = Known { life, is_untried: false, is_ended: false, is_unwanted: false };
        let untried = Known { is_untried: true, ..plain };
        let ended = Known { is_ended: true, ..plain };
        for (what, known, now_ms, random, expected) in [
            ("fresh", plain, 0, 0.0, Step::Wait(LOOK)),
            ("just before", plain, 30 * DAY - 10, 0.0, Step::Wait(Duration::from_millis(10))),
            ("a third", plain, 30 * DAY, 0.0, Step::Renew),
            ("a third, spread", plain, 30 * DAY, 0.9, Step::Wait(LOOK)),
            ("half", plain, 45 * DAY, 0.9999, Step::Renew),
            ("the last moment", plain, 90 * DAY - 1, 0.9, Step::Renew),
            ("the end", plain, 90 * DAY, 0.9, Step::Prove),
            ("years later", plain, 9000 * DAY, 0.9, Step::Prove),
            ("the clock is before its begin", plain, -DAY, 0.0, Step::Wait(LOOK)),
            ("not let in yet", untried, 1, 0.0, Step::Try),
            ("not let in yet, and ended", untried, 91 * DAY, 0.0, Step::Prove),
            ("TLS says so", ended, 1, 0.0, Step::Prove),
            ("another one is wanted", Known { is_unwanted: true, ..plain }, 1, 0.0, Step::Renew),
            ("a new one first", Known { is_unwanted: true, ..untried }, 1, 0.0, Step::Try),
        ] {
            assert_eq!(step(&known, now_ms, random), expected, "{what}");
        }
        let odd = Life { not_before_ms: 5, not_after_ms: 1 };
        assert_eq!(step(&Known { life: odd, ..plain }, 0, 0.5), Step::Wait(Duration::from_millis(5)), "no life at all");
    }
}
