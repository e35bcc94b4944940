//! Frames on a container's interface, byte by byte: what no ordinary socket can send or see.

use std::io;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use crate::addr::MacAddr;
use crate::frame::{Frame, Offload};
use crate::host::netns::Netns;
use crate::port::packet::{Packet, PacketOptions};
use crate::port::{Device, Received};
use crate::wire::ethernet;
use crate::worker::now;

/// IEEE 802 local experimental EtherType 1.
pub const EXPERIMENTAL: u16 = 0x88b5;

/// A packet socket on an interface of a container.
#[derive(Debug)]
pub struct Tap<'a> {
    device: Packet,
    netns: &'a Netns,
}

impl<'a> Tap<'a> {
    /// Opens the socket; from now on frames are kept for [`Tap::hears`].
    ///
    /// # Errors
    /// If there is no `eth0`.
    pub fn open(netns: &'a Netns) -> io::Result<Tap<'a>> {
        Tap::open_on(netns, "eth0")
    }

    /// As [`Tap::open`], on another interface.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn open_on(netns: &'a Netns, ifname: &str) -> io::Result<Tap<'a>> {
        let options = PacketOptions { promiscuous: true, ..PacketOptions::default() };
        let device = netns.run(|| Packet::open(ifname, options)).map_err(io::Error::other)??;
        Ok(Tap { device, netns })
    }

    /// Sends a frame of the experimental EtherType with this text.
    ///
    /// # Errors
    /// If the interface does not take it.
    pub fn says(&self, src: MacAddr, dst: MacAddr, text: &str) -> io::Result<()> {
        self.send(src, dst, EXPERIMENTAL, text.as_bytes())
    }

    /// Whether a frame of the experimental EtherType with this text arrives within `patience`.
    pub fn hears(&self, text: &str, patience: Duration) -> bool {
        self.wait(patience, |frame| {
            frame.get(12..14) == Some(EXPERIMENTAL.to_be_bytes().as_slice())
                && frame[14..].starts_with(text.as_bytes())
        })
        .is_some()
    }

    /// Asks by ARP who has `ip`; the answer's MAC address, or `None` if there is none within `patience`.
    ///
    /// # Errors
    /// If the interface does not take the request.
    pub fn who_has(
        &self,
        (mac, own): (MacAddr, Ipv4Addr),
        ip: Ipv4Addr,
        patience: Duration,
    ) -> io::Result<Option<MacAddr>> {
        // RFC 826: Ethernet, IPv4, lengths 6 and 4, operation 1 (request); 2 is the reply.
        let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
        request.extend(mac.0.iter().chain(&own.octets()).chain(&[0; 6]).chain(&ip.octets()));
        self.send(mac, MacAddr::BROADCAST, ethernet::ARP, &request)?;
        let reply = self.wait(patience, |frame| {
            frame.get(12..14) == Some(ethernet::ARP.to_be_bytes().as_slice())
                && frame.get(20..22) == Some([0, 2].as_slice())
                && frame.get(28..32) == Some(ip.octets().as_slice())
        });
        Ok(reply.and_then(|frame| frame.get(22..28)?.try_into().ok()).map(MacAddr))
    }

    /// Sends a frame, padded to the shortest that there is.
    ///
    /// # Errors
    /// If the interface does not take it.
    pub fn send(&self, src: MacAddr, dst: MacAddr, ethertype: u16, payload: &[u8]) -> io::Result<()> {
        // 60 bytes are the shortest frame on a wire, without its checksum.
        let mut bytes = vec![0; (ethernet::HEADER_LEN + payload.len()).max(60)];
        ethernet::write(&mut bytes, dst, src, ethertype);
        bytes[ethernet::HEADER_LEN..][..payload.len()].copy_from_slice(payload);
        self.send_frame(&bytes)
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    /// If the interface does not take it.
    pub fn send_frame(&self, bytes: &[u8]) -> io::Result<()> {
        let mut frame = Frame::new();
        frame.fill(bytes, Offload::default());
        self.device
            .transmit(&mut frame)
            .map_err(|why| io::Error::other(format!("{} does not send: {why:?}", self.netns)))
    }

    /// Whether a frame arrives within `patience` for which `wanted` says so.
    pub fn sees(&self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> bool {
        self.wait(patience, wanted).is_some()
    }

    /// The next frame that is `wanted`; `None` if none arrives within `patience`.
    pub fn wait(&self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let begun = now();
        let mut frame = Frame::new();
        loop {
            match self.device.receive(&mut frame) {
                Received::Frame if wanted(frame.bytes()) => return Some(frame.bytes().to_vec()),
                Received::Frame | Received::Skipped | Received::Dropped(_) => {}
                Received::Empty | Received::Gone => {
                    if now().since(begun) > patience {
                        return None;
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
    }
}
