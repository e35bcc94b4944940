//! The comparison: every case, with every peer that can do it, several times in turn.
//!
//! A machine is never the same for ten minutes. So a case's peers are measured one after the other, and then
//! again, each time beginning with the next one; what disturbs disturbs all of them. While one is measured,
//! the others are stopped.

use std::time::Duration;

use vswitchd::control::error::Error;
use vswitchd::lab::interrupt::Interrupt;

use crate::case::{Case, Window};
use crate::load::{self, CONGESTION};
use crate::machine::Machine;
use crate::peer::{Kind, Peer};
use crate::progress::Progress;
use crate::report::{CaseReport, PeerReport, Report};
use crate::site::Site;

/// What a run takes beside what it counts: sockets, threads, waiting for their end.
const OVERHEAD: Duration = Duration::from_millis(150);

/// What building and taking down a peer's place takes.
const BUILD: Duration = Duration::from_secs(1);

/// What is to be measured.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) cases: Vec<&'static Case>,
    pub(crate) peers: Vec<Peer>,
    /// What every vswitchd is started with, besides its own options.
    pub(crate) vswitchd_options: Vec<String>,
    /// Peers that cannot take part, and the program that they miss.
    pub(crate) not_installed: Vec<(String, String)>,
    pub(crate) runs: usize,
    pub(crate) window: Window,
    /// Whether the peers are those that somebody asked for.
    pub(crate) explicit: bool,
}

impl Plan {
    /// Those who take part in a case. Where nobody asked for it, our switch with one worker is only measured
    /// where that says something.
    pub(crate) fn peers_of(&self, case: &Case) -> Vec<usize> {
        let useful =
            |peer: &Peer| self.explicit || *peer != Peer::one_worker() || case.load.compares_workers();
        let takes_part = |at: &usize| self.peers[*at].kind.can(case) && useful(&self.peers[*at]);
        (0..self.peers.len()).filter(takes_part).collect()
    }

    /// The cases that anybody can do.
    fn cases(&self) -> impl Iterator<Item = &'static Case> {
        self.cases.iter().copied().filter(|case| !self.peers_of(case).is_empty())
    }

    /// How many runs that is.
    pub(crate) fn steps(&self) -> usize {
        self.cases.iter().map(|case| self.peers_of(case).len() * self.runs).sum()
    }

    /// About how long it takes.
    pub(crate) fn duration(&self) -> Duration {
        let run = self.window.warm_up + self.window.length + OVERHEAD;
        run * u32::try_from(self.steps()).unwrap_or(u32::MAX)
            + BUILD * u32::try_from(self.peers.len()).unwrap_or(u32::MAX)
    }
}

/// Measures it all.
///
/// # Errors
/// If a peer's place cannot be built, or we are interrupted. What fails later is part of the report.
pub(crate) fn run(plan: &Plan, interrupt: &Interrupt) -> Result<Report, Error> {
    let machine = Machine::here();
    let mut progress = Progress::new(plan.steps());
    let mut sites = Vec::new();
    for peer in &plan.peers {
        let site = Site::build(peer, &plan.vswitchd_options)
            .map_err(|error| Error { what: format!("{}: {}", peer.label(), error.what), ..error })?;
        site.pause();
        sites.push(site);
    }
    let mut cases = Vec::new();
    for case in plan.cases() {
        cases.push(measure(plan, case, &sites, &mut progress, interrupt)?);
    }
    sites.iter().for_each(Site::resume);
    Ok(Report {
        machine,
        runs: plan.runs,
        seconds: plan.window.length.as_secs_f64(),
        congestion_control: CONGESTION.to_owned(),
        vswitchd_options: plan.vswitchd_options.join(" "),
        not_installed: plan.not_installed.clone(),
        cases,
    })
}

/// Measures a case with all who take part.
fn measure(
    plan: &Plan,
    case: &Case,
    sites: &[Site],
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> Result<CaseReport, Error> {
    let peers = plan.peers_of(case);
    let empty = |&at: &usize| PeerReport { peer: plan.peers[at].label(), samples: Vec::new(), error: None };
    let mut reports: Vec<PeerReport> = peers.iter().map(empty).collect();
    for run in 0..plan.runs {
        for turn in 0..peers.len() {
            if interrupt.came() {
                return Err(Error::failed(case.name, "interrupted", ""));
            }
            let turn = (run + turn) % peers.len();
            let (site, report) = (&sites[peers[turn]], &mut reports[turn]);
            progress.step(case.name, &report.peer);
            match measure_once(case, site, plan.window) {
                Ok(sample) => report.samples.push(sample),
                Err(error) => {
                    progress.note(&format!("{}: {error}", report.peer));
                    report.error = Some(error.to_string());
                }
            }
        }
    }
    Ok(CaseReport { peers: reports, ..CaseReport::of(case) })
}

/// Lets a switch that is stopped carry a load once.
pub(crate) fn measure_once(case: &Case, site: &Site, window: Window) -> Result<load::Sample, Error> {
    site.resume();
    let prepared = if case.load.fills_conntrack() { site.forget_connections() } else { Ok(()) };
    let sample = prepared.and_then(|()| load::run(case, site, window));
    site.pause();
    sample
}

/// Who takes part when nobody says so: everybody who is here. Says who is not, and what is missing.
pub(crate) fn everybody() -> (Vec<Peer>, Vec<(String, String)>) {
    let mut peers = Vec::new();
    let mut missing = Vec::new();
    for kind in Kind::ALL {
        if let Some(program) = kind.missing() {
            let what = if kind == Kind::Kernel { "the kernel's NAT" } else { kind.name() };
            missing.push((what.to_owned(), program.to_owned()));
        }
        // Without nft, the kernel still switches.
        if kind == Kind::Kernel || kind.missing().is_none() {
            peers.push(Peer::plain(kind));
        }
        if kind == Kind::Vswitchd {
            peers.push(Peer::one_worker());
        }
    }
    (peers, missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::chosen;

    fn plan(explicit: bool) -> Plan {
        let window = Window { warm_up: Duration::ZERO, length: Duration::from_secs(1) };
        let peers = vec![Peer::plain(Kind::Kernel), Peer::plain(Kind::Vswitchd), Peer::one_worker()];
        let (cases, none) = (chosen(None), Vec::new());
        Plan { cases, peers, vswitchd_options: none, not_installed: Vec::new(), runs: 5, window, explicit }
    }

    #[test]
    fn one_worker_is_measured_where_it_says_something() {
        let (flood, bulk) = (chosen(Some("l2/udp18/1"))[0], chosen(Some("l2/tcp/1"))[0]);
        assert_eq!(plan(false).peers_of(flood), [0, 1, 2]);
        assert_eq!(plan(false).peers_of(bulk), [0, 1]);
        assert_eq!(plan(true).peers_of(bulk), [0, 1, 2]);
        assert!(!plan(false).peers_of(chosen(Some("idle"))[0]).contains(&0));
    }

    #[test]
    fn the_time_is_known_before() {
        let mut plan = plan(false);
        plan.cases = chosen(Some("l2/tcp"));
        assert_eq!(plan.steps(), 2 * 2 * 5);
        assert_eq!(plan.duration(), 20 * (Duration::from_secs(1) + OVERHEAD) + 3 * BUILD);
    }
}
