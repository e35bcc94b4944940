//! New TCP connections: each is opened, closed by the server, and closed by the client.
//!
//! The client goes through the addresses of the server and through as many ports of its own as there are, so
//! that no connection meets the remains of one before.

use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};
use vswitchd::lab::traffic::Talk;

use super::{Sample, Stage, any_address, inside, joined, window};
use crate::case::Window;
use crate::site::{REMOTES, Site};

/// Clients that connect at the same time.
const CLIENTS: u32 = 4;

/// How long a connection may take. Longer than the kernel takes to repeat a lost SYN.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn run(talk: Talk<'_>, site: &Site, length: Window) -> io::Result<Sample> {
    let listener = inside(talk.server, || TcpListener::bind(any_address(talk.at)))?;
    setsockopt(&listener, ReceiveTimeout, &TimeVal::milliseconds(50))?;
    inside(talk.client, || fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535"))?;
    let stage = Stage::default();
    let measured = thread::scope(|scope| -> io::Result<_> {
        let serving = scope.spawn(|| serve(&listener, &stage));
        let client = |number| {
            let stage = &stage;
            // Sockets belong to the namespace of the thread that makes them.
            scope.spawn(move || {
                talk.client.enter().map_err(io::Error::other)?;
                connect(talk.to.port(), number, stage)
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        let measured = window(&stage, site, length);
        clients.into_iter().try_for_each(joined)?;
        joined(serving)?;
        Ok(measured)
    })?;
    Ok(measured.thousands_per_second(1e3))
}

/// Accepts, and closes: the end of the stream is the answer.
pub(super) fn serve(listener: &TcpListener, stage: &Stage) -> io::Result<()> {
    while !stage.over() {
        match listener.accept() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Connects to one address of the server after the other, and waits for the end of each connection.
fn connect(port: u16, number: u32, stage: &Stage) -> io::Result<()> {
    let remotes: Vec<Ipv4Addr> = REMOTES.hosts().collect();
    let own = remotes.iter().skip(number as usize).step_by(CLIENTS as usize);
    for &remote in own.cycle() {
        if stage.over() {
            break;
        }
        let to = SocketAddr::V4(SocketAddrV4::new(remote, port));
        let mut stream = match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(stream) => stream,
            // The server has gone home.
            Err(_) if stage.over() => break,
            Err(error) => return Err(error),
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        match stream.read(&mut [0]) {
            Ok(_) => stage.add(1),
            Err(_) if stage.over() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
