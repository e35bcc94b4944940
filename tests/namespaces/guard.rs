//! The guard of a running switch, when somebody else reloads the firewall.

use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;
use vswitchd::host::netns::Netns;
use vswitchd::lab::rig::Rig;
use vswitchd::lab::traffic::tcp_transfer;

use crate::switch::{Switch, nft, outwards, wait_until};
use crate::{Outcome, Test, ensure};

/// The tests of this file. They need the machine for themselves.
pub(crate) const ALONE: &[Test] =
    &[("a_flushed_ruleset_resets_no_connection", a_flushed_ruleset_resets_no_connection)];

fn a_flushed_ruleset_resets_no_connection() -> Outcome {
    let rig = Rig::new()?;
    let switch = Switch::start(&rig, &[])?;
    let one = switch.container(&rig, 11)?;
    nft(&rig.switch, &["add", "table", "ip", "somebody-elses"])?;
    let transfer = thread::scope(|scope| {
        let transfer = scope.spawn(|| tcp_transfer(outwards(&one, &rig), 1 << 30));
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(100));
            nft(&rig.switch, &["flush", "ruleset"])?;
            let back = wait_until(Duration::from_secs(1), "the guard is back", || {
                Ok(nft(&rig.switch, &["list", "table", "netdev", "vswitchd"])?.contains("@nat_tcp"))
            })?;
            println!("back in {back:?}");
        }
        ensure!(!transfer.is_finished(), "the transfer ended before the last flush");
        transfer.join().map_err(|_| Failed::from("the transfer panicked"))
    })?;
    transfer?;
    let resets = tcp_counter(&rig.switch, "OutRsts")?;
    ensure!(resets == 0, "the host's stack sent {resets} resets");
    let resets = tcp_counter(&rig.internet, "EstabResets")?;
    ensure!(resets == 0, "{resets} resets reached the server");
    let tables = nft(&rig.switch, &["list", "tables"])?;
    ensure!(tables == "table netdev vswitchd\n", "{tables}");
    Ok(())
}

/// A counter of the namespace's TCP, RFC 4022, from the table of names and values that the kernel prints.
fn tcp_counter(netns: &Netns, name: &str) -> Result<u64, Failed> {
    let table = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut rows = table.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (Some(names), Some(values)) = (rows.next(), rows.next()) else {
        return Err("no TCP counters".into());
    };
    let value = names.zip(values).find(|(column, _)| *column == name).ok_or("no such counter")?.1;
    Ok(value.parse()?)
}
