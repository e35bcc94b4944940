//! The laboratory as a user starts it.

use std::process::Command;

use crate::switch::VSWITCHD;
use crate::{Outcome, Test, ensure};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = &[
    ("the_laboratory_passes", || laboratory(&std::env::var("PATH")?)),
    ("the_laboratory_passes_without_nft", || laboratory("/nonexistent")),
    ("scenarios_of_networks_pass_alone", scenarios_of_networks_pass_alone),
];

fn scenarios_of_networks_pass_alone() -> Outcome {
    for scenario in ["isolation", "connect", "internal", "routed", "host-port", "bridge-uplink", "vlan"] {
        let output = Command::new(VSWITCHD).args(["lab", scenario]).output()?;
        let said = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let passed = said.lines().filter(|line| line.starts_with(&format!("PASS  {scenario} "))).count();
        ensure!(passed >= 2 && said.contains("elsewhere: ") && !said.contains("FAIL"), "{said}");
    }
    Ok(())
}

fn laboratory(path: &str) -> Outcome {
    let output = Command::new(VSWITCHD).arg("lab").env("PATH", path).output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    let passed = said.lines().filter(|line| line.starts_with("PASS")).count();
    ensure!(passed >= 12 && !said.contains("FAIL"), "{said}");
    Ok(())
}
