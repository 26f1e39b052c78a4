//! Edge: the highest (epoch, update_seq) ever handed out, in a file outside the database: a catalog
//! below it comes from a backup, and what it would tell agents is older than what they have.
#![expect(clippy::disallowed_methods, reason = "edge: secrets/high-water.json")]

use std::io::Write;

use serde::{Deserialize, Serialize};
use shared::{BucketId, Code, Diagnostic};

use crate::failure::{Exit, Failure};
use crate::paths::BucketDir;

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Mark {
    bucket_id: BucketId,
    epoch: u64,
    update_seq: u64,
    /// False while it is only meant to be: what was never handed out may be handed out later.
    used: bool,
}

/// Raises the mark to what is about to be handed out, durably; refuses when it is higher already.
pub fn raise(bucket: &BucketDir, id: BucketId, epoch: u64, update_seq: u64) -> Result<(), Failure> {
    let path = bucket.high_water();
    let failed = |error: &dyn std::error::Error| {
        Failure::new(
            Exit::Failed,
            Diagnostic::new(Code::Storage, "secrets/high-water.json cannot be used").cause(error),
        )
    };
    match std::fs::read(&path) {
        Ok(bytes) => {
            let mark: Mark = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
            if mark.bucket_id == id && (mark.epoch, mark.update_seq, mark.used) >= (epoch, update_seq, true) {
                let problem = Diagnostic::new(Code::Regressed, "the catalog is older than what agents have been told");
                return Err(Failure::new(
                    Exit::Failed,
                    problem
                        .at("secrets/high-water.json")
                        .note(format!(
                            "the next deploy would be update_seq {update_seq} of epoch {epoch}, {} of epoch {} was handed out already",
                            mark.update_seq, mark.epoch
                        ))
                        .remedy("put the newest data/maand.db back; this one comes from a backup, and agents would refuse it"),
                ));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&error)),
    }
    write(bucket, &Mark { bucket_id: id, epoch, update_seq, used: false }).map_err(|error| failed(&error))
}

/// What the mark was raised to is in the catalog now.
pub fn confirm(bucket: &BucketDir, id: BucketId, epoch: u64, update_seq: u64) -> Result<(), Failure> {
    write(bucket, &Mark { bucket_id: id, epoch, update_seq, used: true }).map_err(|error| {
        let problem = Diagnostic::new(Code::Storage, "secrets/high-water.json cannot be written").cause(&error);
        Failure::new(Exit::Failed, problem)
    })
}

fn write(bucket: &BucketDir, mark: &Mark) -> std::io::Result<()> {
    let path = bucket.high_water();
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(mark)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    std::fs::File::open(bucket.secrets())?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_from_a_backup_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = BucketDir::new(dir.path());
        std::fs::create_dir(bucket.secrets()).unwrap();
        let id = BucketId::from_uuid(uuid::Uuid::from_u128(1));
        raise(&bucket, id, 1, 1).unwrap();
        confirm(&bucket, id, 1, 1).unwrap();
        raise(&bucket, id, 1, 2).unwrap();
        // Cut off before it was handed out.
        raise(&bucket, id, 1, 2).unwrap();
        confirm(&bucket, id, 1, 2).unwrap();
        for (epoch, seq) in [(1, 2), (1, 1)] {
            assert_eq!(raise(&bucket, id, epoch, seq).unwrap_err().problems[0].code, Code::Regressed);
        }
        raise(&bucket, id, 2, 1).unwrap();
    }
}
