//! Tables for a terminal: a header, aligned columns, and a last line with used and limit where there is one.

use std::fmt;

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table of text.
#[derive(Debug, Clone)]
pub struct Table {
    header: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
    footer: Option<String>,
}

impl Table {
    /// A table with these columns. A name that starts with `>` is a column of numbers.
    pub fn new(columns: &[&str]) -> Self {
        let column = |name: &&str| match name.strip_prefix('>') {
            Some(name) => (name.to_owned(), Align::Right),
            None => ((*name).to_owned(), Align::Left),
        };
        Table { header: columns.iter().map(column).collect(), rows: Vec::new(), footer: None }
    }

    /// Adds a row. Cells that are missing are empty, those too many are left out.
    pub fn row(&mut self, mut cells: Vec<String>) {
        cells.resize(self.header.len(), String::new());
        self.rows.push(cells);
    }

    /// Sets the last line.
    pub fn footer(&mut self, text: String) {
        self.footer = Some(text);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.header[column].0.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let names: Vec<String> = self.header.iter().map(|(name, _)| name.clone()).collect();
        for row in std::iter::once(&names).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.header) {
                match align {
                    Align::Left => line.push_str(&format!("{cell:<width$}  ")),
                    Align::Right => line.push_str(&format!("{cell:>width$}  ")),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        self.footer.iter().try_for_each(|footer| writeln!(f, "{footer}"))
    }
}

/// A number of bytes with a binary unit and three digits: `987 B`, `1.21 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A number of seconds with its largest units: `42s`, `3m05s`, `2h00m`, `5d03h`.
pub fn seconds(count: u64) -> String {
    match count {
        0..60 => format!("{count}s"),
        60..3600 => format!("{}m{:02}s", count / 60, count % 60),
        3600..86_400 => format!("{}h{:02}m", count / 3600, count % 3600 / 60),
        _ => format!("{}d{:02}h", count / 86_400, count % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let mut table = Table::new(&["NAME", ">RX", "STATE"]);
        table.row(vec!["web".into(), "5".into(), "up".into()]);
        table.row(vec!["database".into(), "12345".into()]);
        table.footer("2/4095 ports".into());
        let expected = "NAME         RX  STATE\nweb           5  up\ndatabase  12345\n2/4095 ports\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn units_are_for_people() {
        let shown: Vec<_> = [0, 1023, 1024, 10_240, 1_048_575, 1 << 30, u64::MAX].map(bytes).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "10.0 KiB", "1.00 MiB", "1.00 GiB", "16.0 EiB"]);
        let shown: Vec<_> = [0, 59, 60, 3600, 100_000].map(seconds).into();
        assert_eq!(shown, ["0s", "59s", "1m00s", "1h00m", "1d03h"]);
    }
}
