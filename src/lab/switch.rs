//! The switch under examination: the real daemon, on a thread in the rig's namespace.

use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::rig::{GATEWAY, Rig, UPLINK, UPLINK_OWN, on_uplink};
use crate::control::client::Client;
use crate::control::error::Error;
use crate::control::request::Request;
use crate::control::uplink_spec::{UplinkAddress, UplinkSpec};
use crate::daemon;
use crate::host::guard::Guard;
use crate::snapshot::UplinkMode;
use crate::worker::now;

/// How long the daemon may take to be ready.
const START: Duration = Duration::from_secs(10);

/// A running daemon.
#[derive(Debug)]
pub(super) struct Switch {
    /// The address that it translates to.
    pub(super) uplink: Ipv4Addr,
    /// Why it does not share the uplink's address, if it does not.
    pub(super) no_guard: Option<String>,
    client: Client,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), Error>>,
}

impl Switch {
    /// Starts the daemon: on the uplink's own address where a guard can be set, else on an address beside it.
    /// `change` may have other wishes.
    pub(super) fn start(rig: &Rig, change: impl FnOnce(&mut daemon::Options)) -> Result<Switch, Error> {
        let no_guard = rig.switch.run(|| Guard::available("eth0"))?.err().map(|error| error.to_string());
        let (uplink_mode, uplink) =
            if no_guard.is_none() { (UplinkMode::Shared, UPLINK) } else { (UplinkMode::Own, UPLINK_OWN) };
        let own = uplink_mode == UplinkMode::Own;
        let mut options = daemon::Options {
            uplinks: vec![UplinkSpec {
                name: "eth0".parse()?,
                mode: Some(uplink_mode),
                address: own.then(|| UplinkAddress::Fixed(on_uplink(UPLINK_OWN))),
                gateway: own.then_some(GATEWAY),
            }],
            networks: vec!["default=172.30.0.0/16".parse()?],
            socket: rig.socket(),
            state_dir: Some(rig.directory().join("state")),
            resolv_conf: rig.directory().join("resolv.conf"),
            ..daemon::Options::default()
        };
        change(&mut options);
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let netns = rig.switch.try_clone()?;
        let daemon = move || {
            netns.enter()?;
            drop(netns);
            // Nobody waits for either any more only when it was given up.
            let on_ready = move || ready.send(()).unwrap_or_default();
            daemon::run(options, on_ready, async { stopped.await.unwrap_or_default() })
        };
        let thread = thread::Builder::new().name("vswitchd".to_owned()).spawn(daemon);
        let thread = thread.map_err(|error| Error::failed("vswitchd", error, ""))?;
        let client = Client::new(&rig.socket())?;
        let switch = Switch { uplink, no_guard, client, stop, thread };
        // A daemon that ends before it is ready drops its sender, too.
        match is_ready.recv_timeout(START) {
            Ok(()) => Ok(switch),
            Err(_) => Err(switch.stop().err().unwrap_or_else(|| Error::failed("vswitchd", "not ready", ""))),
        }
    }

    /// Asks the daemon.
    pub(super) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Error> {
        self.client.call(request)
    }

    /// Stops the daemon, as SIGTERM does, and tells how long that took.
    pub(super) fn stop(self) -> Result<Duration, Error> {
        let begun = now();
        // If nobody listens, it has ended already.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(now().since(begun))
    }
}
