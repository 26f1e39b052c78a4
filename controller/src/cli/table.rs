//! Tables and JSON rows from one list of columns, so that the two cannot drift apart.

use comfy_table::{ContentArrangement, Table as Drawn, presets};
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

    /// The drawing, fitted to `width` columns when the width is known.
    pub fn text(&self, width: Option<u16>) -> String {
        let mut table = Drawn::new();
        table
            .load_style(presets::UTF8_FULL_CONDENSED.with_rounded_corners())
            .set_content_arrangement(ContentArrangement::Dynamic);
        match width {
            Some(width) => {
                table.set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table.set_header(self.columns.iter().map(|c| c.to_uppercase()));
        for row in &self.rows {
            table.add_row(row.iter().map(cell));
        }
        table.to_string()
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
    fn a_worker_cannot_paint_on_the_terminal() {
        let mut table = Table::new(&["tail"]);
        table.row(vec!["\x1b[2Jgone".into()]);
        assert!(!table.text(Some(80)).contains('\x1b'));
    }
}
