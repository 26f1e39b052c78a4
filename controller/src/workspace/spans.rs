//! Editing a JSON text that somebody wrote by hand: where each value stands, and new text for some of them.
//! Whatever is not edited stays byte for byte: order, indentation, line ends, fields that nobody here knows.
//!
//! Only for text that serde_json has parsed; for any other every function answers `None`.

use std::ops::Range;

/// A field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, with escapes resolved.
    pub name: String,
    /// Where the name stands, with its quotes.
    pub key: Range<usize>,
    /// Where the value stands.
    pub value: Range<usize>,
}

/// New text in the place of old; an empty place is an insertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Bytes that go.
    pub at: Range<usize>,
    /// What comes in their place.
    pub text: String,
}

/// Lines that edits change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// Number of the first, from 1.
    pub line: usize,
    /// As they are.
    pub before: Vec<String>,
    /// As they become.
    pub after: Vec<String>,
}

/// Where the document's one value stands.
pub fn document(text: &str) -> Option<Range<usize>> {
    let start = blank(text, 0);
    let end = value_end(text, start)?;
    (blank(text, end) == text.len()).then_some(start..end)
}

/// Where each element of the list in `of` stands.
pub fn elements(text: &str, of: &Range<usize>) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::new();
    each(text, of, (b'[', b']'), |at| {
        let end = value_end(text, at)?;
        found.push(at..end);
        Some(end)
    })?;
    Some(found)
}

/// The fields of the object in `of`, in their order; a name may be there twice.
pub fn members(text: &str, of: &Range<usize>) -> Option<Vec<Member>> {
    let mut found = Vec::new();
    each(text, of, (b'{', b'}'), |at| {
        let key = at..string_end(text, at)?;
        let name = serde_json::from_str(text.get(key.clone())?).ok()?;
        let colon = blank(text, key.end);
        let start = blank(text, (byte(text, colon)? == b':').then_some(colon + 1)?);
        let end = value_end(text, start)?;
        found.push(Member { name, key, value: start..end });
        Some(end)
    })?;
    Some(found)
}

/// Edits that give fields of the object in `of` new values, each a JSON text. A field that is there keeps its
/// place; others come behind the last one, set apart as that is from the one before it.
pub fn set(text: &str, of: &Range<usize>, fields: &[(&str, String)]) -> Option<Vec<Edit>> {
    let there = members(text, of)?;
    let last = there.last()?;
    let colon = &text[last.key.end..last.value.start];
    let between = match there.len().checked_sub(2).map(|before| &there[before]) {
        Some(before) => text[before.value.end..last.key.start].to_owned(),
        None => match &text[of.start + 1..last.key.start] {
            lines if lines.contains('\n') => format!(",{lines}"),
            _ if colon.len() > 1 => ", ".to_owned(),
            _ => ",".to_owned(),
        },
    };
    let mut edits = Vec::new();
    let mut added = String::new();
    for (name, value) in fields {
        // Of two with one name the last one counts.
        match there.iter().rfind(|member| member.name == *name) {
            Some(member) => edits.push(Edit { at: member.value.clone(), text: value.clone() }),
            None => added.push_str(&format!("{between}{}{colon}{value}", serde_json::Value::from(*name))),
        }
    }
    if !added.is_empty() {
        edits.push(Edit { at: last.value.end..last.value.end, text: added });
    }
    edits.sort_by_key(|edit| (edit.at.start, edit.at.end));
    Some(edits)
}

/// The text with `edits`, which are in order and do not overlap.
pub fn apply(text: &str, edits: &[Edit]) -> String {
    let (mut edited, mut at) = (String::with_capacity(text.len() + 64), 0);
    for edit in edits {
        edited.push_str(&text[at..edit.at.start]);
        edited.push_str(&edit.text);
        at = edit.at.end;
    }
    edited.push_str(&text[at..]);
    edited
}

/// The lines that `edits` change, as a reader compares them.
pub fn hunks(text: &str, edits: &[Edit]) -> Vec<Hunk> {
    let mut groups: Vec<(Range<usize>, Vec<Edit>)> = Vec::new();
    for edit in edits {
        let start = text[..edit.at.start].rfind('\n').map_or(0, |at| at + 1);
        let end = text[edit.at.end..].find('\n').map_or(text.len(), |at| edit.at.end + at);
        match groups.last_mut().filter(|(lines, _)| start <= lines.end) {
            Some((lines, edits)) => {
                lines.end = end.max(lines.end);
                edits.push(edit.clone());
            }
            None => groups.push((start..end, vec![edit.clone()])),
        }
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect();
    let hunk = |(at, edits): (Range<usize>, Vec<Edit>)| {
        let moved = |edit: Edit| Edit { at: edit.at.start - at.start..edit.at.end - at.start, ..edit };
        let edits: Vec<Edit> = edits.into_iter().map(moved).collect();
        let before = &text[at.clone()];
        let line = text[..at.start].matches('\n').count() + 1;
        Hunk { line, before: lines(before), after: lines(&apply(before, &edits)) }
    };
    groups.into_iter().map(hunk).collect()
}

fn byte(text: &str, at: usize) -> Option<u8> {
    text.as_bytes().get(at).copied()
}

/// Behind the blanks at `at`.
fn blank(text: &str, at: usize) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

/// Calls `one` where each item of a list or an object begins; it says where the item ends.
fn each(
    text: &str,
    of: &Range<usize>,
    (open, close): (u8, u8),
    mut one: impl FnMut(usize) -> Option<usize>,
) -> Option<()> {
    if byte(text, of.start)? != open {
        return None;
    }
    let mut at = blank(text, of.start + 1);
    if byte(text, at)? == close {
        return Some(());
    }
    loop {
        at = blank(text, one(at)?);
        match byte(text, at)? {
            b',' => at = blank(text, at + 1),
            end if end == close => return Some(()),
            _ => return None,
        }
    }
}

/// Behind the text that begins at `at`.
fn string_end(text: &str, at: usize) -> Option<usize> {
    if byte(text, at)? != b'"' {
        return None;
    }
    let mut at = at + 1;
    loop {
        match byte(text, at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Behind the value that begins at `at`, however deep it is.
fn value_end(text: &str, mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match byte(text, at)? {
            b'"' => at = string_end(text, at)?,
            b'[' | b'{' => {
                depth += 1;
                at += 1;
            }
            b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' if depth > 0 => at += 1,
            _ => {
                let word = text.as_bytes()[at..].iter().take_while(|byte| !b",:]} \t\n\r[{\"".contains(byte)).count();
                at += (word > 0).then_some(word)?;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn edited(text: &str, fields: &[(&str, String)]) -> String {
        let list = document(text).unwrap();
        let first = elements(text, &list).unwrap().remove(0);
        apply(text, &set(text, &first, fields).unwrap())
    }

    #[test]
    fn a_field_that_is_there_keeps_its_place_and_all_else_is_as_it_was() {
        let text = "[\r\n\t{ \"memory\" :  \"1 gb\" , \"x\\u0079\": [1.50, {\"memory\": \"no\"}],\r\n\t  \"host\":\"a\" }\r\n]\r\n\r\n";
        let after = edited(text, &[("memory", "\"2 mb\"".to_owned())]);
        assert_eq!(after, text.replace("\"1 gb\"", "\"2 mb\""));
        let after = edited(text, &[("xy", "7".to_owned())]);
        assert_eq!(after, text.replace("[1.50, {\"memory\": \"no\"}]", "7"), "names are compared, not their spelling");
    }

    #[test]
    fn a_new_field_is_set_apart_as_its_neighbours_are() {
        let both = [("memory", "1".to_owned()), ("cpu", "2".to_owned())];
        for (before, after) in [
            (r#"[{"host":"a"}]"#, r#"[{"host":"a","memory":1,"cpu":2}]"#),
            (r#"[{"host": "a"}]"#, r#"[{"host": "a", "memory": 1, "cpu": 2}]"#),
            (r#"[ { "host": "a" } ]"#, r#"[ { "host": "a", "memory": 1, "cpu": 2 } ]"#),
            (
                "[\n  {\n    \"host\": \"a\"\n  }\n]",
                "[\n  {\n    \"host\": \"a\",\n    \"memory\": 1,\n    \"cpu\": 2\n  }\n]",
            ),
            ("[{ \"host\": \"a\"\n , \"cpu\": 0 }]", "[{ \"host\": \"a\"\n , \"cpu\": 2\n , \"memory\": 1 }]"),
        ] {
            assert_eq!(edited(before, &both), after, "{before}");
        }
    }

    #[test]
    fn of_two_fields_with_one_name_the_one_that_counts_is_set() {
        let after = edited(r#"[{"memory": 1, "host": "a", "memory": 2}]"#, &[("memory", "3".to_owned())]);
        assert_eq!(after, r#"[{"memory": 1, "host": "a", "memory": 3}]"#);
    }

    #[test]
    fn a_hunk_is_the_lines_that_change() {
        let text = "[\n  { \"host\": \"a\", \"memory\": 1, \"cpu\": 1 },\n  { \"host\": \"b\" }\n]\n";
        let list = elements(text, &document(text).unwrap()).unwrap();
        let both = [("memory", "7".to_owned()), ("cpu", "8".to_owned())];
        let edits: Vec<Edit> = list.iter().flat_map(|of| set(text, of, &both).unwrap()).collect();
        let hunks = hunks(text, &edits);
        // Lines one below the other are one hunk.
        assert_eq!(hunks.len(), 2);
        assert_eq!((hunks[0].line, hunks[1].line), (2, 3));
        assert_eq!(hunks[0].after, ["  { \"host\": \"a\", \"memory\": 7, \"cpu\": 8 },"]);
        assert_eq!(hunks[1].before, ["  { \"host\": \"b\" }"]);
        assert_eq!(hunks[1].after, ["  { \"host\": \"b\", \"memory\": 7, \"cpu\": 8 }"]);
    }

    /// Any JSON value, written with any blanks.
    fn written(value: &Value, blanks: &mut impl Iterator<Item = &'static str>, into: &mut String) {
        let mut space = |into: &mut String| into.push_str(blanks.next().unwrap());
        space(into);
        match value {
            Value::Array(items) => {
                into.push('[');
                for (n, item) in items.iter().enumerate() {
                    into.push_str(if n > 0 { "," } else { "" });
                    written(item, blanks, into);
                }
                into.push_str(blanks.next().unwrap());
                into.push(']');
            }
            Value::Object(fields) => {
                into.push('{');
                for (n, (name, item)) in fields.iter().enumerate() {
                    into.push_str(if n > 0 { "," } else { "" });
                    into.push_str(blanks.next().unwrap());
                    into.push_str(&Value::from(name.as_str()).to_string());
                    into.push_str(blanks.next().unwrap());
                    into.push(':');
                    written(item, blanks, into);
                }
                into.push_str(blanks.next().unwrap());
                into.push('}');
            }
            other => into.push_str(&other.to_string()),
        }
        into.push_str(blanks.next().unwrap());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            Just(Value::from("\\\"]},[{:")),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_set_is_there_and_nothing_else_has_changed(
            before in prop::collection::vec((any::<String>(), any_value()), 0..4),
            spaces in prop::collection::vec(prop::sample::select(vec!["", " ", "\n  ", "\r\n\t"]), 8),
            has in any::<bool>(),
            others in prop::collection::vec(any_value(), 0..3),
        ) {
            let mut object: serde_json::Map<String, Value> = before.into_iter().collect();
            object.insert("host".to_owned(), json!("a"));
            if has {
                object.insert("memory".to_owned(), json!({"odd": [1]}));
            }
            let mut list = others;
            list.push(Value::Object(object));
            let mut text = String::new();
            written(&Value::from(list.clone()), &mut spaces.iter().copied().cycle(), &mut text);

            let place = elements(&text, &document(&text).unwrap()).unwrap();
            prop_assert_eq!(place.len(), list.len());
            for (at, value) in place.iter().zip(&list) {
                prop_assert_eq!(&serde_json::from_str::<Value>(&text[at.clone()]).unwrap(), value);
            }
            let edits = set(&text, place.last().unwrap(), &[("memory", "\"5 mb\"".into()), ("cpu", "\"6 mhz\"".into())]);
            let edits = edits.unwrap();
            let after = apply(&text, &edits);
            let last = list.len() - 1;
            list[last]["memory"] = json!("5 mb");
            list[last]["cpu"] = json!("6 mhz");
            prop_assert_eq!(serde_json::from_str::<Value>(&after).unwrap(), Value::from(list));
            // Taken back, it is the text of before.
            let mut back = after;
            for edit in edits.iter().rev() {
                let moved: usize = edits.iter().take_while(|e| e.at.start < edit.at.start).map(|e| e.text.len()).sum();
                let gone: usize = edits.iter().take_while(|e| e.at.start < edit.at.start).map(|e| e.at.len()).sum();
                let start = edit.at.start + moved - gone;
                back.replace_range(start..start + edit.text.len(), &text[edit.at.clone()]);
            }
            prop_assert_eq!(back, text);
        }

        #[test]
        fn no_text_makes_it_fail(text in "[\\[\\]{}\",:\\\\a1 \n]{0,40}") {
            if let Some(list) = document(&text) {
                drop(elements(&text, &list).map(|all| all.iter().map(|of| members(&text, of)).collect::<Vec<_>>()));
                drop(set(&text, &list, &[("a", "1".to_owned())]));
            }
        }
    }
}
