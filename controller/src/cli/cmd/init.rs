//! `maand init`.
#![expect(clippy::disallowed_methods, reason = "edge: makes a bucket's directories and files")]

use std::path::Path;

use shared::{BucketId, Code, Diagnostic};

use crate::catalog::{Catalog, During as _, authorities, read};
use crate::cli::Context;
use crate::config;
use crate::failure::{Exit, Failure};
use crate::paths::BucketDir;
use crate::permissions;
use crate::secrets::SealingKey;
use crate::tls::ca::{self, Kind};
use crate::{catalog, clock};

const BUCKET_CONF: &str = "\
# Variables of this bucket, for templates: get(\"vars/bucket\", \"name\").

# Numbers for ports that a manifest asks for with {}.
port_min = 30000
port_max = 39999
";

/// Make this directory a bucket, or complete or upgrade one
///
/// Makes what is missing and changes nothing that is there: the bucket's id, its keys and your files stay.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  mkdir shop && cd shop && maand init\n\nsecrets/ holds the keys of the \
    bucket's certificate authorities: back it up,\nand keep it to yourself. A directory that is setgid, writable for its group and closed \
    for\nothers (chmod 2770) makes a bucket that its group works on together, keys included.")]
pub struct Args {}

/// Runs it.
pub fn run(_: Args, context: &Context) -> Result<(), Failure> {
    let (id, made) = init_bucket(&context.bucket)?;
    if context.ui.wants_json() {
        context.ui.out_json(&serde_json::json!({ "bucket_id": id, "made": made }));
        return Ok(());
    }
    if made.is_empty() {
        context.ui.out(format_args!("bucket {id}: nothing was missing"));
        return Ok(());
    }
    context.ui.out(format_args!("bucket {id}"));
    made.iter().for_each(|name| context.ui.out(format_args!("  made {name}")));
    if permissions::is_shared(context.bucket.root()) {
        context.ui.say("it is shared with this directory's group: who is in it may deploy, and read its keys");
    }
    context.ui.say(
        "next: list your workers in workspace/workers.json, add a job below workspace/jobs/, then run maand build",
    );
    Ok(())
}

/// Makes what is missing; the bucket's id, and the names of what was made.
pub fn init_bucket(bucket: &BucketDir) -> Result<(BucketId, Vec<String>), Failure> {
    let mut made = Vec::new();
    // First, so that what is refused stays as it is.
    let outdated = Catalog::outdated(&bucket.database())?;
    for dir in [bucket.data(), bucket.workspace(), bucket.jobs(), bucket.logs(), bucket.tmp(), bucket.secrets()] {
        if !dir.is_dir() {
            std::fs::create_dir_all(&dir).map_err(|error| cannot(bucket, &dir, &error))?;
            made.push(format!("{}/", bucket.shown(&dir)));
        }
    }
    let shared = permissions::is_shared(bucket.root());
    for dir in [bucket.secrets(), bucket.data()] {
        permissions::close(&dir, shared).map_err(|error| cannot(bucket, &dir, &error))?;
    }
    if !bucket.database().is_file() {
        // SQLite makes the files beside it with the same mode.
        let path = bucket.database();
        permissions::create(&path).map_err(|error| cannot(bucket, &path, &error))?;
        made.push(bucket.shown(&bucket.database()).to_string());
    }
    if let Some(found) = outdated {
        // Before the first step of an upgrade: what it was, as a file that only needs to be put back.
        let backup = bucket.data().join(format!("maand.db.schema-{found}.bak"));
        back_up(bucket, &backup)?;
        made.push(bucket.shown(&backup).to_string());
    }
    let mut catalog = Catalog::create(&bucket.database())?;
    let fresh = BucketId::from_uuid(clock::random_uuid());
    catalog.write(|tx| {
        tx.execute(
            "INSERT OR IGNORE INTO bucket (id, bucket_id, epoch, update_seq) VALUES (1, ?1, 1, 0)",
            [fresh.to_string()],
        )
        .during("naming the bucket")
        .map(drop)
    })?;
    let id = catalog.read(|tx: &rusqlite::Transaction<'_>| -> catalog::Result<BucketId> { read::bucket_id(tx) })?;
    for (path, content) in
        [(bucket.conf(), config::TEMPLATE), (bucket.bucket_conf(), BUCKET_CONF), (bucket.workers_json(), "[]\n")]
    {
        if !path.exists() {
            std::fs::write(&path, content).map_err(|error| cannot(bucket, &path, &error))?;
            made.push(bucket.shown(&path).to_string());
        }
    }
    if ca::ensure(Kind::Jobs, bucket, id, clock::now_ms())? {
        made.extend(["secrets/ca.crt", "secrets/ca.key"].map(str::to_owned));
    }
    // The one that counts: the first may have been replaced.
    let current = catalog.read(|tx| authorities::rotation(tx))?.current;
    if ca::ensure_agents(bucket, current, id, clock::now_ms())? {
        let (certificate, key) = bucket.agent_ca(current);
        made.extend([certificate, key].map(|path| bucket.shown(&path).to_string()));
    }
    if !bucket.kv_key().is_file() {
        SealingKey::create(&bucket.kv_key()).map_err(|error| cannot(bucket, &bucket.kv_key(), &error))?;
        made.push(bucket.shown(&bucket.kv_key()).to_string());
    }
    Ok((id, made))
}

/// Copies the catalog to `backup`: whole when it has that name, whenever this ends. An earlier copy of
/// the same schema is replaced, because what is there now has not been upgraded yet.
fn back_up(bucket: &BucketDir, backup: &Path) -> Result<(), Failure> {
    let half = backup.with_extension("bak.tmp");
    drop(std::fs::remove_file(&half));
    Catalog::back_up(&bucket.database(), &half)?;
    std::fs::File::open(&half)
        .and_then(|copy| copy.sync_all())
        .and_then(|()| std::fs::rename(&half, backup))
        .and_then(|()| std::fs::File::open(bucket.data())?.sync_all())
        .map_err(|error| cannot(bucket, backup, &error))
}

fn cannot(bucket: &BucketDir, path: &Path, error: &dyn std::error::Error) -> Failure {
    let problem = Diagnostic::new(Code::Storage, format!("cannot make {}", bucket.shown(path))).cause(error);
    Failure::new(Exit::Failed, problem.remedy("run it where you may write"))
}
