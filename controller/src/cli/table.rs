//! Tables and JSON rows from one list of columns, so that the two cannot drift apart.

pub use crate::clock::time;
use std::io::Write;

use comfy_table::{ColumnConstraint, ContentArrangement, Table as Drawn, Width, presets};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Number, Value};

/// Rows under fixed column names. With `--json` an array of objects with those names.
#[derive(Debug)]
pub struct Table {
    columns: &'static [&'static str],
    rows: Vec<Box<[Cell]>>,
}

/// A value, small: a large bucket has a hundred thousand rows.
#[derive(Debug)]
enum Cell {
    Null,
    Flag(bool),
    Number(Number),
    Text(Box<str>),
    Other(Box<Value>),
}

impl From<Value> for Cell {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Flag(flag),
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::Text(text.into()),
            other => Self::Other(Box::new(other)),
        }
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Other(value) => value.serialize(serializer),
        }
    }
}

/// One row with its columns' names.
struct Named<'a>(&'a [&'static str], &'a [Cell]);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, cell) in self.0.iter().zip(self.1) {
            map.serialize_entry(name, cell)?;
        }
        map.end()
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.iter().map(|row| Named(self.columns, row)))
    }
}

impl Table {
    /// No rows yet.
    pub fn new(columns: &'static [&'static str]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; `cells` are in the columns' order.
    pub fn row(&mut self, cells: Vec<Value>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells.into_iter().map(Cell::from).collect());
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Draws it, fitted to `width` columns when the width is known.
    fn draw(&self, width: Option<u16>, to: &mut dyn Write) -> std::io::Result<()> {
        match self.widths().filter(|widths| fits(widths, width)) {
            Some(widths) => self.draw_plain(&widths, to),
            None => writeln!(to, "{}", self.fitted(width)),
        }
    }

    /// How wide each column is; `None` where a text is not one column for each byte.
    fn widths(&self) -> Option<Vec<usize>> {
        let mut widths: Vec<usize> = self.columns.iter().map(|name| name.len()).collect();
        let mut text = String::new();
        for row in &self.rows {
            for (cell, width) in row.iter().zip(&mut widths) {
                text.clear();
                shown(cell, &mut text);
                if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                    return None;
                }
                *width = text.len().max(*width);
            }
        }
        Some(widths)
    }

    /// What [`Table::fitted`] draws where nothing has to be broken, row by row.
    fn draw_plain(&self, widths: &[usize], to: &mut dyn Write) -> std::io::Result<()> {
        let rule = |fill: &str, between: &str| {
            widths.iter().map(|width| fill.repeat(width + 2)).collect::<Vec<_>>().join(between)
        };
        writeln!(to, "╭{}╮", rule("─", "┬"))?;
        let mut line = String::new();
        let heads: Vec<String> = self.columns.iter().map(|name| name.to_uppercase()).collect();
        for (head, width) in heads.iter().zip(widths) {
            line.push_str(&format!("{} {head:<width$} ", if line.is_empty() { "│" } else { "┆" }));
        }
        writeln!(to, "{line}│\n╞{}╡", rule("═", "╪"))?;
        let mut text = String::new();
        for row in &self.rows {
            line.clear();
            for (cell, width) in row.iter().zip(widths) {
                text.clear();
                shown(cell, &mut text);
                line.push_str(if line.is_empty() { "│ " } else { "┆ " });
                line.push_str(&text);
                line.extend(std::iter::repeat_n(' ', width + 1 - text.len()));
            }
            writeln!(to, "{line}│")?;
        }
        writeln!(to, "╰{}╯", rule("─", "┴"))
    }

    /// The drawing; when a terminal of `width` columns cannot hold it without breaking words, a record for
    /// each row instead.
    fn fitted(&self, width: Option<u16>) -> String {
        let cell = |cell: &Cell| {
            let mut text = String::new();
            shown(cell, &mut text);
            text
        };
        let cells: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        let mut table = Drawn::new();
        table.load_style(presets::UTF8_FULL_CONDENSED.with_rounded_corners());
        table.set_header(self.columns.iter().map(|c| c.to_uppercase()));
        match width {
            None => drop(table.set_content_arrangement(ContentArrangement::Disabled)),
            Some(width) => {
                let least = self.least(&cells);
                // Each column with a space on both sides and a line before it.
                let needed = least.iter().map(|least| least + 3).sum::<usize>() + 1;
                if needed > usize::from(width) {
                    return self.records(&cells, usize::from(width));
                }
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
                let bound = |least: &usize| {
                    let columns = u16::try_from(least + 2).unwrap_or(u16::MAX);
                    ColumnConstraint::LowerBoundary(Width::Fixed(columns))
                };
                table.set_constraints(least.iter().map(bound));
            }
        }
        for row in cells {
            table.add_row(row);
        }
        table.to_string()
    }

    /// The longest word of each column.
    fn least(&self, cells: &[Vec<String>]) -> Vec<usize> {
        let longest = |text: &str| text.split(' ').map(|word| word.chars().count()).max().unwrap_or(0);
        let column = |(at, name): (usize, &&str)| {
            let cells = cells.iter().filter_map(|row| Some(longest(row.get(at)?)));
            cells.max().unwrap_or(0).max(longest(name))
        };
        self.columns.iter().enumerate().map(column).collect()
    }

    /// Each row as a heading of its first two cells, then `column value` of what is not empty.
    fn records(&self, cells: &[Vec<String>], width: usize) -> String {
        let mut lines = Vec::new();
        for row in cells {
            lines.push(row.iter().take(2).map(String::as_str).collect::<Vec<_>>().join("  ").trim_end().to_owned());
            let mut line = String::new();
            for (name, cell) in self.columns.iter().zip(row).skip(2).filter(|(_, cell)| !cell.is_empty()) {
                let field = format!("{name} {cell}");
                if !line.is_empty() && line.chars().count() + 3 + field.chars().count() > width {
                    lines.push(std::mem::take(&mut line));
                }
                line.push_str(if line.is_empty() { "  " } else { "   " });
                line.push_str(&field);
            }
            lines.push(line);
        }
        lines.retain(|line| !line.is_empty());
        lines.join("\n")
    }

    /// Prints the table, or its JSON.
    pub fn print(&self, ui: &super::ui::Ui) {
        if ui.wants_json() {
            ui.out_json(self);
        } else {
            let width = Drawn::new().width();
            // A reader that went away has what it wanted.
            drop(ui.out_long(|to| self.draw(width, to)));
        }
    }
}

/// Whether columns of these widths, with a border behind each and one before all, need no more than `width`.
fn fits(widths: &[usize], width: Option<u16>) -> bool {
    width.is_none_or(|width| widths.iter().map(|width| width + 3).sum::<usize>() < usize::from(width))
}

/// A number without exponent or needless decimals.
pub fn number(value: f64) -> Value {
    // Exact below 2^53; capacities are far below.
    if value.fract() == 0.0 && value.abs() < 9e15 { Value::from(value as i64) } else { Value::from(value) }
}

/// A cell as a table shows it, at the end of `text`.
fn shown(cell: &Cell, text: &mut String) {
    match cell {
        Cell::Null => {}
        Cell::Flag(flag) => text.push(if *flag { '1' } else { '0' }),
        Cell::Number(number) => text.push_str(&number.to_string()),
        Cell::Text(content) => text.push_str(&shared::text::clean(content)),
        Cell::Other(value) => text.push_str(&nested(value)),
    }
}

fn nested(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => shared::text::clean(text),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        Value::Array(items) => items.iter().map(nested).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(table: &Table, width: Option<u16>) -> String {
        let mut drawn = Vec::new();
        table.draw(width, &mut drawn).unwrap();
        String::from_utf8(drawn).unwrap()
    }

    #[test]
    fn the_same_columns_in_table_and_json() {
        let mut table = Table::new(&["job", "labels", "disabled"]);
        table.row(vec!["api".into(), vec!["a", "b"].into(), false.into()]);
        let json = serde_json::to_value(&table).unwrap();
        assert_eq!(json, serde_json::json!([{"job": "api", "labels": ["a", "b"], "disabled": false}]));
        let text = text(&table, None);
        assert!(text.contains("JOB") && text.contains("a,b") && text.contains('0'), "{text}");
    }

    #[test]
    fn a_table_looks_the_same_whoever_draws_it() {
        let mut table = Table::new(&["job", "n", "nothing"]);
        for n in [1, 20, 300_000] {
            table.row(vec!["x".repeat(n % 13).into(), n.into(), Value::Null]);
        }
        for width in [None, Some(200), Some(40)] {
            assert_eq!(text(&table, width), format!("{}\n", table.fitted(width)));
        }
        assert!(!fits(&table.widths().unwrap(), Some(20)), "where it has to be broken, it is");
        table.row(vec!["zwölf".into(), 1.into(), "漢字".into()]);
        assert_eq!(table.widths(), None, "a letter may be wider than its bytes tell");
        assert_eq!(text(&table, None), format!("{}\n", table.fitted(None)));
    }

    #[test]
    fn where_a_table_does_not_fit_there_are_records_and_no_broken_words() {
        let mut table = Table::new(&["job", "worker_ip", "alloc_id", "rollout", "agent"]);
        let id = "a065357b-55bd-8eed-8546-add19a0f8513";
        table.row(vec!["api".into(), "10.0.0.1".into(), id.into(), "promoted".into(), Value::Null]);
        let wide = text(&table, Some(120));
        assert!(wide.contains("ROLLOUT") && wide.lines().all(|line| line.chars().count() <= 120), "{wide}");
        assert_eq!(text(&table, Some(72)), format!("api  10.0.0.1\n  alloc_id {id}   rollout promoted\n"));
        assert_eq!(text(&table, Some(60)), format!("api  10.0.0.1\n  alloc_id {id}\n  rollout promoted\n"));
        assert!(text(&table, None).contains(id), "piped, lines are as long as they are");
    }

    #[test]
    fn a_worker_cannot_paint_on_the_terminal() {
        let mut table = Table::new(&["tail"]);
        table.row(vec!["\x1b[2Jgone".into()]);
        assert!(!text(&table, Some(80)).contains('\x1b'));
    }
}
