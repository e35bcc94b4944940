//! Fanout: several packet sockets share the frames of one interface, each flow with one of them.
//!
//! The kernel's own way of dealing, by a hash over all sockets of the group, cannot be told to leave some of them
//! out. So a small program deals (`PACKET_FANOUT_CBPF`, Linux `net/packet/af_packet.c`): it hashes the addresses
//! and, where there are any, the ports, over the first so many sockets of the group, and can be replaced at any
//! time. It is run with the packet at its network header.
//!
//! The hash is multiply-add with random factors, so that nobody outside can aim all flows at one worker. All
//! fragments of a datagram go where its addresses lead, since only the first one has ports. What is not IPv4, ARP
//! for one, goes to the first socket. A kernel that refuses the program deals its own way,
//! over all of them.
#![allow(clippy::cast_possible_truncation)] // the C headers' constants are ints where the fields are shorts

use std::io;
use std::os::fd::OwnedFd;

use nix::libc::{self, c_uint, sock_filter};

use crate::port::packet::{set, set_packet};

/// Joins a fanout group. "Ignore outgoing" is a property of the group where the kernel knows it there; what the
/// socket reads is looked at for our own frames where it does not.
pub(super) fn join(socket: &OwnedFd, group: u16) -> io::Result<()> {
    let ignore = libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    let modes = [libc::PACKET_FANOUT_CBPF, libc::PACKET_FANOUT_HASH];
    let mut result = Ok(());
    for mode in modes.into_iter().flat_map(|mode| [mode | ignore, mode]) {
        let value: c_uint = c_uint::from(group) | mode << 16;
        result = set_packet(socket, libc::PACKET_FANOUT, &value);
        let unknown = result.as_ref().is_err_and(|why: &io::Error| why.raw_os_error() == Some(libc::EINVAL));
        if !unknown {
            break;
        }
    }
    result
}

/// Has the socket's group deal over its first `sockets` members.
pub(super) fn deal(socket: &OwnedFd, sockets: usize) -> io::Result<()> {
    let sockets = u32::try_from(sockets).unwrap_or(u32::MAX).max(1);
    let mut instructions = program(sockets, rand::random());
    let program = libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_mut_ptr() };
    Ok(set(socket, libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, &program)?)
}

/// The program that deals over `sockets`. Offsets are those of the IPv4 header; a load beyond the packet's end ends
/// the program, with 0.
fn program(sockets: u32, factors: [u32; 3]) -> [sock_filter; 26] {
    const PROTOCOL: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL).cast_unsigned();
    /// "More fragments", and the offset.
    const FRAGMENT: u32 = 0x3fff;
    let [source, destination, ports] = factors.map(|factor| factor | 1);
    let op = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |test: u32, k: u32, jt: u8, jf: u8| sock_filter {
        code: (libc::BPF_JMP | libc::BPF_K | test) as u16,
        jt,
        jf,
        k,
    };
    let load = |size: u32, offset: u32| op(libc::BPF_LD | libc::BPF_ABS | size, offset);
    let times = |factor: u32| op(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, factor);
    let (keep, kept) = (op(libc::BPF_ST, 0), op(libc::BPF_LD | libc::BPF_MEM, 0));
    let to_x = op(libc::BPF_MISC | libc::BPF_TAX, 0);
    let add_x = op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0);
    [
        load(libc::BPF_W, PROTOCOL),
        jump(libc::BPF_JEQ, libc::ETH_P_IP as u32, 1, 0),
        op(libc::BPF_RET | libc::BPF_K, 0),
        load(libc::BPF_W, 12),
        times(source),
        to_x,
        load(libc::BPF_W, 16),
        times(destination),
        add_x,
        keep,
        load(libc::BPF_H, 6),
        jump(libc::BPF_JSET, FRAGMENT, 10, 0),
        load(libc::BPF_B, 9),
        jump(libc::BPF_JEQ, libc::IPPROTO_TCP as u32, 1, 0),
        jump(libc::BPF_JEQ, libc::IPPROTO_UDP as u32, 0, 7),
        // X becomes the length of the header.
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 0),
        times(ports),
        to_x,
        kept,
        add_x,
        keep,
        kept,
        // The upper bits depend on all of the factors' and the words' bits.
        op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 16),
        op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, sockets),
        op(libc::BPF_RET | BPF_A, 0),
    ]
}

/// The accumulator as what a program returns (`linux/bpf_common.h`), which `libc` does not have.
const BPF_A: u32 = 0x10;
