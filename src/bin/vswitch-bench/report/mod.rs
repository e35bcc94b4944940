//! What was measured, and what it means: kept as JSON, shown as a table and as a plot.

pub(crate) mod svg;
pub(crate) mod table;

use serde::{Deserialize, Serialize};

use crate::case::{Against, Better, Bound, CASES, Case, Target};
use crate::load::Sample;
use crate::machine::Machine;
use crate::peer::{Kind, Peer};
use crate::stats::median;

/// Everything that a run of the program measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// How often each case was run with each peer.
    pub(crate) runs: usize,
    /// How long a run counted.
    pub(crate) seconds: f64,
    /// The congestion control of TCP.
    pub(crate) congestion_control: String,
    /// What every vswitchd was started with, besides its own options.
    pub(crate) vswitchd_options: String,
    /// Peers that could not take part, and the program that is missing.
    pub(crate) not_installed: Vec<(String, String)>,
    pub(crate) cases: Vec<CaseReport>,
}

/// A case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CaseReport {
    pub(crate) name: String,
    pub(crate) unit: String,
    /// What CPU-seconds are counted by.
    pub(crate) work: String,
    pub(crate) peers: Vec<PeerReport>,
}

/// A peer in a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeerReport {
    pub(crate) peer: String,
    pub(crate) samples: Vec<Sample>,
    /// Why there are no more samples, if there are not.
    pub(crate) error: Option<String>,
}

/// A promise, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// What was found.
    pub(crate) value: f64,
    /// A ratio to what, or the unit.
    pub(crate) of: String,
    pub(crate) bound: Bound,
}

impl Verdict {
    pub(crate) fn met(&self) -> bool {
        self.bound.holds(self.value)
    }
}

impl PeerReport {
    /// The median of one aspect of the samples.
    pub(crate) fn median(&self, aspect: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(&self.samples.iter().filter_map(aspect).collect::<Vec<_>>())
    }

    /// The figure.
    pub(crate) fn value(&self) -> Option<f64> {
        self.median(|sample| Some(sample.value))
    }

    fn is_vswitchd(&self) -> bool {
        self.peer.split(' ').next() == Some(Kind::Vswitchd.name())
    }
}

impl CaseReport {
    /// An empty report of a case.
    pub(crate) fn of(case: &Case) -> CaseReport {
        let (unit, work) = (case.load.unit().to_owned(), case.load.work().to_owned());
        CaseReport { name: case.name.to_owned(), unit, work, peers: Vec::new() }
    }

    /// What was measured; `None` if this program does not know it any more.
    pub(crate) fn case(&self) -> Option<&'static Case> {
        CASES.iter().find(|case| case.name == self.name)
    }

    /// The figure of the peer with this label.
    pub(crate) fn value_of(&self, label: &str) -> Option<f64> {
        self.peers.iter().find(|peer| peer.peer == label)?.value()
    }

    /// A peer's figure as a multiple of the kernel's.
    pub(crate) fn of_kernel(&self, peer: &PeerReport) -> Option<f64> {
        Some(peer.value()? / self.value_of(Kind::Kernel.name())?)
    }

    /// How many times better than the kernel a peer is, whichever way is better.
    pub(crate) fn better_than_kernel(&self, peer: &PeerReport) -> Option<f64> {
        let ratio = self.of_kernel(peer)?;
        Some(match self.case()?.load.better() {
            Better::Higher => ratio,
            Better::Lower => 1.0 / ratio,
        })
    }

    /// What was promised of this peer, as far as what it is held against was measured.
    pub(crate) fn verdicts(&self, peer: &PeerReport) -> Vec<Verdict> {
        let Some(case) = self.case().filter(|_| peer.is_vswitchd()) else { return Vec::new() };
        case.targets.iter().filter_map(|target| self.verdict(peer, target)).collect()
    }

    fn verdict(&self, peer: &PeerReport, target: &Target) -> Option<Verdict> {
        let value = peer.value()?;
        let (value, of) = match target.against {
            Against::Peer(kind) => (value / self.value_of(kind.name())?, format!("of {}", kind.name())),
            Against::OneWorker => {
                let one = Peer::one_worker().label();
                if peer.peer == one {
                    return None;
                }
                (value / self.value_of(&one)?, "of 1 worker".to_owned())
            }
            Against::P50 => (peer.median(|sample| sample.p99)? / value, "of p50".to_owned()),
            Against::Nothing => (value, self.unit.clone()),
        };
        Some(Verdict { value, of, bound: target.bound })
    }
}

/// Says whether something is as it should be, on a line of its own.
pub(crate) fn tell(passed: bool, what: &str) -> bool {
    println!("{}  {what}", if passed { "PASS" } else { "FAIL" });
    passed
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Vec<Sample> {
        let sample = |&value| Sample { value, p99: Some(value * 3.0), cpu: Some(0.5), own_cpu: None };
        values.iter().map(sample).collect()
    }

    /// A report of two cases.
    pub(crate) fn report() -> Report {
        let peer = |peer: &str, values: &[f64]| PeerReport {
            peer: peer.to_owned(),
            samples: samples(values),
            error: None,
        };
        let case = |name: &str, peers| {
            let case = CASES.iter().find(|case| case.name == name).unwrap();
            CaseReport { peers, ..CaseReport::of(case) }
        };
        Report {
            machine: Machine {
                cpu: "Some CPU".into(),
                cores: 2,
                kernel: "6.18.0".into(),
                at: 1_800_000_000,
                busy_before: 80.0,
            },
            runs: 3,
            seconds: 1.0,
            congestion_control: "cubic".into(),
            vswitchd_options: "--poll busy".into(),
            not_installed: vec![("vde".into(), "vde_switch".into())],
            cases: vec![
                case(
                    "l2/udp18/1",
                    vec![
                        peer("kernel", &[200.0, 210.0, 190.0]),
                        peer("vswitchd", &[500.0, 400.0, 600.0]),
                        peer("vswitchd --workers=1", &[520.0]),
                    ],
                ),
                case(
                    "l2/rr-udp/2-cores",
                    vec![
                        peer("kernel", &[20.0]),
                        peer("vswitchd", &[40.0]),
                        PeerReport { error: Some("it <broke>".into()), ..peer("ovs", &[]) },
                    ],
                ),
            ],
        }
    }

    #[test]
    fn promises_are_held_against_medians() {
        let report = report();
        let case = &report.cases[0];
        let verdicts = case.verdicts(&case.peers[1]);
        let found: Vec<_> = verdicts.iter().map(|v| (v.value, v.of.as_str(), v.met())).collect();
        assert_eq!(found, [(2.5, "of kernel", true), (500.0 / 520.0, "of 1 worker", false)]);
        assert_eq!(case.verdicts(&case.peers[0]), []);
        assert_eq!(case.verdicts(&case.peers[2]).len(), 1);
    }

    #[test]
    fn lower_is_better_for_latency() {
        let report = report();
        let case = &report.cases[1];
        let verdicts = case.verdicts(&case.peers[1]);
        let found: Vec<_> = verdicts.iter().map(|v| (v.value, v.of.as_str(), v.met())).collect();
        assert_eq!(found, [(2.0, "of kernel", false), (3.0, "of p50", false)]);
        assert_eq!(case.better_than_kernel(&case.peers[1]), Some(0.5));
        assert_eq!(case.better_than_kernel(&case.peers[2]), None);
    }

    #[test]
    fn a_report_survives_its_file() {
        let text = serde_json::to_string(&report()).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report());
    }
}
