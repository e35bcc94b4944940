//! `--rules` and `--publications`: what a long list costs those whom it is not about, and whoever changes it.
//!
//! Two of our switches, one with the lists and one without, carry the same established flows in turn; the medians are
//! compared. Then one more rule and one more publication are added to the long lists, and while two containers talk,
//! the configuration is changed by file fifty times a second: of the switch without lists. Of the one with them, whose
//! file has all of them, five times.
//!
//! What is published is in no range of ports that the guard hides anyway, and no two of them touch: each change of a
//! publication is one of the guard, too.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use vswitchd::control::error::Error;
use vswitchd::lab::interrupt::Interrupt;

use crate::case::{Cores, Plane, Window, chosen};
use crate::compare::measure_once;
use crate::load::{joined, ping_pong};
use crate::peer::Peer;
use crate::progress::Progress;
use crate::report::tell;
use crate::site::Site;
use crate::stats::median;

/// What established flows are measured with.
const CASES: &str = "l2/tcp/1,nat/tcp-out/1,nat/tcp-in/1";

/// The share of the throughput that a long list may cost.
const COST: f64 = 0.03;

/// How long adding one may take, in milliseconds.
const ADD_MS: f64 = 10.0;

/// How often one more is added.
const ADDED: usize = 11;

/// How often files are applied.
#[derive(Debug, Clone, Copy)]
struct Pace {
    files: u32,
    /// From one to the next.
    pause: Duration,
}

/// Of files that have little in them, and of those that have both lists: a megabyte is read each time.
const SHORT: Pace = Pace { files: 500, pause: Duration::from_millis(20) };
const LONG: Pace = Pace { files: 50, pause: Duration::from_millis(200) };

/// The first of the published ports, of which every second one is. Four thousand are below [`NAT_PORTS`].
const FIRST_PORT: usize = 10_000;
const PORT_STEP: usize = 2;

/// What both switches masquerade with.
const NAT_PORTS: [&str; 2] = ["--nat-ports", "32768-65535"];

/// How long the lists are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lists {
    pub(crate) rules: u16,
    pub(crate) publications: u16,
}

/// Builds both switches, says what the lists cost, and tells whether all is within its bounds.
///
/// # Errors
/// If one cannot be built or measured, or we are interrupted.
pub(crate) fn run(
    (peer, options): (&Peer, &[String]),
    lists: Lists,
    (runs, window): (usize, Window),
    interrupt: &Interrupt,
) -> Result<bool, Error> {
    let options = [options, &NAT_PORTS.map(str::to_owned)].concat();
    let (without, with) = (Site::build(peer, &options)?, Site::build(peer, &options)?);
    let file = dump(&with)? + &lists.sections();
    let begun = Instant::now();
    apply(&with, &file)?;
    let took = begun.elapsed().as_secs_f64();
    let Lists { rules, publications } = lists;
    let mut passed =
        tell(true, &format!("a file of {rules} rules and {publications} publications: {took:.2} s"));
    passed &= throughput([&without, &with], (runs, window), interrupt)?;
    passed &= additions(&with, lists)?;
    passed &= applies(&without, SHORT, &dump(&without)?)?;
    passed &= applies(&with, LONG, &file)?;
    Ok(passed)
}

impl Lists {
    /// The lists as sections of a file: rules about addresses, ports and names that no measured flow has.
    fn sections(self) -> String {
        let mut text = String::new();
        for n in 0..self.rules {
            let [a, b] = (n / 2).to_be_bytes();
            // Writing to a string cannot fail.
            let _ = if n % 2 == 0 {
                writeln!(text, "[[policy]]\naction = \"deny\"\nfrom = \"c11\"\nto = \"203.{a}.{b}.0/24\"")
            } else {
                let port = 20_000 + n;
                writeln!(
                    text,
                    "[[policy]]\naction = \"deny\"\nto = \"c12\"\nproto = \"tcp\"\ndport = \"{port}\""
                )
            };
        }
        for port in (FIRST_PORT..).step_by(PORT_STEP).take(self.publications.into()) {
            let _ = writeln!(text, "[[publish]]\nspec = \"{port}:80\"\nto = \"c12\"");
        }
        text
    }
}

fn throughput(
    sites: [&Site; 2],
    (runs, window): (usize, Window),
    interrupt: &Interrupt,
) -> Result<bool, Error> {
    let mut passed = true;
    let cases = chosen(Some(CASES));
    let mut progress = Progress::new(cases.len() * runs * sites.len());
    sites.iter().for_each(|site| site.pause());
    for case in cases {
        let mut values = [Vec::new(), Vec::new()];
        for run in 0..runs {
            for turn in [run % 2, (run + 1) % 2] {
                if interrupt.came() {
                    return Err(Error::failed(case.name, "interrupted", ""));
                }
                progress.step(case.name, ["without", "with"][turn]);
                values[turn].push(measure_once(case, sites[turn], window)?.value);
            }
        }
        let [without, with] = values.map(|values| median(&values).unwrap_or(0.0));
        let (ratio, unit) = (with / without, case.load.unit());
        let what = format!("{}: {without:.2} {unit} without, {with:.2} with, ratio {ratio:.3}", case.name);
        passed &= tell(ratio > 1.0 - COST, &what);
    }
    sites.iter().for_each(|site| site.resume());
    Ok(passed)
}

/// Adds one more of each, and takes it back.
fn additions(site: &Site, lists: Lists) -> Result<bool, Error> {
    let middle = usize::from(lists.rules / 2).max(1);
    let rule =
        |n: usize| json!({ "action": "deny", "from": "c11", "to": format!("192.0.2.{n}"), "before": middle });
    let spec = |n: usize| format!("{}:80/tcp", FIRST_PORT - 1 - n);
    let (mut rules, mut publications) = (Vec::new(), Vec::new());
    for n in 0..ADDED {
        let begun = Instant::now();
        site.ask("policy", "add", &rule(n))?;
        rules.push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        site.ask("publish", "add", &json!({ "spec": spec(n), "to": "c12" }))?;
        publications.push(begun.elapsed().as_secs_f64() * 1e3);
        site.ask("policy", "rm", &json!({ "rule": middle }))?;
        site.ask("publish", "rm", &json!({ "spec": spec(n) }))?;
    }
    let mut passed = true;
    for (what, times) in [("rule", rules), ("publication", publications)] {
        let (usual, worst) = (median(&times).unwrap_or(0.0), times.iter().copied().fold(0.0, f64::max));
        passed &=
            tell(worst < ADD_MS, &format!("adding a {what} takes {usual:.1} ms, at most {worst:.1} ms"));
    }
    Ok(passed)
}

/// Applies file after file while two containers talk, and says what became of that. Every second one is `file` with a rule
/// and a publication more.
fn applies(site: &Site, Pace { files: count, pause }: Pace, file: &str) -> Result<bool, Error> {
    let failed = |why: &dyn std::fmt::Display| Error::failed("applies", why, "");
    let rule = "\n[[policy]]\naction = \"deny\"\nfrom = \"c12\"\nto = \"198.18.0.0/24\"\n";
    let publication = format!("\n[[publish]]\nspec = \"{}:80\"\nto = \"c12\"\n", FIRST_PORT - 1);
    let files = [format!("{file}{rule}{publication}"), file.to_owned()];
    let talk = site.talk(Plane::Outwards).ok_or_else(|| failed(&"the switch has no such plane"))?;
    let length = pause * (count + count / 10);
    let window = Window { warm_up: Duration::from_millis(200), length };
    let before = site.lost()?;
    let (rounds, times, late) = thread::scope(|scope| {
        let applying = scope.spawn(|| -> Result<(Vec<f64>, Duration), Error> {
            let (begun, mut times) = (Instant::now(), Vec::new());
            for n in 0..count {
                thread::sleep((pause * n).saturating_sub(begun.elapsed()));
                let asked = Instant::now();
                apply(site, &files[n as usize % 2])?;
                times.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            Ok((times, begun.elapsed().saturating_sub(pause * count)))
        });
        let rounds = ping_pong::datagrams(talk, Cores::Two, site, window).map_err(|error| failed(&error))?;
        let (times, late) = joined(applying)?;
        Ok::<_, Error>((rounds, times, late))
    })?;
    let (mut rounds, dropped) = (rounds, site.lost()? - before);
    let (round_trips, lost, p99) = (rounds.count(), rounds.lost, rounds.micros(0.99));
    let (usual, worst) = (median(&times).unwrap_or(0.0), times.iter().copied().fold(0.0, f64::max));
    let text = format!(
        "{count} files of {} kB at {} a second take {usual:.1} ms each, at most {worst:.1} ms, {:.1} s late at the end: \
         {round_trips} round trips of another flow, {lost} lost, p99 {p99:.0} us; {dropped} frames dropped",
        file.len().div_ceil(1000),
        Duration::from_secs(1).as_millis() / pause.as_millis(),
        late.as_secs_f64(),
    );
    Ok(tell(lost == 0 && dropped == 0 && late <= pause, &text))
}

fn dump(site: &Site) -> Result<String, Error> {
    let answer = site.ask("dump", "", &json!({}))?;
    Ok(answer["text"].as_str().unwrap_or_default().to_owned())
}

fn apply(site: &Site, text: &str) -> Result<(), Error> {
    let answer = site.ask("apply", "", &json!({ "text": text }))?;
    let faults = answer["faults"].as_array().map_or(0, Vec::len);
    if faults == 0 { Ok(()) } else { Err(Error::failed("apply", &answer["faults"][0], "")) }
}
