//! Bulk TCP: a sender and a receiver thread for each connection.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use nix::sys::socket::{setsockopt, sockopt::TcpCongestion};
use vswitchd::lab::traffic::{Connection, Talk, connect};

use super::{CONGESTION, Sample, Stage, window};
use crate::case::Window;
use crate::site::Site;

/// Bytes of a write or read.
const BLOCK: usize = 128 << 10;

pub(super) fn run(talk: Talk<'_>, streams: usize, site: &Site, length: Window) -> io::Result<Sample> {
    let connections = (0..streams).map(|_| connection(talk)).collect::<io::Result<Vec<_>>>()?;
    let stage = Stage::default();
    let measured = thread::scope(|scope| {
        for Connection { client, server, .. } in &connections {
            scope.spawn(|| send(client));
            scope.spawn(|| receive(server, &stage));
        }
        let measured = window(&stage, site, length);
        for Connection { client, server, .. } in &connections {
            // What ends the threads. A connection that is broken already has ended its own.
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
        measured
    });
    Ok(measured.sample(measured.count * 8e-9 / measured.seconds, 1e9))
}

fn connection(talk: Talk<'_>) -> io::Result<Connection> {
    let connection = connect(talk)?;
    for end in [&connection.client, &connection.server] {
        setsockopt(end, TcpCongestion, &OsString::from(CONGESTION))?;
    }
    Ok(connection)
}

fn send(mut stream: &TcpStream) {
    let block = vec![0; BLOCK];
    while stream.write_all(&block).is_ok() {}
}

fn receive(mut stream: &TcpStream, stage: &Stage) {
    let mut block = vec![0; BLOCK];
    while let Ok(length @ 1..) = stream.read(&mut block) {
        stage.add(length as u64);
    }
}
