//! What an agent knows about its worker.

use serde::{Deserialize, Serialize};

/// Measured by the agent; numbers only, bounded at the edge, never used in a name or a template.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerFacts {
    /// Installed memory, MiB.
    pub memory_mb: u64,
    /// Sum over all processors, MHz; 0 when the kernel does not tell.
    pub cpu_mhz: u64,
    /// Processors.
    pub cpus: u32,
    /// Kernel release, such as `6.1.0-13-amd64`.
    pub kernel: String,
    /// Machine architecture, such as `x86_64`.
    pub arch: String,
    /// Free bytes on the file system below the agent's root, MiB.
    pub disk_free_mb: u64,
    /// Found on the agent's PATH, of those that a worker needs (`make`, `sh`).
    pub tools: Vec<String>,
}
