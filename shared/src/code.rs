//! The catalogue of error codes. A code names a class of failure for good: scripts and pages of
//! documentation refer to it, so a number is never used for anything else, even when its class is gone.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

macro_rules! codes {
    ($($name:ident = $number:literal, $title:literal;)*) => {
        /// A class of failure, shown as `MD0042`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code, by number.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// Its number, for ever.
            pub const fn number(self) -> u16 {
                match self { $(Code::$name => $number),* }
            }

            /// The class in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title),* }
            }
        }
    };
}

codes! {
    // 00xx: the program and the bucket
    Bug = 1, "a bug in maand";
    Usage = 2, "the command line does not fit the command";
    NotABucket = 3, "the directory is not a bucket";
    SchemaOlder = 4, "the catalog is older than the program";
    SchemaNewer = 5, "the catalog is newer than the program";
    Storage = 6, "a file or the catalog could not be read or written";
    Busy = 7, "another maand holds what this one needs";
    Listen = 8, "the address to listen on cannot be used";
    UnknownName = 9, "a filter or an argument names something that does not exist";
    NothingToShow = 10, "there is nothing to show";
    Settings = 11, "maand.conf or agent.toml has a problem";
    Secrets = 12, "a key or certificate of the bucket is missing or unusable";
    // 002x-004x: the workspace
    Syntax = 20, "a workspace file cannot be parsed";
    UnknownField = 21, "a field that does not exist";
    InvalidValue = 22, "a value that a field does not accept";
    DuplicateHost = 23, "a host is listed twice";
    InvalidName = 24, "a name breaks the rule for names";
    MissingMakefile = 25, "a job has no Makefile";
    ReservedPath = 26, "a job has a file where the worker keeps the job's own";
    NotSupportedYet = 27, "a field that this version does not support yet";
    UnsupportedFile = 28, "a file that cannot be shipped";
    PathConflict = 29, "two files of a job want the same place";
    UnknownReference = 30, "a file names a job or worker that does not exist";
    PortConflict = 31, "two ports want the same number or name";
    PortsExhausted = 32, "the port pool has no number left";
    TooFewAllocations = 33, "fewer allocations than the job asks for";
    Capacity = 34, "a worker has less than its jobs reserve";
    DemandCycle = 35, "jobs demand one another in a circle";
    DemandUnmet = 36, "a demand names what does not exist or has another version";
    CertificateAuthority = 37, "the bucket's certificate authority cannot issue";
    TemplateSyntax = 40, "a template cannot be parsed";
    TemplateUndefined = 41, "a template uses a name that is not defined";
    TemplateKey = 42, "a template reads a key that does not exist";
    TemplateNamespace = 43, "a template reads a namespace that it may not read";
    TemplateFailed = 44, "a template could not be rendered";
    // 006x: deploy
    DeployFailed = 60, "a deploy failed, wholly or in part";
    ActionFailed = 61, "a make target failed on a worker";
    ActionTimedOut = 62, "a make target did not end in time";
    ActionInterrupted = 63, "an agent was ended while a make target ran";
    NotPickedUp = 64, "an agent did not pick up its work in time";
    NotJoined = 65, "no agent has joined for a host";
    Refused = 66, "an agent refused what it was told";
    HoldsLease = 67, "another process drives a rollout";
    NotBuilt = 68, "the bucket has not been built";
    Regressed = 69, "the catalog is older than what agents have seen";
    SyncOnlyStart = 70, "--sync-only where a first start is needed";
    HeldBack = 71, "a job waits for one that failed";
    MayRun = 76, "what is to be taken away may still run";
    NotPurged = 77, "a job's tree could not be taken away";
    // 008x: agents
    JoinRefused = 80, "the controller refused to enrol this agent";
    ControllerUnreachable = 81, "the controller cannot be reached";
    ControllerMismatch = 82, "the controller is not the one that the token names";
    AgentState = 83, "the agent's own state is missing or damaged";
    AgentRunning = 84, "another agent runs for this bucket";
    AlreadyJoined = 85, "this agent has joined already";
    AgentOffline = 86, "an agent is not there";
    AgentBehind = 87, "an agent has not accepted the last deploy";
    WorkerLost = 88, "a worker is gone and not cleaned up";
    NotMeasured = 89, "a worker's memory and processors have not been measured";
    // 009x: hooks and health, and what is left of agents
    HookFailed = 90, "a hook failed";
    HookRuntime = 91, "a hook's interpreter is missing";
    Unhealthy = 92, "a health check failed";
    OperationFailed = 93, "an operation on a worker failed";
    CopiedIdentity = 94, "this agent's identity is a copy";
    Rotation = 95, "the agents' authority cannot be replaced like this";
    LedgerNewer = 96, "the agent's ledger is newer than the program";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("MD{:04}", self.number()))
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let found = Self::ALL.iter().copied().find(|code| code.to_string() == text);
        found.ok_or_else(|| de::Error::custom(format!("{text:?} is no code")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_as_it_is_written() {
        for code in Code::ALL {
            let text = serde_json::to_string(code).unwrap();
            assert_eq!(serde_json::from_str::<Code>(&text).unwrap(), *code, "{text}");
        }
        assert!(serde_json::from_str::<Code>("\"MD0000\"").is_err());
    }

    #[test]
    fn numbers_are_unique_and_ascending() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        assert_eq!(Code::TemplateKey.to_string(), "MD0042");
    }
}
