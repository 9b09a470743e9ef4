//! The figures of one run as rows: a table for a person, JSON for a program. Computes nothing.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Whose.
    pub system: String,
    /// Of what, and what of it: `1 KiB pipelined, accepted p50`.
    pub case: String,
    /// Whether every node had synced what it answered for before it did.
    pub durable: bool,
    /// The figure.
    pub value: f64,
    /// What it counts.
    pub unit: String,
}

/// The figures of one case, in the table's order.
#[derive(Clone, Debug)]
pub struct Column {
    /// The case.
    pub case: String,
    /// Figures: what, unit, value.
    pub figures: Vec<(String, &'static str, f64)>,
}

/// All figures of one run.
#[derive(Clone, Debug)]
pub struct Table {
    /// The disk's sync, the middle of what was found before each case, in microseconds.
    pub f_us: f64,
    /// The disk was busy with somebody else's work: no figure may be compared with anything.
    pub void: bool,
    /// Cases.
    pub columns: Vec<Column>,
}

#[derive(Serialize)]
struct Latest {
    f_us: f64,
    void: bool,
    rows: Vec<Row>,
}

impl Table {
    fn rows(&self) -> Vec<Row> {
        let row = |case: &str, (what, unit, value): &(String, &'static str, f64)| Row {
            system: "waypost".to_owned(),
            case: format!("{case}, {what}"),
            durable: true,
            value: (value * 1000.0).round() / 1000.0,
            unit: (*unit).to_owned(),
        };
        self.columns.iter().flat_map(|column| column.figures.iter().map(|f| row(&column.case, f))).collect()
    }

    /// Writes `latest.json` into `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join("latest.json");
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let latest = Latest { f_us: self.f_us.round(), void: self.void, rows: self.rows() };
        let text = serde_json::to_string_pretty(&latest)? + "\n";
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// A line for each figure, a column for each case, in Markdown.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines: Vec<(String, &str)> = Vec::new();
        for (what, unit, _) in self.columns.iter().flat_map(|column| &column.figures) {
            if !lines.iter().any(|(known, of)| known == what && of == unit) {
                lines.push((what.clone(), unit));
            }
        }
        let labels: Vec<String> = lines.iter().map(|(what, unit)| format!("{what}, {unit}")).collect();
        let wide = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
        let head: Vec<&str> = self.columns.iter().map(|column| column.case.as_str()).collect();
        let mut text = format!("| {:wide$} | {} |\n|---|{}\n", "", head.join(" | "), "---:|".repeat(head.len()));
        for ((what, unit), label) in lines.iter().zip(&labels) {
            let cells = self.columns.iter().zip(&head).map(|(column, head)| {
                let found = column.figures.iter().find(|(known, of, _)| known == what && of == unit);
                format!("{:>1$}", found.map_or_else(String::new, |(.., value)| number(*value)), head.len())
            });
            text += &format!("| {label:wide$} | {} |\n", cells.collect::<Vec<_>>().join(" | "));
        }
        text
    }
}

/// Three digits, or all before the point.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let column = |case: &str, unit: &'static str, value: f64| Column {
            case: case.to_owned(),
            figures: vec![("rate".to_owned(), unit, value)],
        };
        Table {
            f_us: 190.4,
            void: false,
            columns: vec![column("small", "1/s", 1234.5), column("large", "MB/s", 7.126)],
        }
    }

    #[test]
    fn a_figure_stands_in_its_cases_column_alone() {
        let text = table().text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[2].split('|').map(str::trim).collect::<Vec<_>>(), ["", "rate, 1/s", "1234", "", ""]);
        assert_eq!(lines[3].split('|').map(str::trim).collect::<Vec<_>>(), ["", "rate, MB/s", "", "7.13", ""]);
    }

    #[test]
    fn the_file_names_every_figure() {
        let dir = tempfile::tempdir().unwrap();
        table().save(dir.path()).unwrap();
        let text = fs::read(dir.path().join("latest.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&json["f_us"], &json["void"]), (&190.0.into(), &false.into()));
        let row = serde_json::json!(
            {"system": "waypost", "case": "large, rate", "durable": true, "value": 7.126, "unit": "MB/s"});
        assert_eq!(json["rows"][1], row);
    }
}
