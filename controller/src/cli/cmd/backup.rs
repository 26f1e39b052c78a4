//! `maand backup`.

use std::path::PathBuf;

use shared::{Code, Diagnostic};

use crate::backup::{self, Error};
use crate::cli::Context;
use crate::cli::cmd::build;
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::tally::Tally;

/// Write the bucket into one file, while everything runs
///
/// The archive (tar, zstd; 0600) has the catalog, the content that it refers to, secrets/, maand.conf and the
/// workspace. Logs, packs and whatever else is made anew are left out. It holds the bucket's keys: keep it as you
/// would keep those.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand backup /backup/shop-$(date +%F).tar.zst\n  maand backup --no-workspace shop.tar.zst    when \
    the workspace is under version control\n\nTo put it back, into an empty directory, with no maand serve running:\n  mkdir shop && tar --zstd -xf \
    shop.tar.zst -C shop\n  cd shop && maand init && maand recover\n\ndocs/guides/backup.md goes through it step by step."
)]
pub struct Args {
    /// The file to write; it must not exist
    file: PathBuf,
    /// Leave the workspace out
    #[arg(long)]
    no_workspace: bool,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    drop(context.catalog()?);
    // Neither a build nor gc may take away what the copy of the catalog refers to.
    let _lock = build::lock(&context.bucket)?;
    let tally = Tally::default();
    let summary = context.ui.watched(&tally, || {
        backup::write(&context.bucket, &args.file, !args.no_workspace, clock::now_ms(), &tally).map_err(problem)
    })?;
    let shown = args.file.display();
    if context.ui.wants_json() {
        context.ui.out_json(&serde_json::json!({ "file": shown.to_string(), "summary": summary }));
        return Ok(());
    }
    let kib = |bytes: u64| bytes.div_ceil(1024);
    context.ui.out(format_args!(
        "{shown}: {} files ({} blobs), {} KiB in {} KiB",
        summary.files,
        summary.blobs,
        kib(summary.bytes),
        kib(summary.archive_bytes)
    ));
    context.ui.say("it holds the keys of this bucket: keep it where nobody else reads it");
    Ok(())
}

fn problem(error: Error) -> Failure {
    match error {
        Error::Catalog(error) => error.into(),
        Error::Exists(path) => Failure::new(
            Exit::Usage,
            Diagnostic::new(Code::Usage, format!("{} exists", path.display()))
                .remedy("name another file: a backup is never written over"),
        ),
        Error::Missing(_) => Failure::new(
            Exit::Failed,
            Diagnostic::new(Code::Storage, "the bucket's store is not whole").cause(&error).remedy(
                "maand build stores again what the workspace has; without the workspace, take data/store from an older backup",
            ),
        ),
        Error::Io { .. } => {
            Failure::new(Exit::Failed, Diagnostic::new(Code::Storage, "there is no backup").cause(&error))
        }
    }
}
