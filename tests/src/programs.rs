//! Where the two programs are. `maand dev` looks for `maand-agent` beside itself, so each test gets
//! a directory with both under their own names.

use std::path::{Path, PathBuf};

/// Both programs, under the names that users know.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `maand`.
    pub maand: PathBuf,
    /// `maand-agent`.
    pub agent: PathBuf,
}

impl Programs {
    /// Puts links to the programs at `maand` and `agent` into `dir`.
    pub fn link(maand: &Path, agent: &Path, dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let place = |from: &Path, name: &str| {
            let to = dir.join(name);
            // A hard link: a program finds itself by /proc/self/exe, which looks through symbolic ones.
            if std::fs::hard_link(from, &to).is_err() {
                std::fs::copy(from, &to).unwrap();
            }
            to
        };
        Self { maand: place(maand, "maand"), agent: place(agent, "maand-agent") }
    }
}
