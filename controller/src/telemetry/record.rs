//! Pure: a line of the logs, read again, and which lines are wanted (`spec/behaviour.md` 8.6).

use serde_json::{Map, Value};

/// A line as its fields. Lines of both forms can be in one file: `log_format` may have been changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    fields: Map<String, Value>,
}

impl Record {
    /// Reads a line of either form; `None` when it is neither, as where a full disk cut it.
    pub fn parse(line: &str) -> Option<Self> {
        let fields = if line.starts_with('{') { serde_json::from_str(line).ok()? } else { key_values(line)? };
        let record = Self { fields };
        (!record.text("ts").is_empty()).then_some(record)
    }

    /// A field as text; empty when it is not there.
    pub fn text(&self, key: &str) -> &str {
        self.fields.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// A field that is a number.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.fields.get(key).and_then(Value::as_i64)
    }

    /// Whether it is a line of output.
    pub fn is_output(&self) -> bool {
        !self.text("stream").is_empty()
    }

    /// `job@worker`, the one of them that is there, or nothing.
    pub fn place(&self) -> String {
        match (self.text("job"), self.text("worker")) {
            ("", "-" | "") => String::new(),
            (job, "-" | "") => job.to_owned(),
            ("", worker) => worker.to_owned(),
            (job, worker) => format!("{job}@{worker}"),
        }
    }

    /// All of it, for `--json`.
    pub fn json(&self) -> String {
        Value::Object(self.fields.clone()).to_string()
    }
}

/// Fields that are numbers.
const NUMBERS: [&str; 3] = ["seq", "exit", "duration_ms"];

/// `key=value key="va lue" …`, in which only `"` is escaped.
fn key_values(line: &str) -> Option<Map<String, Value>> {
    let mut fields = Map::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !is_key {
            return None;
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = after.find(' ').unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        let number = NUMBERS.contains(&key).then(|| value.parse::<i64>().ok()).flatten();
        fields.insert(key.to_owned(), number.map_or_else(|| Value::from(value), Value::from));
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    Some(fields)
}

/// The text up to the closing quote, and what is behind that.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            // The text may itself end with a backslash.
            '\\' if text[at + 1..] == *"\"" => value.push('\\'),
            '\\' if characters.next_if(|(_, next)| *next == '"').is_some() => value.push('"'),
            other => value.push(other),
        }
    }
    None
}

/// Which lines are wanted; an empty one lets all through.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Worker, or its beginning.
    pub worker: Option<String>,
    /// Run, or its beginning.
    pub run: Option<String>,
    /// Job, or its beginning.
    pub job: Option<String>,
    /// Phase, exactly.
    pub phase: Option<String>,
    /// Event, exactly.
    pub event: Option<String>,
}

impl Wanted {
    /// Whether a line passes.
    pub fn passes(&self, record: &Record) -> bool {
        let begins = |wanted: &Option<String>, key| {
            let value = record.text(key);
            wanted
                .as_ref()
                .is_none_or(|wanted| value.split(',').any(|member| member.trim().starts_with(wanted.as_str())))
        };
        let is = |wanted: &Option<String>, key| wanted.as_ref().is_none_or(|wanted| record.text(key) == wanted);
        begins(&self.worker, "worker")
            && begins(&self.run, "run")
            && begins(&self.job, "job")
            && is(&self.phase, "phase")
            && is(&self.event, "event")
    }

    /// Whether a file of that name can have lines that pass: `maand.log` or `<worker>.log`.
    pub fn may_be_in(&self, file: &str) -> bool {
        let Some(stem) = file.strip_suffix(".log") else { return false };
        self.worker.as_ref().is_none_or(|worker| stem != "maand" && stem.starts_with(worker.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_the_same_line() {
        let kv = r#"ts=2026-01-01T00:00:00.000Z level=info maand=job seq=4 worker=10.0.0.1 job=api cmd="echo \"a\" b=c" exit=1 msg="""#;
        let json = r#"{"ts":"2026-01-01T00:00:00.000Z","level":"info","maand":"job","seq":4,"worker":"10.0.0.1","job":"api","cmd":"echo \"a\" b=c","exit":1,"msg":""}"#;
        let record = Record::parse(kv).unwrap();
        assert_eq!(Some(&record), Record::parse(json).as_ref());
        assert_eq!((record.text("cmd"), record.number("exit")), ("echo \"a\" b=c", Some(1)));
        assert_eq!((record.place().as_str(), record.json().as_str()), ("api@10.0.0.1", json));
    }

    #[test]
    fn what_is_no_line_is_none() {
        for broken in ["", "ts", "x", "ts=1 msg=\"open", "ts=1 Msg=a", "{\"ts\":1", "{}", "msg=a", "ts=1  msg=a"] {
            assert_eq!(Record::parse(broken), None, "{broken:?}");
        }
        assert_eq!(Record::parse("ts=1 msg=\"a \\\"").unwrap().text("msg"), "a \\");
    }

    #[test]
    fn filters_are_prefixes_or_exact_as_the_guide_has_it() {
        let record =
            Record::parse("ts=1 event=deploy_skip run=018f worker=10.0.0.12 job=api,web phase=rollout").unwrap();
        let wanted = |worker: &str, job: &str, phase: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Wanted { worker: some(worker), job: some(job), phase: some(phase), ..Wanted::default() }.passes(&record)
        };
        assert!(wanted("", "", "") && wanted("10.0.0.1", "we", "rollout") && wanted("10.0.0.12", "api", ""));
        assert!(!wanted("0.0", "", "") && !wanted("", "b", "") && !wanted("", "", "roll"));
        let of = Wanted { worker: Some("10.0.0.1".into()), ..Wanted::default() };
        assert!(of.may_be_in("10.0.0.12.log") && !of.may_be_in("maand.log") && !of.may_be_in("10.0.0.1.txt"));
        assert!(Wanted::default().may_be_in("maand.log"));
    }
}
