//! Tables and JSON rows from one list of columns, so that the two cannot drift apart.

use comfy_table::{ColumnConstraint, ContentArrangement, Table as Drawn, Width, presets};
use serde_json::{Map, Value};

/// Rows under fixed column names. With `--json` an array of objects with those names.
#[derive(Debug)]
pub struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

impl Table {
    /// No rows yet.
    pub fn new(columns: &'static [&'static str]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; `cells` are in the columns' order.
    pub fn row(&mut self, cells: Vec<Value>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows as JSON.
    pub fn json(&self) -> Value {
        let object = |row: &Vec<Value>| -> Value {
            let names = self.columns.iter().map(|c| (*c).to_owned());
            Value::Object(names.zip(row.iter().cloned()).collect::<Map<_, _>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }

    /// The drawing; when a terminal of `width` columns cannot hold it without breaking words, a record for
    /// each row instead.
    pub fn text(&self, width: Option<u16>) -> String {
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
            ui.out_json(&self.json());
        } else {
            let width = Drawn::new().width();
            ui.out(self.text(width));
        }
    }
}

/// A number without exponent or needless decimals.
pub fn number(value: f64) -> Value {
    // Exact below 2^53; capacities are far below.
    if value.fract() == 0.0 && value.abs() < 9e15 { Value::from(value as i64) } else { Value::from(value) }
}

/// A moment, `2026-11-23 22:15:10 UTC`.
pub fn time(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => format!("{ms} ms"),
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => shared::text::clean(text),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_columns_in_table_and_json() {
        let mut table = Table::new(&["job", "labels", "disabled"]);
        table.row(vec!["api".into(), vec!["a", "b"].into(), false.into()]);
        assert_eq!(table.json(), serde_json::json!([{"job": "api", "labels": ["a", "b"], "disabled": false}]));
        let text = table.text(None);
        assert!(text.contains("JOB") && text.contains("a,b") && text.contains('0'), "{text}");
    }

    #[test]
    fn where_a_table_does_not_fit_there_are_records_and_no_broken_words() {
        let mut table = Table::new(&["job", "worker_ip", "alloc_id", "rollout", "agent"]);
        let id = "a065357b-55bd-8eed-8546-add19a0f8513";
        table.row(vec!["api".into(), "10.0.0.1".into(), id.into(), "promoted".into(), Value::Null]);
        let wide = table.text(Some(120));
        assert!(wide.contains("ROLLOUT") && wide.lines().all(|line| line.chars().count() <= 120), "{wide}");
        assert_eq!(table.text(Some(72)), format!("api  10.0.0.1\n  alloc_id {id}   rollout promoted"));
        assert_eq!(table.text(Some(60)), format!("api  10.0.0.1\n  alloc_id {id}\n  rollout promoted"));
        assert!(table.text(None).contains(id), "piped, lines are as long as they are");
    }

    #[test]
    fn a_worker_cannot_paint_on_the_terminal() {
        let mut table = Table::new(&["tail"]);
        table.row(vec!["\x1b[2Jgone".into()]);
        assert!(!table.text(Some(80)).contains('\x1b'));
    }
}
