//! Pure: lines of the logs as people read them: first what happened, a line each, then what was run, a block
//! each with its output (`spec/behaviour.md` 8.6).

use shared::text::clean;

use super::record::Record;

/// What was run: its beginning, its output, its end. Any of them may be missing, where a filter left it out
/// or it has not happened yet.
#[derive(Debug)]
struct Block {
    /// The first line of it.
    first: Record,
    begin: Option<Record>,
    output: Vec<Record>,
    end: Option<Record>,
}

/// What of a line says which block it is of. Not `maand`: output comes in by another part of it than what
/// the output is of.
fn key(record: &Record) -> [&str; 4] {
    ["run", "worker", "job", "action"].map(|key| record.text(key))
}

/// Events and blocks, each by time, as lines; of each kind only the last `tail`.
pub fn human(records: Vec<Record>, tail: Option<usize>) -> Vec<String> {
    let mut records = records;
    // Several files, each nearly in order.
    records.sort_by(|a, b| a.text("ts").cmp(b.text("ts")));
    let mut events = Vec::new();
    let mut blocks: Vec<Block> = Vec::new();
    // Where the block of a key is that has not ended.
    let mut open: std::collections::BTreeMap<[String; 4], usize> = std::collections::BTreeMap::new();
    for record in records {
        let of = key(&record).map(str::to_owned);
        let event = record.text("event").to_owned();
        if event == "command_begin" {
            open.insert(of, blocks.len());
            blocks.push(Block { first: record.clone(), begin: Some(record), output: Vec::new(), end: None });
        } else if event == "command_end" || record.is_output() {
            let at = *open.entry(of.clone()).or_insert(blocks.len());
            if at == blocks.len() {
                blocks.push(Block { first: record.clone(), begin: None, output: Vec::new(), end: None });
            }
            if record.is_output() {
                blocks[at].output.push(record);
            } else {
                blocks[at].end = Some(record);
                open.remove(&of);
            }
        } else {
            events.push(line(&record));
        }
    }
    let skipped = |count: usize| tail.map_or(0, |tail| count.saturating_sub(tail));
    let mut lines = events.split_off(skipped(events.len()));
    for block in &blocks[skipped(blocks.len())..] {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        block.lines(&mut lines);
    }
    lines
}

impl Block {
    fn lines(&self, into: &mut Vec<String>) {
        let of = self.begin.as_ref().or(self.end.as_ref()).unwrap_or(&self.first);
        into.push(head(of));
        let what: Vec<&str> =
            ["phase", "action"].map(|key| of.text(key)).into_iter().filter(|w| !w.is_empty()).collect();
        let what = [what.join(" "), of.place()].into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
        if !what.is_empty() {
            into.push(clean(&what));
        }
        if !of.text("cmd").is_empty() {
            into.push(format!("$ {}", clean(of.text("cmd"))));
        }
        into.extend(self.output.iter().map(output));
        into.extend(self.end.iter().map(foot));
    }
}

/// One line for itself, as `--follow` shows it.
pub fn single(record: &Record) -> String {
    if record.is_output() {
        return format!("{} {} {}", time(record), clean(&record.place()), output(record));
    }
    line(record)
}

/// `| text`, or `! text` of standard error.
fn output(record: &Record) -> String {
    let mark = if record.text("stream") == "stderr" { '!' } else { '|' };
    format!("{mark} {}", clean(record.text("msg")))
}

/// `time maand seq=… run=…`.
fn head(record: &Record) -> String {
    let mut head = format!("{} {}", time(record), clean(record.text("maand")));
    if let Some(seq) = record.number("seq") {
        head.push_str(&format!(" seq={seq}"));
    }
    let run = record.text("run");
    if !run.is_empty() {
        head.push_str(&format!(" run={}", clean(&run[..run.floor_char_boundary(RUN)])));
    }
    head
}

/// Characters of a run's id that are shown.
const RUN: usize = 8;

/// An event.
fn line(record: &Record) -> String {
    let mut line = format!("{} {}", head(record), clean(record.text("event")));
    let place = record.place();
    for part in [record.text("phase"), record.text("action"), place.as_str()] {
        if !part.is_empty() {
            line.push_str(&format!(" {}", clean(part)));
        }
    }
    if !record.text("cmd").is_empty() {
        line.push_str(&format!(" $ {}", clean(record.text("cmd"))));
    }
    let how = [exit(record), clean(record.text("reason")), clean(record.text("msg"))];
    let how: Vec<&str> = how.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    if !how.is_empty() {
        line.push_str(&format!(": {}", how.join(", ")));
    }
    line
}

/// `ok 12 ms`, or `FAIL exit=1 12 ms` with the reason.
fn foot(record: &Record) -> String {
    let good = record.number("exit").is_none_or(|exit| exit == 0) && record.text("level") == "info";
    let mut foot = if good { "ok".to_owned() } else { "FAIL".to_owned() };
    for part in [exit(record), clean(record.text("reason")), clean(record.text("msg"))] {
        if !part.is_empty() {
            foot.push_str(&format!(" {part}"));
        }
    }
    foot
}

/// `exit=1 12 ms`, as far as it is known.
fn exit(record: &Record) -> String {
    let exit = record.number("exit").map(|exit| format!("exit={exit}"));
    let took = record.number("duration_ms").map(|ms| format!("{ms} ms"));
    exit.into_iter().chain(took).collect::<Vec<_>>().join(" ")
}

/// `2026-11-24 17:51:51.123`: UTC, as in the file.
fn time(record: &Record) -> String {
    clean(record.text("ts")).replacen('T', " ", 1).trim_end_matches('Z').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str) -> Vec<Record> {
        text.lines().map(|line| Record::parse(line).unwrap()).collect()
    }

    const RUN_OF_TWO: &str = r#"ts=2026-01-01T00:00:01.000Z level=info event=command_begin run=018f0000-1 maand=job seq=3 worker=- cmd="maand job restart api"
ts=2026-01-01T00:00:09.000Z level=info event=command_end run=018f0000-1 maand=job seq=3 worker=- exit=1 duration_ms=8000
ts=2026-01-01T00:00:02.000Z level=info event=command_begin run=018f0000-1 maand=job seq=3 worker=a job=api phase=job_control action=restart cmd="make -s -C jobs/api restart"
ts=2026-01-01T00:00:03.000Z level=info run=018f0000-1 maand=job seq=3 worker=a job=api phase=job_control action=restart stream=stdout msg=one
ts=2026-01-01T00:00:02.500Z level=info run=018f0000-1 maand=job seq=3 worker=b job=api phase=job_control action=restart stream=stderr msg="of b"
ts=2026-01-01T00:00:04.000Z level=error event=command_end run=018f0000-1 maand=job seq=3 worker=a job=api phase=job_control action=restart exit=2 duration_ms=1500 reason="failed with exit code 2"
ts=2026-01-01T00:00:05.000Z level=info event=deploy_skip maand=deploy seq=4 worker=- job=web reason="already promoted""#;

    #[test]
    fn events_first_then_blocks_each_by_time() {
        assert_eq!(
            human(records(RUN_OF_TWO), None).join("\n"),
            "2026-01-01 00:00:05.000 deploy seq=4 deploy_skip web: already promoted\n\
             \n\
             2026-01-01 00:00:01.000 job seq=3 run=018f0000\n\
             $ maand job restart api\n\
             FAIL exit=1 8000 ms\n\
             \n\
             2026-01-01 00:00:02.000 job seq=3 run=018f0000\n\
             job_control restart api@a\n\
             $ make -s -C jobs/api restart\n\
             | one\n\
             FAIL exit=2 1500 ms failed with exit code 2\n\
             \n\
             2026-01-01 00:00:02.500 job seq=3 run=018f0000\n\
             job_control restart api@b\n\
             ! of b"
        );
    }

    #[test]
    fn the_last_blocks_alone_and_the_same_command_twice() {
        let last = human(records(RUN_OF_TWO), Some(1));
        assert_eq!(last.last().unwrap(), "! of b");
        assert_eq!(last.len(), 5, "the last event, and the last block: {last:?}");
        let twice = RUN_OF_TWO.replace("018f0000-1", "018f0000-2").replace("00:00:0", "00:01:0");
        let both = human(records(&format!("{RUN_OF_TWO}\n{twice}")), None);
        assert_eq!(both.iter().filter(|line| line.starts_with("$ make")).count(), 2);
    }

    #[test]
    fn followed_lines_stand_for_themselves() {
        let all = records(RUN_OF_TWO);
        assert_eq!(single(&all[3]), "2026-01-01 00:00:03.000 api@a | one");
        assert_eq!(
            single(&all[5]),
            "2026-01-01 00:00:04.000 job seq=3 run=018f0000 command_end job_control restart api@a: exit=2 1500 ms, \
             failed with exit code 2"
        );
    }
}
