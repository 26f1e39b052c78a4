//! Decides about starts of agents: which number one gets, and whether two machines take turns under one name.

use std::fmt;

/// Within so long, milliseconds.
const WITHIN_MS: i64 = 600_000;
/// So many changes from one machine to another are no accident.
const CHANGES: usize = 3;

/// Where a start comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The address that it was opened from.
    pub address: String,
    /// Digest of the machine's id.
    pub machine: Option<String>,
    /// The kernel's boot id.
    pub boot_id: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |text: &str| text.chars().take(8).collect::<String>();
        let machine = self.machine.as_deref().map_or_else(|| "unknown".to_owned(), short);
        write!(f, "{} (machine {machine}, boot {})", self.address, short(&self.boot_id))
    }
}

/// A start of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its number.
    pub number: u64,
    /// Which start.
    pub start: String,
    /// When it was opened, milliseconds since 1970 UTC.
    pub opened_ms: i64,
    /// From where.
    pub origin: Origin,
}

/// The number of `start`: the one that it has if it is the last one, or a higher one than all before; `counted` is how
/// often that agent has started by its own count, `reported` the highest that it ever reported under.
pub fn number(sessions: &[Session], start: &str, counted: u64, reported: u64) -> (u64, bool) {
    match sessions.last() {
        Some(last) if last.start == start => (last.number, false),
        last => {
            let above = last.map_or(0, |last| last.number).max(reported).saturating_add(1);
            // Out of what a database can hold nobody counts.
            (above.max(counted.min(1 << 40)), true)
        }
    }
}

/// The two machines that take turns, if they do: the one that came back last, and the one that it took over from.
/// `sessions` in order, the new one at the end. One that only restarts, boots or moves never comes back to what it was.
pub fn flapping(sessions: &[Session], now_ms: i64) -> Option<(&Session, &Session)> {
    let from = sessions.iter().position(|session| session.opened_ms > now_ms - WITHIN_MS)?;
    let recent = &sessions[from..];
    let changes = recent.windows(2).filter(|pair| pair[0].origin != pair[1].origin).count();
    let (new, before) = recent.split_last()?;
    let other = before.last().filter(|other| other.origin != new.origin)?;
    let is_back = before.iter().any(|session| session.origin == new.origin);
    (changes >= CHANGES && is_back).then_some((new, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A letter for each start: the address, then the boot, "a1"; ten seconds between two.
    fn sessions(text: &str) -> Vec<Session> {
        let origin = |word: &str| Origin { address: word[..1].into(), machine: None, boot_id: word[1..].into() };
        let each = text.split_whitespace().enumerate();
        each.map(|(n, word)| Session {
            number: n as u64 + 1,
            start: n.to_string(),
            opened_ms: n as i64 * 10_000,
            origin: origin(word),
        })
        .collect()
    }

    #[test]
    fn two_that_take_turns_are_found_and_one_that_starts_anew_is_not() {
        for (what, text, expected) in [
            ("one start", "a1", None),
            ("a crash loop", "a1 a1 a1 a1 a1 a1", None),
            ("reboots", "a1 a2 a3 a4 a5", None),
            ("a move", "a1 b1 b1 b1", None),
            ("moved and moved back", "a1 b1 a1", None),
            ("turns", "a1 b1 a1 b1", Some(("b", "a"))),
            ("turns of one address, other boots", "a1 a2 a1 a2", Some(("a", "a"))),
            ("turns with restarts between", "a1 a1 b1 b1 a1 b1", Some(("b", "a"))),
            ("three", "a1 b1 c1 a1", Some(("a", "c"))),
            ("a restart after turns", "a1 b1 a1 a1", None),
        ] {
            let all = sessions(text);
            let found = flapping(&all, all.len() as i64 * 10_000);
            let found = found.map(|(new, other)| (new.origin.address.as_str(), other.origin.address.as_str()));
            assert_eq!(found, expected, "{what}");
        }
        let all = sessions("a1 b1 a1 b1");
        assert_eq!(flapping(&all, WITHIN_MS + 5_000), None, "the first was too long ago");
    }

    #[test]
    fn numbers_only_grow_and_a_lost_answer_is_given_again() {
        let two = sessions("a1 a1");
        assert_eq!(number(&[], "x", 1, 0), (1, true));
        assert_eq!(number(&[], "x", 7, 3), (7, true), "by its own count");
        assert_eq!(number(&[], "x", 1, 9), (10, true), "above what was reported");
        assert_eq!(number(&two, "x", 1, 0), (3, true), "above the last");
        assert_eq!(number(&two, "1", 9, 9), (2, false), "the same start");
        assert_eq!(number(&two, "0", 1, 0), (3, true), "one that was superseded comes back");
        assert_eq!(number(&[], "x", u64::MAX, 0), (1 << 40, true));
    }
}
