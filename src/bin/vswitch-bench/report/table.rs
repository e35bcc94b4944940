//! The report as a table, for a terminal and as Markdown.

use std::fmt::Write as _;

use super::{CaseReport, PeerReport, Report, Verdict};
use crate::case::Bound;
use crate::load::Sample;
use crate::stats::spread;

/// The columns that every case has, after its name.
const COLUMNS: [&str; 7] = ["switch", "median", "spread", "of kernel", "p99", "CPU-s", "own"];

/// Others may use so much of a machine that counts as quiet.
const QUIET_PERCENT: f64 = 10.0;

/// The report for a terminal.
pub(crate) fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut say = |line: &str| writeln!(text, "{}", line.trim_end()).unwrap_or_default();
    for case in &report.cases {
        let what = case.case().map_or("", |case| case.what);
        say(&format!("{}: {what}, {}, CPU-s per {}", case.name, case.unit, case.work));
        let mut rows = vec![COLUMNS.map(str::to_owned)];
        rows.extend(case.peers.iter().map(|peer| cells(case, peer)));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
        for (number, row) in rows.iter().enumerate() {
            let mut line = format!("  {:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(widths).skip(1) {
                line.push_str(&format!("  {cell:>width$}"));
            }
            let peer = number.checked_sub(1).map(|at| &case.peers[at]);
            say(&format!(
                "{line}  {}",
                peer.map_or_else(|| "promised".to_owned(), |peer| remarks(case, peer))
            ));
        }
        say("");
    }
    for line in facts(report) {
        say(&line);
    }
    text
}

/// The report as Markdown: a table of all cases, and what it was measured with.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    let mut say = |line: &str| writeln!(text, "{line}").unwrap_or_default();
    say(&format!("| case | {} | promised |", COLUMNS.join(" | ")));
    say(&format!("|---|---|{}---|", "---:|".repeat(COLUMNS.len() - 1)));
    for case in &report.cases {
        let mut name = format!("`{}`, {}, CPU-s per {}", case.name, case.unit, case.work);
        for peer in &case.peers {
            let cells = cells(case, peer).join(" | ");
            say(&format!("| {} | {cells} | {} |", std::mem::take(&mut name), remarks(case, peer)));
        }
    }
    say("");
    for line in facts(report) {
        say(&format!("- {line}"));
    }
    text
}

/// What stands around the table in a document with more in it.
const BEGIN: &str = "<!-- vswitch-bench -->\n";
const END: &str = "<!-- /vswitch-bench -->";

/// A document with the table in its place: between two comments, if it has them; else it is the whole document.
pub(crate) fn placed(document: &str, table: &str) -> String {
    let around =
        document.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    around.map_or_else(|| table.to_owned(), |(before, after)| format!("{before}{BEGIN}{table}{END}{after}"))
}

/// What stands in the columns.
fn cells(case: &CaseReport, peer: &PeerReport) -> [String; COLUMNS.len()] {
    let values: Vec<f64> = peer.samples.iter().map(|sample| sample.value).collect();
    let median = |aspect: fn(&Sample) -> Option<f64>| number(peer.median(aspect));
    [
        peer.peer.clone(),
        number(peer.value()),
        spread(&values).map_or_else(dash, |spread| format!("±{:.0} %", spread * 100.0)),
        case.of_kernel(peer).map_or_else(dash, |ratio| format!("{ratio:.2}")),
        median(|sample| sample.p99),
        median(|sample| sample.cpu),
        median(|sample| sample.own_cpu),
    ]
}

/// What was promised and whether it was held, or what went wrong.
fn remarks(case: &CaseReport, peer: &PeerReport) -> String {
    let verdicts = case.verdicts(peer);
    peer.error.clone().into_iter().chain(verdicts.iter().map(verdict)).collect::<Vec<_>>().join("; ")
}

fn verdict(verdict: &Verdict) -> String {
    let Verdict { value, of, bound } = verdict;
    let bound = match bound {
        Bound::AtLeast(least) => format!("≥ {least}"),
        Bound::AtMost(most) => format!("≤ {most}"),
    };
    format!("{value:.2} {of}, {bound}: {}", if verdict.met() { "met" } else { "MISSED" })
}

/// What the figures depend on.
fn facts(report: &Report) -> Vec<String> {
    let machine = &report.machine;
    let mut facts = vec![
        format!("{}, {} cores, Linux {}, {}", machine.cpu, machine.cores, machine.kernel, date(machine.at)),
        format!(
            "medians of {} interleaved runs of {} s; TCP with {}; MTU 1500; CPU-s: busy time of all cores for a \
             unit of work, own: of it the switch's own processes",
            report.runs, report.seconds, report.congestion_control
        ),
    ];
    if machine.busy_before > QUIET_PERCENT {
        facts.push(format!(
            "not to be relied on: something else used {:.0} % of the machine",
            machine.busy_before
        ));
    }
    if !report.vswitchd_options.is_empty() {
        facts.push(format!("every vswitchd with {}", report.vswitchd_options));
    }
    facts.extend(
        report.not_installed.iter().map(|(peer, program)| format!("{peer}: {program} is not installed")),
    );
    let verdicts: Vec<Verdict> =
        report.cases.iter().flat_map(|case| case.peers.iter().flat_map(|peer| case.verdicts(peer))).collect();
    let met = verdicts.iter().filter(|verdict| verdict.met()).count();
    facts.push(format!("{met} of {} promises held", verdicts.len()));
    facts
}

/// Three significant digits, or all of a whole number; a dash for nothing.
fn number(value: Option<f64>) -> String {
    match value {
        None => dash(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) if value.abs() >= 1.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.3}"),
    }
}

fn dash() -> String {
    "-".to_owned()
}

/// The day in UTC, by Howard Hinnant's `civil_from_days`.
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn days_are_named() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_767_225_599), "2025-12-31");
        assert_eq!(date(1_767_225_600), "2026-01-01");
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [None, Some(0.1234), Some(1.234), Some(12.34), Some(123.4), Some(1234.5)].map(number);
        assert_eq!(shown, ["-", "0.123", "1.23", "12.3", "123", "1234"]);
    }

    #[test]
    fn the_table_says_what_was_promised() {
        let text = text(&report());
        let line = text.lines().find(|line| line.trim_start().starts_with("vswitchd ")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[..6], ["vswitchd", "500", "±20", "%", "2.50", "1500"]);
        assert!(line.contains("2.50 of kernel, ≥ 2.2: met; 0.96 of 1 worker, ≥ 0.97: MISSED"), "{line}");
        assert!(
            text.contains("it <broke>")
                && text.contains("used 80 % of the machine")
                && text.contains("vde_switch is not installed")
        );
        assert!(text.contains("2 of 5 promises held"), "{text}");
    }

    #[test]
    fn a_document_keeps_what_is_around_the_table() {
        let document = format!("# Title\n{BEGIN}old\n{END}\nrest\n");
        assert_eq!(placed(&document, "new\n"), format!("# Title\n{BEGIN}new\n{END}\nrest\n"));
        assert_eq!(placed("other", "new\n"), "new\n");
        assert_eq!(placed("", "new\n"), "new\n");
    }

    #[test]
    fn markdown_rows_have_all_columns() {
        let text = markdown(&report());
        let rows: Vec<_> = text.lines().take_while(|line| !line.is_empty()).collect();
        assert_eq!(rows.len(), 2 + 6);
        assert!(rows.iter().all(|row| row.matches('|').count() == COLUMNS.len() + 3), "{text}");
    }
}
