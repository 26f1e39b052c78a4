//! Edge: the sample bucket, embedded, so that an installed `maand` needs no checkout.
#![expect(clippy::disallowed_methods, reason = "edge: writes the sample")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use shared::{Code, Diagnostic};

use crate::failure::{Exit, Failure};

macro_rules! files {
    ($($path:literal)*) => {
        &[$(($path, include_str!(concat!("../../../../../examples/hello/", $path)))),*]
    };
}

/// The files of `examples/hello`; a test holds the list against the directory.
pub const FILES: &[(&str, &str)] = files! {
    "maand.conf"
    "workspace/bucket.conf"
    "workspace/jobs/notes/Makefile"
    "workspace/jobs/notes/conf/README"
    "workspace/jobs/notes/conf/notes.toml.j2"
    "workspace/jobs/notes/manifest.json"
    "workspace/jobs/notes/vars.toml"
    "workspace/jobs/web/Makefile"
    "workspace/jobs/web/manifest.json"
    "workspace/jobs/web/public/index.html.j2"
    "workspace/jobs/web/settings.mk.j2"
    "workspace/workers.json"
};

/// A directory that goes when the command ends.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Temporary {
    /// Makes `maand-dev-<pid>` where temporary files go, for this user alone.
    pub fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("maand-dev-{}-{}", std::process::id(), crate::clock::now_ms()));
        std::fs::create_dir(&path).map_err(|error| cannot("make", &path, &error))?;
        let this = Self(path);
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&this.0, private).map_err(|error| cannot("close", &this.0, &error))?;
        Ok(this)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Whatever stays is in the directory for temporary files, and says whose it was.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Writes the sample into `dir`.
pub fn write(dir: &Path) -> Result<(), Failure> {
    for (name, content) in FILES {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| cannot("make", parent, &error))?;
        }
        std::fs::write(&path, content).map_err(|error| cannot("write", &path, &error))?;
    }
    Ok(())
}

fn cannot(operation: &str, path: &Path, error: &std::io::Error) -> Failure {
    let message = format!("cannot {operation} {}", path.display());
    let problem = Diagnostic::new(Code::Storage, message).cause(error);
    Failure::new(Exit::Failed, problem.remedy("set TMPDIR to a directory that you may write to"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_embedded_sample_is_the_one_in_the_repository() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hello");
        let found: BTreeSet<String> = walkdir::WalkDir::new(&root)
            .into_iter()
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.path().strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
            .collect();
        let embedded: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(embedded, found);
    }
}
