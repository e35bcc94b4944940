//! Devices against the real kernel, each test in a network namespace of its own.
//!
//! They need root. Without it they say so and pass, or fail where `CI=true` says that nothing may be
//! skipped.

#![allow(clippy::cast_possible_truncation)] // bytes of test patterns

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::TryStreamExt;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::packet_route::link::{LinkAttribute, State};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

use crate::addr::MacAddr;
use crate::frame::{Checksum, Frame, Offload, Segment};
use crate::offload;
use crate::port::packet::{Packet, PacketOptions};
use crate::port::plain::PlainTap;
use crate::port::tap::Tap;
use crate::port::{Device, NotSent, Promises, Received};
use crate::wire::be16;

/// Runs `test` in a thread with a network namespace of its own, which goes away with the thread.
pub(super) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !can_unshare() {
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Whether network namespaces can be made here.
pub(super) fn can_unshare() -> bool {
    let tried = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join().unwrap();
    let Err(why) = tried else { return true };
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "cannot make a network namespace: {why}");
    eprintln!("skipped: needs root to make a network namespace ({why})");
    false
}

/// Runs netlink requests in the calling thread's namespace.
fn netlink<T, F: Future<Output = Result<T, rtnetlink::Error>>>(requests: impl FnOnce(Handle) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        let connection = tokio::spawn(connection);
        let result = requests(handle).await.unwrap();
        connection.abort();
        result
    })
}

#[derive(Clone, Copy)]
pub(super) struct Station {
    ip: Ipv4Addr,
    mac: MacAddr,
}

pub(super) const HERE: Station = Station { ip: Ipv4Addr::new(10, 9, 0, 1), mac: MacAddr([2, 0, 0, 0, 0, 1]) };
pub(super) const THERE: Station =
    Station { ip: Ipv4Addr::new(10, 9, 0, 2), mac: MacAddr([2, 0, 0, 0, 0, 2]) };

/// Brings an interface up, as station number `me` of a network where `other` is the other one.
pub(super) fn configure(name: &str, me: Station, other: Station) {
    let index = if_nametoindex(name).unwrap();
    netlink(|handle| async move {
        let up = LinkUnspec::new_with_index(index).address(me.mac.0.to_vec()).up().build();
        handle.link().set(up).execute().await?;
        handle.address().add(index, me.ip.into(), 24).execute().await?;
        handle.neighbours().add(index, other.ip.into()).link_layer_address(&other.mac.0).execute().await
    });
}

pub(super) fn set_up(name: &'static str, up: bool) {
    netlink(|handle| async move {
        let link = LinkUnspec::new_with_name(name);
        handle.link().set(if up { link.up() } else { link.down() }.build()).execute().await
    });
}

/// Waits for the next frame that `wanted` accepts; all others (router solicitations) are passed over.
fn next(device: &(impl Device + AsFd), frame: &mut Frame, wanted: impl Fn(&Frame) -> bool) {
    for _ in 0..1000 {
        match device.receive(frame) {
            Received::Frame if wanted(frame) => return,
            Received::Frame | Received::Skipped => {}
            Received::Empty => assert!(readable(device.as_fd(), 2000), "no such frame came"),
            other @ (Received::Dropped(_) | Received::Gone) => panic!("{other:?}"),
        }
    }
    panic!("only other frames came");
}

pub(super) fn readable(fd: BorrowedFd<'_>, millis: u16) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(millis)).unwrap() > 0
}

/// The IP protocol of an untagged IPv4 frame.
fn protocol(frame: &Frame) -> Option<u8> {
    (frame.len() > 34 && be16(frame.bytes(), 12) == 0x0800).then(|| frame.bytes()[23])
}

pub(super) fn is_udp(frame: &Frame) -> bool {
    protocol(frame) == Some(17)
}

/// Reads all that there is, and returns the source ports of the UDP packets among it.
fn udp_sources(device: &impl Device) -> Vec<u16> {
    let (mut frame, mut sources) = (Frame::new(), Vec::new());
    loop {
        match device.receive(&mut frame) {
            Received::Frame if is_udp(&frame) => sources.push(be16(frame.bytes(), 34)),
            Received::Frame | Received::Skipped => {}
            Received::Empty => return sources,
            other @ (Received::Dropped(_) | Received::Gone) => panic!("{other:?}"),
        }
    }
}

/// Turns a UDP packet around: an echo server on the other side of the device. Swapping leaves every sum as
/// it is.
pub(super) fn turn_around(frame: &mut Frame) {
    let bytes = frame.bytes_mut();
    for (a, b, len) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        for n in 0..len {
            bytes.swap(a + n, b + n);
        }
    }
}

pub(super) fn kernel_socket() -> UdpSocket {
    let socket = UdpSocket::bind((HERE.ip, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.connect((THERE.ip, 7)).unwrap();
    socket
}

#[test]
fn a_tap_hands_over_unfinished_checksums_and_takes_them_back() {
    in_namespace(|| {
        let tap = Tap::create("tap").unwrap();
        assert_eq!(tap.name().unwrap(), "tap");
        configure("tap", HERE, THERE);
        let (socket, mut frame) = (kernel_socket(), Frame::new());
        socket.send(b"around the world").unwrap();
        next(&tap, &mut frame, is_udp);
        assert_eq!(frame.offload.checksum, Checksum::Partial { start: 34, offset: 6 });
        turn_around(&mut frame);
        offload::send(&tap, &mut frame, &mut Frame::new()).unwrap();
        let mut answer = [0; 100];
        let len = socket.recv(&mut answer).unwrap();
        assert_eq!(&answer[..len], b"around the world");

        // The same with the sum put in place, and with a wrong one, which the kernel must not take.
        offload::finish(&mut frame).unwrap();
        tap.transmit(&mut frame).unwrap();
        assert_eq!(socket.recv(&mut answer).unwrap(), 16);
        let last = frame.len() - 1;
        frame.bytes_mut()[last] ^= 1;
        tap.transmit(&mut frame).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(socket.recv(&mut answer).is_err());
    });
}

#[test]
fn a_plain_tap_carries_finished_frames() {
    in_namespace(|| {
        let tap = PlainTap::create("tap").unwrap();
        assert_eq!((tap.name(), tap.promises()), ("tap", Promises::NONE));
        configure("tap", HERE, THERE);
        let (socket, mut frame) = (kernel_socket(), Frame::new());
        assert_eq!(tap.transmit(&mut frame), Err(NotSent::Error(22)), "EINVAL for an empty frame");
        socket.send(b"around the world").unwrap();
        next(&tap, &mut frame, is_udp);
        assert_eq!(frame.offload, Offload::NONE);
        turn_around(&mut frame);
        offload::send(&tap, &mut frame, &mut Frame::new()).unwrap();
        assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 16);
    });
}

#[test]
fn names_that_cannot_be_are_refused() {
    for name in ["", "sixteen-bytes-ab", "a b", "a/b", "tap%s", "%d0", "..", "a:b"] {
        let why = Tap::create(name).unwrap_err();
        assert_eq!(why.kind(), std::io::ErrorKind::InvalidInput, "{name}");
    }
    in_namespace(|| {
        let _first = Tap::create("tap").unwrap();
        let numbered = Tap::create("tap%d").unwrap();
        assert_eq!(numbered.name().unwrap(), "tap0");
        assert_eq!(Tap::create("tap").unwrap_err().raw_os_error(), Some(nix::libc::EBUSY));
        let missing = Packet::open("nowhere", PacketOptions::default()).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(nix::libc::ENODEV));
        let loopback = Packet::open("lo", PacketOptions::default()).unwrap_err();
        assert_eq!(loopback.kind(), std::io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_tap_whose_namespace_died_is_gone() {
    in_namespace(|| {
        // Made here and moved there: a TAP that is made in a namespace keeps it alive.
        let tap = Tap::create("tap").unwrap();
        let elsewhere = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let namespace = elsewhere.join().unwrap();
        netlink(|handle| async move {
            let link = LinkUnspec::new_with_index(if_nametoindex("tap").unwrap());
            let moved = link.name("moved").setns_by_fd(namespace.as_raw_fd());
            handle.link().set(moved.build()).execute().await?;
            drop(namespace);
            Ok(())
        });
        let mut frame = Frame::new();
        while tap.receive(&mut frame) != Received::Gone {
            assert!(readable(tap.as_fd(), 5000), "no sign of it");
        }
        assert_eq!(tap.transmit(&mut frame), Err(NotSent::Gone));
        assert!(tap.name().is_err());
    });
}

#[test]
fn a_tap_that_is_down_says_so() {
    in_namespace(|| {
        let tap = Tap::create("tap").unwrap();
        let mut frame = Frame::new();
        frame.fill(&[0; 60], Offload::NONE);
        assert_eq!(tap.transmit(&mut frame), Err(NotSent::Down));
        assert_eq!(tap.receive(&mut frame), Received::Empty);
    });
}

/// A device in a new namespace with a station in it that runs `life` and then dies with its namespace.
fn inhabited<D: Send + 'static>(
    create: impl FnOnce(&str) -> std::io::Result<D> + Send + 'static,
    me: Station,
    other: Station,
    life: impl FnOnce() + Send + 'static,
) -> (D, JoinHandle<()>) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let device = create("tap").unwrap();
        configure("tap", me, other);
        sender.send(device).unwrap();
        life();
    });
    (receiver.recv().unwrap(), thread)
}

/// Carries frames between two devices until the inhabitants of both have ended, and shows them to `seen`.
fn carry(
    (a, a_life): (impl Device + AsFd, JoinHandle<()>),
    (b, b_life): (impl Device + AsFd, JoinHandle<()>),
    mut seen: impl FnMut(&Frame),
) {
    let (mut frame, mut scratch) = (Frame::new(), Frame::new());
    while !(a_life.is_finished() && b_life.is_finished()) {
        let mut fds = [PollFd::new(a.as_fd(), PollFlags::POLLIN), PollFd::new(b.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(10_u8)).unwrap();
        let ways: [(&dyn Device, &dyn Device); 2] = [(&a, &b), (&b, &a)];
        for (from, to) in ways {
            while from.receive(&mut frame) == Received::Frame {
                seen(&frame);
                match offload::send(to, &mut frame, &mut scratch) {
                    // What is lost at the end of a station's life is not missed.
                    Ok(_) | Err(NotSent::Full | NotSent::Down | NotSent::Gone) => {}
                    Err(why) => panic!("{why:?} {frame:?}"),
                }
            }
        }
    }
    a_life.join().unwrap();
    b_life.join().unwrap();
}

const BULK: usize = 8 << 20;

fn bulk() -> Vec<u8> {
    (0..BULK).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

fn sends_bulk() {
    let socket = loop {
        // The other side may not listen yet.
        match TcpStream::connect((THERE.ip, 80)) {
            Ok(socket) => break socket,
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    (&socket).write_all(&bulk()).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!((&socket).read(&mut [0; 1]).unwrap(), 0);
}

fn takes_bulk() {
    let (mut socket, _) = TcpListener::bind((THERE.ip, 80)).unwrap().accept().unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).unwrap();
    assert!(got == bulk(), "{} bytes, or other ones", got.len());
}

#[test]
fn tcp_crosses_two_taps_as_super_frames() {
    if !can_unshare() {
        return;
    }
    let mut largest = 0;
    let a = inhabited(Tap::create, HERE, THERE, sends_bulk);
    let b = inhabited(Tap::create, THERE, HERE, takes_bulk);
    carry(a, b, |frame| {
        if matches!(frame.offload.segment, Segment::Tcp4 { .. }) {
            largest = largest.max(frame.len());
            assert_eq!(usize::from(frame.offload.header_len), 66);
        }
    });
    assert!(largest > 60_000, "{largest}");
}

#[test]
fn tcp_super_frames_are_cut_for_a_plain_tap() {
    if !can_unshare() {
        return;
    }
    let (mut supers, mut others) = (0, 0);
    let a = inhabited(Tap::create, HERE, THERE, sends_bulk);
    let b = inhabited(PlainTap::create, THERE, HERE, takes_bulk);
    carry(a, b, |frame| *(if frame.offload.is_super() { &mut supers } else { &mut others }) += 1);
    assert!(supers > 100, "{supers} {others}");
}

#[test]
fn udp_super_frames_cross_whole_and_cut() {
    const SIZE: usize = 1000;
    const COUNT: usize = 20;
    fn sends() {
        let socket = UdpSocket::bind((HERE.ip, 0)).unwrap();
        socket.connect((THERE.ip, 7)).unwrap();
        setsockopt(&socket, sockopt::UdpGsoSegment, &(SIZE as i32)).unwrap();
        let data: Vec<u8> = (0..COUNT).flat_map(|n| [n as u8; SIZE]).chain([99; 5]).collect();
        // The other side may not listen yet: send until it answers.
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        while socket.send(&data).is_err() || socket.recv(&mut [0; 1]).is_err() {}
    }
    fn takes() {
        let socket = UdpSocket::bind((THERE.ip, 7)).unwrap();
        let mut buffer = [0; 2000];
        for n in 0..COUNT {
            assert_eq!(socket.recv(&mut buffer).unwrap(), SIZE);
            assert_eq!(buffer[..SIZE], [n as u8; SIZE]);
        }
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..len], [99; 5]);
        socket.send_to(&[1], from).unwrap();
    }
    if !can_unshare() {
        return;
    }
    let expects = |supers: usize| {
        move |frame: &Frame| {
            if let Segment::Udp { size } = frame.offload.segment {
                assert_eq!((usize::from(size), frame.offload.header_len), (SIZE, 42));
                assert!(supers > 0, "never agreed to");
            }
        }
    };
    let a = inhabited(Tap::create, HERE, THERE, sends);
    let known = usize::from(a.0.promises().udp_segments);
    let mut seen = 0;
    carry(a, inhabited(Tap::create, THERE, HERE, takes), |frame| {
        seen += usize::from(matches!(frame.offload.segment, Segment::Udp { .. }));
        expects(known)(frame);
    });
    assert_eq!(seen > 0, known > 0);
    let a = inhabited(Tap::create, HERE, THERE, sends);
    carry(a, inhabited(PlainTap::create, THERE, HERE, takes), expects(known));
}

/// Two connected interfaces: [`HERE`] lives on the first, the second is for a packet socket.
fn veth_pair() {
    netlink(
        |handle| async move { handle.link().add(LinkVeth::new("left", "right").build()).execute().await },
    );
    configure("left", HERE, THERE);
    set_up("right", true);
    // The kernel gives an interface its queue some time after the link is there; until then frames are lost.
    for name in ["left", "right"] {
        while !is_running(name) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn is_running(name: &str) -> bool {
    let links =
        netlink(|handle| async move { handle.link().get().match_name(name).execute().try_next().await });
    links.unwrap().attributes.contains(&LinkAttribute::OperState(State::Up))
}

#[test]
fn a_packet_socket_carries_promises_both_ways_and_ignores_its_own_frames() {
    in_namespace(|| {
        veth_pair();
        let options = PacketOptions { promiscuous: true, offload: true, ..PacketOptions::default() };
        let device = Packet::open("right", options).unwrap();
        assert_eq!(device.promises(), Promises::ALL);
        let (socket, mut frame) = (kernel_socket(), Frame::new());
        socket.send(b"around the world").unwrap();
        next(&device, &mut frame, is_udp);
        assert_eq!(frame.offload.checksum, Checksum::Partial { start: 34, offset: 6 });
        turn_around(&mut frame);
        offload::send(&device, &mut frame, &mut Frame::new()).unwrap();
        assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 16);
        assert_eq!(udp_sources(&device), [0; 0], "our own frame came back");
        assert!(!device.is_gone());
        assert_eq!(device.missed(), 0);
    });
}

#[test]
fn without_promiscuous_mode_only_frames_for_us_come() {
    in_namespace(|| {
        veth_pair();
        let stranger = Packet::open("right", PacketOptions::default()).unwrap();
        let own = PacketOptions { own_mac: Some(THERE.mac), ..PacketOptions::default() };
        let own = Packet::open("right", own).unwrap();
        let (socket, mut frame) = (kernel_socket(), Frame::new());
        socket.send(b"to another MAC than the interface's").unwrap();
        next(&own, &mut frame, is_udp);
        assert_eq!(udp_sources(&stranger), [0; 0]);
    });
}

#[test]
fn vlan_tags_that_the_kernel_took_out_are_put_back() {
    in_namespace(|| {
        veth_pair();
        let open = |name| {
            Packet::open(name, PacketOptions { promiscuous: true, ..PacketOptions::default() }).unwrap()
        };
        let (left, right) = (open("left"), open("right"));
        let mut sent = vec![0; 64];
        sent[..18].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x81, 0, 0x60, 7, 0x88, 0xb5]);
        let mut frame = Frame::new();
        frame.fill(&sent, Offload::NONE);
        left.transmit(&mut frame).unwrap();
        next(&right, &mut frame, |frame| frame.bytes().starts_with(&sent[..12]));
        assert_eq!(frame.bytes(), sent);
    });
}

#[test]
fn a_fanout_group_gets_every_frame_once_and_a_flow_stays_together() {
    in_namespace(|| {
        veth_pair();
        let options = PacketOptions { fanout: Some(77), promiscuous: true, ..PacketOptions::default() };
        let group = [Packet::open("right", options).unwrap(), Packet::open("right", options).unwrap()];
        let sockets: Vec<_> = (0..32).map(|_| kernel_socket()).collect();
        for n in 0..4_u8 {
            sockets.iter().for_each(|socket| assert_eq!(socket.send(&[n]).unwrap(), 1));
        }
        let [a, b] = &group;
        assert_eq!(
            (udp_sources(a).len(), udp_sources(b).len()),
            (4 * sockets.len(), 0),
            "nobody said to deal"
        );
        b.deal(2);
        for n in 0..4_u8 {
            sockets.iter().for_each(|socket| assert_eq!(socket.send(&[n]).unwrap(), 1));
        }
        let (to_a, to_b) = (udp_sources(a), udp_sources(b));
        assert_eq!(to_a.len() + to_b.len(), 4 * sockets.len());
        assert!(to_a.iter().all(|flow| !to_b.contains(flow)));
        assert!(!to_a.is_empty() && !to_b.is_empty(), "{to_a:?} {to_b:?}");

        let mut frame = Frame::new();
        sockets[0].send(&[9]).unwrap();
        let reader = if to_a.contains(&sockets[0].local_addr().unwrap().port()) { a } else { b };
        next(reader, &mut frame, is_udp);
        for device in [a, b] {
            device.transmit(&mut frame).unwrap();
        }
        assert_eq!((udp_sources(a), udp_sources(b)), (vec![], vec![]), "our own frames came back");

        b.deal(1);
        sockets.iter().for_each(|socket| assert_eq!(socket.send(&[0]).unwrap(), 1));
        assert_eq!((udp_sources(a).len(), udp_sources(b).len()), (sockets.len(), 0));
    });
}

#[test]
fn a_link_that_goes_down_comes_back_and_a_deleted_one_is_gone() {
    in_namespace(|| {
        veth_pair();
        let options = PacketOptions { promiscuous: true, ..PacketOptions::default() };
        let device = Packet::open("right", options).unwrap();
        let (socket, mut frame) = (kernel_socket(), Frame::new());
        socket.send(b"something to send back").unwrap();
        next(&device, &mut frame, is_udp);

        set_up("right", false);
        assert!(readable(device.as_fd(), 1000));
        while device.receive(&mut Frame::new()) != Received::Empty {}
        assert_eq!(device.transmit(&mut frame), Err(NotSent::Down));
        assert!(!readable(device.as_fd(), 0), "it would spin");
        assert!(!device.is_gone());
        set_up("right", true);
        next_after(&device, &mut frame, || drop(socket.send(b"again")));

        netlink(|handle| async move { handle.link().del(if_nametoindex("right").unwrap()).execute().await });
        assert!(readable(device.as_fd(), 1000));
        let last = std::iter::repeat_with(|| device.receive(&mut Frame::new()))
            .find(|received| matches!(received, Received::Empty | Received::Gone));
        assert_eq!(last, Some(Received::Gone));
        assert!(device.is_gone());
        assert_eq!(device.transmit(&mut frame), Err(NotSent::Gone));
    });
}

/// Waits for a UDP frame while `again` sends one now and then: a link that was just brought up loses some.
fn next_after(device: &(impl Device + AsFd), frame: &mut Frame, again: impl Fn()) {
    for _ in 0..100 {
        again();
        readable(device.as_fd(), 20);
        while device.receive(frame) == Received::Frame {
            if is_udp(frame) {
                return;
            }
        }
    }
    panic!("nothing came");
}

#[test]
fn frames_that_nobody_reads_are_counted() {
    in_namespace(|| {
        veth_pair();
        let options = PacketOptions { promiscuous: true, ..PacketOptions::default() };
        let device = Packet::open("right", options).unwrap();
        let socket = kernel_socket();
        for _ in 0..30_000 {
            let _ = socket.send(&[0; 1000]);
        }
        assert!(device.missed() > 0);
        assert_eq!(device.missed(), 0, "since the last call");
    });
}
