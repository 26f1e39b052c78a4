//! `maand cat kv`, `maand cat kv get NAMESPACE KEY`.

use std::collections::BTreeSet;

use shared::{Diagnostic, JobName};

use crate::catalog::kv::{self, Row};
use crate::catalog::{Catalog, read};
use crate::cli::Context;
use crate::cli::filter::{Filter, unknown};
use crate::cli::table::{Table, time};
use crate::compose::Held;
use crate::failure::{Exit, Failure};
use crate::model::Snapshot;
use crate::model::kv::{Access, DEPLOY_ORDER, Namespace, ROLLOUT_ORDER};
use crate::secrets::SealingKey;

/// Longest value that a table shows, characters.
const SHOWN: usize = 50;

/// List key-values: what templates and hooks can read
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_long_help = "Examples:\n  maand cat kv --jobs api                   everything that job api can read\n  maand cat kv \
    get vars/job/api db_name      one value, whole\n  maand cat kv get secrets/job/api password --reveal\n\n\
    A deleted key stays in the list until maand build has forgotten it (7 days).\n\
    docs/reference/kv.md lists the namespaces and their keys."
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
    Get(Get),
}

/// List key-values (the same without `list`)
#[derive(Debug, clap::Args)]
struct List {
    /// Only what these jobs can read
    #[arg(long, value_delimiter = ',', value_name = "JOB,…")]
    jobs: Vec<String>,
    /// Only what is live
    #[arg(long, conflicts_with = "deleted")]
    active: bool,
    /// Only what is deleted
    #[arg(long)]
    deleted: bool,
}

/// Print one value, whole
#[derive(Debug, clap::Args)]
struct Get {
    /// Such as vars/job/api
    namespace: String,
    /// Such as db_name
    key: String,
    /// Print a secret in clear
    #[arg(long)]
    reveal: bool,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.command {
        None => list(&args.list, context),
        Some(Command::List(args)) => list(&args, context),
        Some(Command::Get(args)) => get(&args, context),
    }
}

fn list(args: &List, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let readable = match args.jobs[..] {
        [] => None,
        _ => {
            let snapshot = catalog.read(|tx| read::snapshot(tx))?;
            let filter = Filter::new(&snapshot, &args.jobs, &[])?;
            Some(readable(&snapshot, &filter))
        }
    };
    let mut table = Table::new(&["namespace", "key", "value", "version", "ttl", "created_date", "deleted"]);
    catalog.read(|tx| {
        let mut resolver = kv::Resolver::new(tx);
        let mut add = |row: Row| {
            if (args.active && row.deleted) || (args.deleted && !row.deleted) {
                return Ok(());
            }
            // Four bytes a character are enough.
            let value = shown(&row, resolver.value(&row, 4 * SHOWN)?);
            table.row(vec![
                row.namespace.into(),
                row.key.into(),
                value.into(),
                row.version.into(),
                0.into(),
                time(row.created_ms).into(),
                row.deleted.into(),
            ]);
            Ok(())
        };
        match &readable {
            None => kv::for_each(tx, add),
            Some(names) => {
                let rows = |name: &String| kv::rows(tx, name);
                names.iter().try_for_each(|name| rows(name)?.into_values().try_for_each(&mut add))
            }
        }
    })?;
    let remedy = match args.jobs[..] {
        [] => "run maand build",
        _ => "see maand cat allocations --jobs: a job that was removed from every worker has none to show",
    };
    super::print(&table, context, "there are no key-values", remedy)
}

/// What the allocations of the chosen jobs that are not removed can read.
fn readable(snapshot: &Snapshot, filter: &Filter) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for allocation in snapshot.allocations.iter().filter(|a| !a.removed && filter.job(&a.job)) {
        let upstream: BTreeSet<JobName> = snapshot.job(&allocation.job).map_or_else(BTreeSet::new, |job| {
            job.spec.hooks.values().filter_map(|hook| hook.demand.as_ref()).map(|demand| demand.job.clone()).collect()
        });
        let access = Access { job: &allocation.job, host: &allocation.host, upstream: &upstream };
        all.extend(access.readable().iter().map(ToString::to_string));
    }
    all
}

/// A row's value as a table shows it.
fn shown(row: &Row, value: String) -> String {
    if row.is_sealed() {
        return "[encrypted]".to_owned();
    }
    let text = match row.key.starts_with("certs/") {
        true => value.lines().next().unwrap_or_default(),
        false => &value,
    };
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

fn get(args: &Get, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let key = match args.namespace.parse() {
        Ok(Namespace::Job(_)) if args.key == DEPLOY_ORDER => ROLLOUT_ORDER,
        _ => &args.key,
    };
    let Some(row) = catalog.read(|tx| kv::get(tx, &args.namespace, key))? else {
        return Err(missing(args, &mut catalog)?);
    };
    let value = if !row.is_sealed() {
        catalog.read(|tx| kv::resolve(tx, &row))?
    } else if args.reveal {
        let key = SealingKey::load(&context.bucket.kv_key()).map_err(Held::from)?;
        key.open_value(&row.namespace, &row.key, &row.value).map_err(Held::from)?.to_string()
    } else {
        "[encrypted]".to_owned()
    };
    if context.ui.wants_json() {
        context.ui.out_json(&serde_json::json!({ "namespace": row.namespace, "key": row.key, "value": value,
            "version": row.version, "ttl": 0, "created_date": time(row.created_ms) }));
        return Ok(());
    }
    let lines = [
        ("namespace", row.namespace.clone()),
        ("key", row.key.clone()),
        ("value", value.lines().map(shared::text::clean).collect::<Vec<_>>().join("\n")),
        ("version", row.version.to_string()),
        ("ttl", "0".to_owned()),
        ("created_date", time(row.created_ms)),
    ];
    lines.iter().for_each(|(name, value)| context.ui.out(format_args!("{name}: {value}")));
    Ok(())
}

fn missing(args: &Get, catalog: &mut Catalog) -> Result<Failure, Failure> {
    let rows = catalog.read(|tx| kv::all(tx))?;
    let live = || rows.iter().filter(|row| !row.deleted);
    let problem = if args.namespace.parse::<Namespace>().is_err() || !live().any(|row| row.namespace == args.namespace)
    {
        let names: BTreeSet<&str> = live().map(|row| row.namespace.as_str()).collect();
        unknown("namespace", &args.namespace, names.into_iter())
    } else {
        let keys: Vec<&str> =
            live().filter(|row| row.namespace == args.namespace).map(|row| row.key.as_str()).collect();
        unknown("key", &args.key, keys.into_iter())
    };
    let problem = Diagnostic { remedy: None, ..problem }.remedy("list what there is with maand cat kv");
    Ok(Failure::new(Exit::Usage, problem))
}
