//! `docs/conformance.md` and the tests agree.
//!
//! Every test that the file names is there; every test that has a row's number in its name is named in that row;
//! and no requirement is without a test, unless the file says why it is not kept. With `UPDATE_CONFORMANCE=1`, the
//! tests' column is written anew from the sources; what is kept is for people to say.

#![allow(clippy::unwrap_used)] // a test that panics says so

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The rows of sections A to H.
const ROWS: std::ops::RangeInclusive<u32> = 1..=88;

/// A row of the file.
#[derive(Debug)]
struct Row {
    number: u32,
    priority: String,
    /// What stands before the tests, and after them.
    requirement: [String; 2],
    tests: BTreeSet<String>,
    status: String,
}

impl Row {
    /// Reads `| # | priority | requirement | source | tests | status |`; `None` for all other lines.
    fn parse(line: &str) -> Option<Row> {
        let cells: Vec<_> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let number = cells.first()?.parse().ok()?;
        let [_, priority, what, source, tests, status] = cells[..] else {
            panic!("row {number} has {} cells", cells.len())
        };
        Some(Row {
            number,
            priority: priority.to_owned(),
            requirement: [what.to_owned(), source.to_owned()],
            tests: tests.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
            status: status.to_owned(),
        })
    }

    fn line(&self) -> String {
        let Row { number, priority, requirement: [what, source], tests, status } = self;
        let tests: Vec<_> = tests.iter().map(|test| format!("`{test}`")).collect();
        format!("| {number} | {priority} | {what} | {source} | {} | {status} |", tests.join(", "))
    }

    fn is_kept(&self) -> bool {
        self.status == "kept"
    }
}

/// The numbers in a test's name: `row_7_`, `rows_45_51_and_52_`, `rows_30_to_33_`.
fn numbers(test: &str) -> Vec<u32> {
    let (several, one) = (test.strip_prefix("rows_"), test.strip_prefix("row_"));
    let Some(rest) = several.or(one) else { return Vec::new() };
    let mut numbers: Vec<u32> = Vec::new();
    let (mut through, mut joint) = (false, true);
    for word in rest.split('_') {
        match (word, word.parse::<u32>()) {
            ("and", _) => joint = true,
            ("to", _) => through = true,
            (_, Ok(number)) if through => {
                numbers.extend(numbers.last().map_or(number, |last| last + 1)..=number);
                break;
            }
            (_, Ok(number)) if joint => numbers.push(number),
            _ => break,
        }
        joint = joint && several.is_some() || word == "and";
    }
    numbers
}

/// The names of all functions in the sources.
fn functions(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let starts = source.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
            names.extend(
                starts.map(|rest| rest.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect()),
            );
        }
    }
}

#[test]
fn every_row_has_its_tests_and_every_test_its_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("docs/conformance.md");
    let text = fs::read_to_string(&file).unwrap();
    let mut names = BTreeSet::new();
    functions(&root.join("tests"), &mut names);
    functions(&root.join("src"), &mut names);
    let mut by_row: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for name in &names {
        for number in numbers(name) {
            by_row.entry(number).or_default().insert(name.clone());
        }
    }

    let mut rows: Vec<Row> = text.lines().filter_map(Row::parse).collect();
    assert_eq!(
        rows.iter().map(|row| row.number).collect::<Vec<_>>(),
        ROWS.collect::<Vec<_>>(),
        "all rows, in order"
    );
    if std::env::var_os("UPDATE_CONFORMANCE").is_some() {
        for row in &mut rows {
            row.tests.retain(|test| names.contains(test));
            row.tests.extend(by_row.get(&row.number).cloned().unwrap_or_default());
        }
        let mut updated = rows.iter().map(Row::line);
        let lines = text.lines().map(|line| match Row::parse(line) {
            Some(_) => updated.next().unwrap(),
            None => line.to_owned(),
        });
        fs::write(&file, lines.map(|line| line + "\n").collect::<String>()).unwrap();
    }

    let mut wrong = Vec::new();
    for row in &rows {
        let Row { number, priority, tests, status, .. } = row;
        if !["MU", "SH", "BE"].contains(&priority.as_str()) {
            wrong.push(format!("row {number} has priority {priority:?}"));
        }
        if !row.is_kept() && status.strip_prefix("not kept: ").is_none_or(str::is_empty) {
            wrong.push(format!("row {number}: {status:?} is neither \"kept\" nor \"not kept: WHY\""));
        }
        if row.is_kept() && tests.is_empty() {
            wrong.push(format!("row {number} is kept without a test"));
        }
        for test in tests.iter().filter(|test| !names.contains(*test)) {
            wrong.push(format!("row {number} names {test}, which is not there"));
        }
        for test in by_row.remove(number).unwrap_or_default().difference(tests) {
            wrong.push(format!("row {number} does not name {test}"));
        }
    }
    for (number, tests) in by_row {
        wrong.push(format!("there is no row {number}, for {tests:?}"));
    }
    assert!(wrong.is_empty(), "docs/conformance.md:\n{}", wrong.join("\n"));
}

#[test]
fn a_tests_name_says_its_rows() {
    assert_eq!(numbers("row_07_a_station_moves"), [7]);
    assert_eq!(numbers("row_46_and_68_the_same_ports"), [46, 68]);
    assert_eq!(numbers("rows_30_to_33_addresses"), [30, 31, 32, 33]);
    assert_eq!(numbers("rows_45_51_and_52_mapping"), [45, 51, 52]);
    assert_eq!(numbers("row_73_8_bytes_and_2_more"), [73]);
    assert!(numbers("rows_of_a_table").is_empty() && numbers("a_row_7").is_empty());
}
