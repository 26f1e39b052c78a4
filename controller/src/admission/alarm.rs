//! What is wrong with a worker's identity, in words that an operator sees.

/// A kind of trouble; a worker has at most one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A certificate that was replaced is still used.
    Copied,
    /// Two machines take turns with one identity: it gets no work until an operator says which one it is.
    Quarantined,
    /// Its agent accepted other content under a fence than the catalog has.
    Diverged,
    /// An enrolment for it was refused.
    JoinRefused,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Quarantined, Self::Copied, Self::Diverged, Self::JoinRefused];

    /// Its word in the catalog and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Copied => "copied_certificate",
            Self::Quarantined => "quarantined",
            Self::Diverged => "diverged",
            Self::JoinRefused => "join_refused",
        }
    }

    /// The kind of a word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Whether somebody may be at work under the worker's name, or be kept from it: more than a try that failed.
    pub const fn is_grave(self) -> bool {
        match self {
            Self::Quarantined | Self::Copied | Self::Diverged => true,
            Self::JoinRefused => false,
        }
    }

    /// What to do about it.
    pub fn remedy(self, host: &str) -> String {
        match self {
            Self::Copied => format!(
                "end the agent on the machine that is not {host}; if you do not know it: maand agent revoke {host}, then \
                 maand agent token {host} for the machine that stays; maand agent resolve {host} ends the alarm"
            ),
            Self::Quarantined => format!(
                "stop maand-agent on the machine that is not {host}, then maand agent resolve {host}; if the key may be in \
                 wrong hands: maand agent revoke {host}, and maand agent token {host} for the machine that stays"
            ),
            Self::Diverged => format!(
                "end the other controller of this bucket, if there is one; then maand deploy tells the worker anew, or maand \
                 recover after a restored backup, and maand agent resolve {host} ends the alarm"
            ),
            Self::JoinRefused => {
                format!("maand agent token {host} gives a new token; maand agent resolve {host} ends the alarm")
            }
        }
    }
}

/// A worker's trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// What kind.
    pub kind: Kind,
    /// When it began, milliseconds since 1970 UTC.
    pub first_ms: i64,
    /// When it was seen last.
    pub last_ms: i64,
    /// How often it was seen; not every refused request counts.
    pub count: u64,
    /// For people.
    pub detail: String,
}
