//! The report as a plot: for each case a group of bars, to the right as far as the switch is better than the
//! kernel, to the left as far as it is worse.
//!
//! The scale is logarithmic, so that twice as good is as far from the kernel's line as half as good. What was
//! promised against the kernel is a mark across the bars of the group.

use std::fmt::Write as _;

use super::{CaseReport, PeerReport, Report};
use crate::case::{Against, Better, Bound};
use crate::peer::Kind;

/// Sizes, in the plot's units.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 330.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 64.0;
const BAR: f64 = 12.0;
const GAP: f64 = 10.0;

/// The ends of the scale: a tenth of the kernel, and ten times the kernel. What is beyond ends there.
const LEAST: f64 = 0.1;
const MOST: f64 = 10.0;

/// Marks of the scale.
const TICKS: [f64; 7] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Colours for peers, in the order in which they first appear.
const COLOURS: [&str; 8] =
    ["#1f6feb", "#79b8ff", "#e36209", "#6f42c1", "#2da44e", "#bf8700", "#cf222e", "#57606a"];

/// Draws the report.
pub(crate) fn draw(report: &Report) -> String {
    let labels = labels(report);
    let mut body = String::new();
    let mut y = TOP + 18.0 * labels.len() as f64;
    let top = y;
    for case in &report.cases {
        y = group(&mut body, case, &labels, y);
    }
    let height = y + 30.0;
    let mut svg = String::new();
    let machine = &report.machine;
    let title =
        format!("vswitchd and its peers, relative to the kernel: {}, {} cores", machine.cpu, machine.cores);
    let mut say = |line: String| writeln!(svg, "{line}").unwrap_or_default();
    say(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" font-family="sans-serif" font-size="12">"#
    ));
    say(format!(r##"<rect width="{WIDTH}" height="{height:.0}" fill="#ffffff"/>"##));
    say(format!(r#"<text x="16" y="24" font-size="16">{}</text>"#, escape(&title)));
    say(r#"<text x="16" y="44">1 is the kernel, to its right is better; a black mark is what was promised; logarithmic</text>"#.into());
    for (number, label) in labels.iter().enumerate() {
        let y = TOP + 18.0 * number as f64;
        say(format!(r#"<rect x="16" y="{:.1}" width="12" height="12" fill="{}"/>"#, y - 4.0, colour(number)));
        say(format!(r#"<text x="34" y="{:.1}">{}</text>"#, y + 6.0, escape(label)));
    }
    for tick in TICKS {
        let (x, colour) = (place(tick), if tick == 1.0 { "#24292f" } else { "#d0d7de" });
        say(format!(r#"<line x1="{x:.1}" y1="{top:.1}" x2="{x:.1}" y2="{y:.1}" stroke="{colour}"/>"#));
        say(format!(r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{tick}</text>"#, y + 18.0));
    }
    svg.push_str(&body);
    svg.push_str("</svg>\n");
    svg
}

/// Everybody but the kernel, once.
fn labels(report: &Report) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for peer in report.cases.iter().flat_map(|case| &case.peers) {
        if peer.peer != Kind::Kernel.name() && !labels.contains(&peer.peer) {
            labels.push(peer.peer.clone());
        }
    }
    labels
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// Draws the bars of a case below `y`, and returns where they end.
fn group(body: &mut String, case: &CaseReport, labels: &[String], y: f64) -> f64 {
    let bars: Vec<(&PeerReport, f64)> = case
        .peers
        .iter()
        .filter(|peer| peer.peer != Kind::Kernel.name())
        .filter_map(|peer| Some((peer, case.better_than_kernel(peer)?)))
        .collect();
    if bars.is_empty() {
        return y;
    }
    let mut say = |line: String| writeln!(body, "{line}").unwrap_or_default();
    let begin = y + GAP;
    let end = begin + BAR * bars.len() as f64;
    let what = case.case().map_or(case.name.as_str(), |case| case.what);
    let middle = f64::midpoint(begin, end) + 4.0;
    say(format!(r#"<text x="{:.1}" y="{middle:.1}" text-anchor="end">{}</text>"#, LEFT - 8.0, escape(what)));
    for (number, (peer, ratio)) in bars.iter().enumerate() {
        let y = begin + BAR * number as f64;
        let (from, to) = (place(1.0).min(place(*ratio)), place(1.0).max(place(*ratio)));
        let colour = colour(labels.iter().position(|label| *label == peer.peer).unwrap_or(0));
        let (width, height) = ((to - from).max(1.0), BAR - 2.0);
        say(format!(
            r#"<rect x="{from:.1}" y="{y:.1}" width="{width:.1}" height="{height}" fill="{colour}"/>"#
        ));
        say(format!(
            r#"<text x="{:.1}" y="{:.1}" font-size="10" text-anchor="end">{ratio:.2}</text>"#,
            WIDTH - 16.0,
            y + 9.0
        ));
    }
    if let Some(promised) = promised(case) {
        let x = place(promised);
        say(format!(
            r##"<line x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{:.1}" stroke="#000000" stroke-width="3"/>"##,
            begin - 3.0,
            end + 1.0
        ));
    }
    end
}

/// How many times better than the kernel we promised to be.
fn promised(case: &CaseReport) -> Option<f64> {
    let case = case.case()?;
    let target = case.targets.iter().find(|target| target.against == Against::Peer(Kind::Kernel))?;
    let (Bound::AtLeast(ratio) | Bound::AtMost(ratio)) = target.bound;
    Some(if case.load.better() == Better::Lower { 1.0 / ratio } else { ratio })
}

/// Where a ratio is on the scale.
fn place(ratio: f64) -> f64 {
    let share = (ratio.clamp(LEAST, MOST) / LEAST).log10() / (MOST / LEAST).log10();
    LEFT + share * (WIDTH - LEFT - RIGHT)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn the_scale_is_symmetric_around_the_kernel() {
        assert!((place(1.0) - place(0.5) - (place(2.0) - place(1.0))).abs() < 1e-9);
        assert_eq!((place(0.001), place(1000.0)), (LEFT, WIDTH - RIGHT));
    }

    #[test]
    fn every_peer_with_a_figure_has_a_bar() {
        let mut report = report();
        report.machine.cpu = "A & <B>".to_owned();
        let svg = draw(&report);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("A &amp; &lt;B&gt;"));
        // Two of the first case, one of the second; the legend's three and the background are the others.
        assert_eq!(svg.matches("<rect").count(), 3 + 3 + 1);
        assert_eq!(svg.matches(r#"stroke-width="3""#).count(), 2);
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }
}
