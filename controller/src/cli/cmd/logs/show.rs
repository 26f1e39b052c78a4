//! `maand logs show` (`spec/behaviour.md` 8.6): which files, their lines in the order of time, and which of
//! them are wanted. What a line means is `telemetry::record`'s, how blocks are made `telemetry::blocks`'.
#![expect(clippy::disallowed_methods, reason = "edge: reads the bucket's logs")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Read, Take};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use shared::{Code, Diagnostic, RunId};

use super::follow;
use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::telemetry::record::{Record, Wanted};
use crate::telemetry::{blocks, generations};

/// Most lines that are held to be put into blocks.
const MOST: usize = 200_000;

/// Show what maand and the workers wrote down
///
/// logs/HOST.log has what concerns a worker, output of its make targets, scripts and hooks included;
/// logs/maand.log all else; logs/runs/RUN/ the same lines by command. A log that has grown is set aside
/// as FILE.1, FILE.2, … (log_max_mb, log_keep, log_keep_runs in maand.conf); those are read too.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  maand logs show --worker 10.0.0.1 --job api --format human
  maand logs show --event deploy_skip --format human
  maand logs show --run 018f3c1a --format human   what one command did
  maand logs show --job api --tail 50 --follow

--worker, --run and --job also take the beginning of a name.
Phases: reconcile, fetch, rollout, job_control, run_command, health_check, gc,
and the events of hooks (pre_deploy, …).
Events: command_begin, command_end, deploy_skip, reconcile_skip_stop, and more:
maand logs show shows them. Lines of output have a stream and no event.

raw is the lines as they are written. human is what happened, a line each, then
what was run, a block each:

  2026-11-24 17:51:51.123 deploy seq=4 run=018f3c1a
  rollout restart api@10.0.0.1
  $ make -s -C jobs/api restart
  | what it printed
  ! what it printed on standard error
  ok exit=0 1204 ms

With --json each line is a JSON object on a line of its own. Times are UTC.")]
pub struct Args {
    /// Only lines of this worker
    #[arg(long, value_name = "HOST")]
    worker: Option<String>,
    /// Only lines of this command, deploy or rollout
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Only lines of this job
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// Only lines of this phase
    #[arg(long, value_name = "PHASE")]
    phase: Option<String>,
    /// Only this event
    #[arg(long, value_name = "EVENT")]
    event: Option<String>,
    /// Only the last N lines; with human the last N events and the last N blocks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tail: Option<u32>,
    /// Read logs/runs/RUN/ and nothing else
    #[arg(long = "run-dir", requires = "run")]
    run_dir: bool,
    /// How to show them
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    format: Format,
    /// Then show new lines as they come, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

/// Forms of what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// The lines as they are written
    Raw,
    /// Events and blocks
    Human,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let given =
        |text: &Option<String>| text.as_ref().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let wanted = Wanted {
        worker: given(&args.worker),
        run: given(&args.run),
        job: given(&args.job),
        phase: given(&args.phase),
        event: given(&args.event),
    };
    if !context.bucket.conf().is_file() && !context.bucket.database().is_file() {
        drop(context.catalog()?);
    }
    let dir = place(args, &wanted, context)?;
    let cannot = |error: std::io::Error| {
        let what = format!("{} cannot be read", context.bucket.shown(&dir));
        Failure::new(Exit::Failed, Diagnostic::new(Code::Storage, what).cause(&error))
    };
    let files = files(&dir, &wanted).map_err(cannot)?;
    if files.is_empty() && !args.follow {
        return Err(nothing(args, context, &dir));
    }
    let form = Form { format: args.format, json: context.ui.wants_json() };
    if args.follow {
        // What is there now is shown; what is written from now on is followed.
        let follower = follow::Follower::at_the_end(&dir, &wanted).map_err(cannot)?;
        let now = follower.now().map_err(cannot)?;
        show(&files, Some(&now), &wanted, args, form, context).map_err(cannot)?;
        return follower.run(form, context).map_err(cannot);
    }
    if !show(&files, None, &wanted, args, form, context).map_err(cannot)? {
        context.ui.say("no line matches; without filters all of them are shown");
    }
    Ok(())
}

/// How lines are printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub format: Format,
    pub json: bool,
}

impl Form {
    /// A line that stands for itself.
    pub fn line(self, raw: &str, record: &Record) -> String {
        match (self.json, self.format) {
            (true, _) => record.json(),
            (false, Format::Raw) => shared::text::clean(raw),
            (false, Format::Human) => blocks::single(record),
        }
    }
}

/// The directory to read: that of a run, when one alone is meant and it is there.
fn place(args: &Args, wanted: &Wanted, context: &Context) -> Result<PathBuf, Failure> {
    let bucket = &context.bucket;
    let Some(run) = &wanted.run else { return Ok(bucket.logs()) };
    let dirs = std::fs::read_dir(bucket.runs()).into_iter().flatten();
    let mut meant: Vec<String> = dirs
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.parse::<RunId>().is_ok() && name.starts_with(run.as_str()))
        .collect();
    meant.sort();
    match (&meant[..], args.run_dir) {
        ([one], _) => Ok(bucket.runs().join(one)),
        (_, false) => Ok(bucket.logs()),
        ([], true) => {
            let problem = Diagnostic::new(Code::NothingToShow, format!("there is no logs/runs/{run}"));
            Err(Failure::new(
                Exit::Failed,
                problem
                    .note("runs that were over long ago are forgotten: log_keep_runs in maand.conf, and maand gc")
                    .remedy("leave out --run-dir, or look for its id: maand rollout list, maand logs show --event command_begin"),
            ))
        }
        (many, true) => {
            let problem = Diagnostic::new(Code::Usage, format!("{run:?} is the beginning of {} runs", many.len()));
            let some: Vec<&str> = many.iter().take(5).map(String::as_str).collect();
            Err(Failure::new(Exit::Usage, problem.note(some.join(", ")).remedy("give more of the id")))
        }
    }
}

/// Logs in `dir` that can have lines that are wanted.
pub(super) fn files(dir: &Path, wanted: &Wanted) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if wanted.may_be_in(name) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn nothing(args: &Args, context: &Context, dir: &Path) -> Failure {
    let dir = context.bucket.shown(dir);
    let problem = match &args.worker {
        Some(worker) => Diagnostic::new(Code::NothingToShow, format!("no log in {dir} is of a worker {worker:?}"))
            .remedy("maand cat workers lists the workers; a log begins with the first thing that concerns its worker"),
        None => Diagnostic::new(Code::NothingToShow, format!("there is no log in {dir}"))
            .remedy("logs begin with the first build or deploy"),
    };
    Failure::new(Exit::Failed, problem)
}

/// Lengths of files, by device and inode.
pub(super) type Lengths = BTreeMap<(u64, u64), u64>;

/// One log with all that was set aside of it.
struct Open<'a> {
    files: VecDeque<PathBuf>,
    lines: Option<Lines<BufReader<Take<File>>>>,
    /// Read no further than this.
    now: Option<&'a Lengths>,
}

impl Open<'_> {
    /// The next line that is one.
    fn next(&mut self) -> std::io::Result<Option<(String, Record)>> {
        loop {
            if self.lines.is_none() {
                let Some(path) = self.files.pop_front() else { return Ok(None) };
                match File::open(&path) {
                    Ok(file) => {
                        let meta = file.metadata()?;
                        // A file that began since is all for who follows.
                        let unknown = if self.files.is_empty() { 0 } else { u64::MAX };
                        let known = |now: &Lengths| now.get(&(meta.dev(), meta.ino())).copied().unwrap_or(unknown);
                        self.lines = Some(BufReader::new(file.take(self.now.map_or(u64::MAX, known))).lines());
                    }
                    // Set aside once more meanwhile, past the last that stays.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            match self.lines.as_mut().and_then(Iterator::next) {
                None => self.lines = None,
                Some(Ok(line)) => {
                    if let Some(record) = Record::parse(&line) {
                        return Ok(Some((line, record)));
                    }
                }
                // Bytes that are no text are no line of ours.
                Some(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {}
                Some(Err(error)) => return Err(error),
            }
        }
    }
}

/// Prints what is wanted of `files`; whether that was anything.
fn show(
    files: &[PathBuf],
    now: Option<&Lengths>,
    wanted: &Wanted,
    args: &Args,
    form: Form,
    context: &Context,
) -> std::io::Result<bool> {
    let blocks = args.format == Format::Human && !form.json;
    let tail = args.tail.map(|tail| tail as usize);
    let most = if blocks { Some(MOST) } else { tail };
    let mut open: Vec<Open> =
        files.iter().map(|path| Open { files: generations(path).into(), lines: None, now }).collect();
    // The next line of each log, the earliest first; each is nearly in order by itself.
    let mut heads = BinaryHeap::new();
    let mut next: Vec<Option<(String, Record)>> = Vec::new();
    for (at, one) in open.iter_mut().enumerate() {
        let head = one.next()?;
        heads.extend(head.iter().map(|(_, record)| Reverse((record.text("ts").to_owned(), at))));
        next.push(head);
    }
    let mut kept: VecDeque<(String, Record)> = VecDeque::new();
    let (mut any, mut dropped) = (false, 0_u64);
    // Not the reader's, whose going away is no error.
    let mut unreadable = None;
    let printed = context.ui.out_long(|to| {
        while let Some(Reverse((_, at))) = heads.pop() {
            let after = match open[at].next() {
                Ok(after) => after,
                Err(error) => {
                    unreadable = Some(error);
                    None
                }
            };
            heads.extend(after.iter().map(|(_, record)| Reverse((record.text("ts").to_owned(), at))));
            let Some((line, record)) = std::mem::replace(&mut next[at], after) else { continue };
            if !wanted.passes(&record) {
                continue;
            }
            any = true;
            match most {
                None => writeln!(to, "{}", form.line(&line, &record))?,
                Some(most) => {
                    kept.push_back((line, record));
                    if kept.len() > most {
                        kept.pop_front();
                        dropped += 1;
                    }
                }
            }
        }
        if blocks {
            let records = kept.into_iter().map(|(_, record)| record).collect();
            for line in blocks::human(records, tail) {
                writeln!(to, "{line}")?;
            }
        } else {
            for (line, record) in &kept {
                writeln!(to, "{}", form.line(line, record))?;
            }
        }
        Ok(())
    });
    if blocks && dropped > 0 {
        context
            .ui
            .warn(format_args!("only the last {MOST} lines are shown, {dropped} before them are not; filter more"));
    }
    match unreadable {
        Some(error) => Err(error),
        None => printed.map(|()| any),
    }
}
