//! The exchange against real TAPs: batches by io_uring and by plain calls come to the same.
//!
//! As [`super::kernel_tests`], they need root. Where there is no io_uring, the plain calls are still tested.

#![allow(clippy::cast_possible_truncation)] // bytes of test patterns

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::net::if_::if_nametoindex;

use super::exchange::{Exchange, Io, Lane};
use super::kernel_tests::{
    HERE, THERE, configure, in_namespace, is_udp, kernel_socket, readable, turn_around,
};
use super::memory::MemoryPort;
use super::packet::{Packet, PacketOptions};
use super::plain::PlainTap;
use super::tap::Tap;
use super::{Device, NotSent, Promises, Received};
use crate::frame::{Checksum, Frame, Offload};
use crate::wire::{checksum, ethernet};

/// Runs `test` in a namespace with an exchange of each kind, as far as there is one.
fn with_exchanges(test: fn(Exchange)) {
    for io in [Io::Uring, Io::Syscall] {
        in_namespace(move || match Exchange::new(io) {
            Ok(exchange) => test(exchange),
            Err(error) => eprintln!("no {}: {error}", io.as_str()),
        });
    }
}

fn frames(count: usize) -> Vec<Frame> {
    (0..count).map(|_| Frame::new()).collect()
}

/// Receives in batches of `size` until `count` UDP frames have come, and returns them.
fn udp_frames(exchange: &mut Exchange, lane: &Lane, size: usize, count: usize) -> Vec<Frame> {
    let (mut all, mut received) = (Vec::new(), Vec::new());
    while all.len() < count {
        let mut burst = frames(size);
        exchange.receive(lane, &mut burst, &mut received);
        assert_eq!(received.len(), size);
        let came = burst.into_iter().zip(received.drain(..));
        all.extend(
            came.filter(|(frame, what)| *what == Received::Frame && is_udp(frame)).map(|(frame, _)| frame),
        );
    }
    all
}

/// The first byte of a UDP frame's payload.
fn number(frame: &Frame) -> u8 {
    frame.bytes()[42]
}

#[test]
fn batches_bring_frames_in_their_order_and_take_them_in_theirs() {
    with_exchanges(|mut exchange| {
        let tap = Arc::new(Tap::create("tap").unwrap());
        configure("tap", HERE, THERE);
        let lane = exchange.open(tap.clone(), None);
        let socket = kernel_socket();
        (0..100).for_each(|n| assert_eq!(socket.send(&[n]).unwrap(), 1));
        let mut frames = udp_frames(&mut exchange, &lane, 16, 100);
        assert!(frames.iter().map(number).eq(0..100));
        assert!(!readable(tap.as_fd(), 0));

        // More than one batch, and every third one twice.
        frames.iter_mut().for_each(turn_around);
        let order: Vec<usize> =
            (0..100).flat_map(|n| std::iter::repeat_n(n, 1 + usize::from(n % 3 == 0))).collect();
        let mut told = Vec::new();
        exchange.transmit(&mut frames, order.iter().map(|&n| (n, Some(&lane))), |n, frame, outcome| {
            assert_eq!((outcome, number(frame)), (Ok(()), order[n] as u8));
            told.push(n);
        });
        assert!(told.iter().copied().eq(0..order.len()));
        for n in order {
            let mut answer = [0; 10];
            assert_eq!((socket.recv(&mut answer).unwrap(), usize::from(answer[0])), (1, n));
        }
    });
}

#[test]
fn every_frame_of_a_batch_has_a_fate_of_its_own() {
    with_exchanges(|mut exchange| {
        let tap = Arc::new(Tap::create("tap").unwrap());
        configure("tap", HERE, THERE);
        let lane = exchange.open(tap, None);
        let down = exchange.open(Arc::new(Tap::create("down").unwrap()), None);
        let plain = Arc::new(PlainTap::create("plain").unwrap());
        let plain = exchange.open(plain, None);
        let memory = Arc::new(MemoryPort::new(Promises::NONE));
        let in_memory = exchange.open(memory.clone(), None);
        let socket = kernel_socket();
        (0..4).for_each(|n| assert_eq!(socket.send(&[n]).unwrap(), 1));
        let mut frames = udp_frames(&mut exchange, &lane, 8, 4);
        frames.iter_mut().for_each(turn_around);
        assert!(matches!(frames[0].offload.checksum, Checksum::Partial { .. }));
        frames[2].offload.checksum = Checksum::Partial { start: u16::MAX, offset: 0 };

        // The first frame goes out unfinished, is finished for two that cannot take it so, and goes out again.
        let sends = [
            (1, None, Err(NotSent::Gone)),
            (2, Some(&lane), Err(NotSent::BadOffload)),
            (1, Some(&down), Err(NotSent::Down)),
            (0, Some(&lane), Ok(())),
            (0, Some(&in_memory), Ok(())),
            (0, Some(&plain), Err(NotSent::Down)),
            (0, Some(&lane), Ok(())),
            (3, Some(&lane), Ok(())),
        ];
        let mut told = Vec::new();
        exchange.transmit(&mut frames, sends.iter().map(|&(n, lane, _)| (n, lane)), |_, _, outcome| {
            told.push(outcome);
        });
        assert!(told.iter().eq(sends.iter().map(|(_, _, outcome)| outcome)), "{told:?}");
        assert_eq!(memory.pop().unwrap().1, Offload::NONE);
        for n in [0, 0, 3] {
            let mut answer = [0; 10];
            assert_eq!((socket.recv(&mut answer).unwrap(), answer[0]), (1, n), "its checksum was right");
        }
    });
}

#[test]
fn every_copy_of_a_frame_has_the_tag_of_its_lane() {
    with_exchanges(|mut exchange| {
        let tap: Arc<dyn Device> = Arc::new(Tap::create("tap").unwrap());
        configure("tap", HERE, THERE);
        let plain = Arc::new(MemoryPort::new(Promises::NONE));
        let lane = |vid: Option<u16>| exchange.open(tap.clone(), vid.map(|vid| vid.try_into().unwrap()));
        let (native, seven, eight) = (lane(None), lane(Some(7)), lane(Some(8)));
        let finished = exchange.open(plain.clone(), 9.try_into().ok());
        let socket = kernel_socket();
        (0..3).for_each(|n| assert_eq!(socket.send(&[n]).unwrap(), 1));
        let mut frames = udp_frames(&mut exchange, &native, 8, 3);
        frames.iter_mut().for_each(turn_around);
        let before: Vec<_> = frames.iter().map(|frame| frame.bytes().to_vec()).collect();
        let seen = Packet::open("tap", PacketOptions::default()).unwrap();

        let lanes = [
            (0, &native, None),
            (0, &seven, Some(7)),
            (0, &seven, Some(7)),
            (0, &eight, Some(8)),
            (0, &native, None),
            (1, &eight, Some(8)),
            (2, &seven, Some(7)),
            (2, &native, None),
            (2, &finished, None),
        ];
        let mut told = 0;
        exchange.transmit(&mut frames, lanes.iter().map(|&(n, lane, _)| (n, Some(lane))), |_, _, outcome| {
            assert_eq!(outcome, Ok(()));
            told += 1;
        });
        assert_eq!(told, lanes.len());
        let (mut frame, mut got) = (Frame::new(), Vec::new());
        while seen.receive(&mut frame) != Received::Empty {
            let vid = ethernet::outer_vid(frame.bytes());
            if vid.is_some() {
                frame.remove_vlan_tag();
            }
            if is_udp(&frame) {
                assert_eq!(frame.bytes()[..42], before[usize::from(number(&frame))][..42]);
                assert_eq!(frame.offload.checksum, Checksum::Partial { start: 34, offset: 6 });
                got.push((usize::from(number(&frame)), vid));
            }
        }
        let sent = lanes.iter().filter(|(_, lane, _)| !std::ptr::eq(*lane, &finished));
        assert!(got.iter().copied().eq(sent.map(|&(n, _, vid)| (n, vid))), "{got:?}");
        // Finished behind the tag.
        let (bytes, offload) = plain.pop().unwrap();
        assert_eq!((&bytes[12..16], offload), (&[0x81, 0, 0, 9][..], Offload::NONE));
        assert_eq!(
            checksum::fold(checksum::sum(&bytes[30..38]) + 17 + 9 + checksum::sum(&bytes[38..])),
            0xffff
        );
    });
}

#[test]
fn a_device_ends_with_its_lane() {
    with_exchanges(|mut exchange| {
        for round in 0..3 {
            let tap: Arc<dyn Device> = Arc::new(Tap::create("tap").unwrap());
            let lane = exchange.open(tap.clone(), None);
            let mut received = Vec::new();
            exchange.receive(&lane, &mut frames(4), &mut received);
            assert_eq!(received, [Received::Empty; 4]);
            drop((lane, tap));
            assert!(if_nametoindex("tap").is_err(), "round {round}: the device is still there");
        }
    });
}

#[test]
fn a_device_that_cannot_be_registered_is_no_ring_for_the_switch() {
    let memory: Arc<dyn Device> = Arc::new(MemoryPort::new(Promises::NONE));
    assert!(Exchange::try_ring(&memory).is_err());
}
