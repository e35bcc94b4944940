//! One card, several networks: a virtual machine that is on three of them by VLAN tags.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::dhcp::ask;
use super::{Check, Scenario, Stage};
use crate::control::response::{Done, NetworkInfo, PortDetail, PortInfo};
use crate::host::netlink;
use crate::lab::frames::{EXPERIMENTAL, Tap};
use crate::lab::machine::Machine;
use crate::lab::traffic::{self, PATIENCE, SILENCE, Talk};
use crate::lab::world::{Failure, Lab, ensure, reaches, tell};
use crate::wire::{ethernet, ipv4};

/// The stage.
pub(super) const STAGE: Stage = Stage {
    set_up,
    scenarios: &[Scenario {
        name: "vlan",
        elsewhere: &[
            "docker network create -d macvlan -o parent=eth0.10 back   (and ip link add ... type vlan on the host)",
            "ip link set br0 type bridge vlan_filtering 1; bridge vlan add dev tap0 vid 10; bridge vlan add ...",
            "in the machine, with any of them: ip link add link eth0 name eth0.10 type vlan id 10",
        ],
        checks: &[
            Check {
                claim: "one interface carries three networks, each with an address by DHCP",
                run: carried,
            },
            Check { claim: "TCP crosses a VLAN in super-frames, both ways", run: transfer },
            Check {
                claim: "the machine is on each network as itself, and leads from none to another",
                run: apart,
            },
            Check {
                claim: "no tag of somebody else's leads onto a VLAN, nor an unknown one anywhere",
                run: hopping,
            },
            Check { claim: "a VLAN comes and goes while the others carry on", run: again },
        ],
    }],
};

/// Bytes of a transfer.
const FILE: u64 = 32 << 20;

fn set_up() -> Result<Lab, Failure> {
    let mut lab = Lab::start()?;
    lab.ctl::<NetworkInfo>("network create back --subnet 10.20.0.0/24 --mode internal")?;
    lab.ctl::<NetworkInfo>("network create dmz --subnet 10.30.0.0/24")?;
    lab.attach("vm", "default", "--vlan back=10 --vlan dmz=20")?;
    lab.attach("c1", "default", "")?;
    lab.attach("db", "back", "")?;
    lab.attach("front", "dmz", "")?;
    Ok(lab)
}

/// The machine's VLAN interfaces, with the addresses that it gets by DHCP.
fn boot(lab: &Lab) -> Result<(Machine, [Ipv4Addr; 2]), Failure> {
    let vm = lab.container("vm")?;
    let machine = Machine::start(&vm.netns, vm.mac, &[10, 20])?;
    let mut got = [Ipv4Addr::UNSPECIFIED; 2];
    for (ip, ifname) in got.iter_mut().zip(["eth0.10", "eth0.20"]) {
        let address = ask(vm, ifname)?.address;
        vm.netns.run(|| netlink::add_address(ifname, address))??;
        *ip = address.addr();
    }
    Ok((machine, got))
}

fn carried(lab: &Lab) -> Result<(), Failure> {
    let vm = lab.container("vm")?;
    tell("in vm: ip link add link eth0 name eth0.10 type vlan id 10; dhclient eth0.10");
    let (_machine, got) = boot(lab)?;
    let ports: Vec<PortInfo> = lab.ctl("port ls")?;
    let rows: Vec<_> = ports.iter().filter(|port| port.name == "vm").collect();
    let vlans: Vec<_> = rows.iter().map(|port| (port.network.as_str(), port.vlan.map(u16::from))).collect();
    let expected = [("default", None), ("back", Some(10)), ("dmz", Some(20))];
    ensure(vlans == expected && rows.iter().all(|row| row.mac == Some(vm.mac)), || format!("{rows:?}"))?;
    ensure(rows[1].ip == Some(got[0]) && rows[2].ip == Some(got[1]), || format!("{got:?}: {rows:?}"))?;
    for (name, own) in [("c1", vm.ip), ("db", got[0]), ("front", got[1])] {
        reaches(vm, lab.container(name)?.ip)?;
        reaches(lab.container(name)?, own)?;
    }
    Ok(())
}

fn transfer(lab: &Lab) -> Result<(), Failure> {
    let (vm, db) = (lab.container("vm")?, lab.container("db")?);
    let (_machine, [own, _]) = boot(lab)?;
    for (client, server, ip) in [(vm, db, db.ip), (db, vm, own)] {
        let at = SocketAddrV4::new(ip, 5001);
        let talk = Talk { client: &client.netns, to: at, server: &server.netns, at };
        let took = traffic::tcp_transfer(talk, FILE)?.took;
        let rate = FILE as f64 * 8e-9 / took.as_secs_f64();
        tell(format_args!("{} sends {} MiB to {at}: {rate:.1} Gbit/s", client.port.name, FILE >> 20));
    }
    let detail: PortDetail = lab.ctl("port inspect vm --network back")?;
    let (rx, tx) = (detail.rx_super, detail.tx_super);
    tell(format_args!("super-frames with a tag: {rx} received, {tx} sent"));
    ensure(rx > 100 && tx > 100, || format!("{detail:?}"))
}

fn apart(lab: &Lab) -> Result<(), Failure> {
    let vm = lab.container("vm")?;
    let (_machine, [back, dmz]) = boot(lab)?;
    let (c1, db, front) = (lab.container("c1")?, lab.container("db")?, lab.container("front")?);
    for (from, to) in [(c1, back), (c1, dmz), (db, vm.ip), (db, dmz), (front, back), (front, db.ip)] {
        let answer = traffic::ping(&from.netns, to, SILENCE).unwrap_or(None);
        ensure(answer.is_none(), || format!("{to} answers {}", from.port.name))?;
    }
    tell("nobody reaches the machine by an address of another network");
    // By a VLAN, as somebody of another one, or to one.
    let gateway = lab.gateway("back")?.0;
    let vlan = Tap::open_on(&vm.netns, "eth0.10")?;
    for (src, dst) in [(vm.ip, db.ip), (dmz, db.ip), (back, front.ip), (back, c1.ip)] {
        let mut packet = vec![0; 28];
        ipv4::write(&mut packet, src, dst, ipv4::UDP, 64, 8);
        packet[25] = 8; // the length of an empty datagram, without a checksum
        vlan.send(vm.mac, if dst == db.ip { db.mac } else { gateway }, ethernet::IPV4, &packet)?;
    }
    lab.dropped("vm", "spoofed-ip", 2)?;
    lab.dropped("vm", "isolated", 2)
}

fn hopping(lab: &Lab) -> Result<(), Failure> {
    let (vm, c1) = (lab.container("vm")?, lab.container("c1")?);
    let (_machine, _) = boot(lab)?;
    let (card, vlan, outsider) =
        (Tap::open(&vm.netns)?, Tap::open_on(&vm.netns, "eth0.10")?, Tap::open(&c1.netns)?);
    let behind_tag = |vid, text: &str| [&[0, vid], &EXPERIMENTAL.to_be_bytes()[..], text.as_bytes()].concat();
    outsider.send(c1.mac, vm.mac, ethernet::VLAN, &behind_tag(10, "hop"))?;
    ensure(!vlan.hears("hop", SILENCE), || "c1 has sent a frame onto back".to_owned())?;
    tell("c1, on default, sends vm a frame with the tag of back: it does not arrive");
    card.send(vm.mac, c1.mac, ethernet::VLAN, &behind_tag(30, "unknown"))?;
    let heard = outsider.sees(SILENCE, |frame| frame.windows(7).any(|part| part == b"unknown"));
    ensure(!heard, || "c1 hears a VLAN that nobody carries".to_owned())?;
    lab.dropped("c1", "vlan-hopping", 1)?;
    lab.dropped("vm", "unknown-vlan", 1)
}

fn again(lab: &Lab) -> Result<(), Failure> {
    let (vm, db, front) = (lab.container("vm")?, lab.container("db")?, lab.container("front")?);
    let (_machine, [back, _]) = boot(lab)?;
    lab.ctl::<Done>("network disconnect back vm")?;
    let answer = traffic::ping(&vm.netns, db.ip, SILENCE)?;
    ensure(answer.is_none(), || "db still answers".to_owned())?;
    reaches(vm, front.ip)?;
    let port: PortInfo = lab.ctl("network connect back vm --vlan 10")?;
    ensure(port.ip == Some(back), || format!("{back} was, {port:?} is"))?;
    ensure(traffic::ping(&db.netns, back, PATIENCE)?.is_some(), || "vm does not answer db".to_owned())?;
    lab.ctl::<Done>("port rm vm")?;
    let ports: Vec<PortInfo> = lab.ctl("port ls")?;
    ensure(ports.iter().all(|port| port.name != "vm"), || format!("{ports:?}"))
}
