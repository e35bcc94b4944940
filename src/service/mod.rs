//! Services of the gateway that need a memory or a socket: DHCP, DNS, and the relay.
//!
//! [`dhcp`] is a pure state machine, which the control thread feeds and empties, because it and control's books must
//! agree on addresses. It takes what was punted to it ([`crate::shared::Punts`]), the time, and what control knows about
//! the network and the port, and answers with frames to send. It reads no clock and opens no socket, so a test drives it
//! as control does.
//!
//! What the gateway of every network speaks itself with TCP and UDP, which is DNS and the connections that it makes for
//! processes of the host ([`relay`]), is here too:
//!
//! ```text
//! worker ── Shared::stack_punts, Event::StackPunted ──▶ gateway ─┬─▶ dns ─▶ the host's resolvers
//!   ▲                                                            ├─▶ tcp ─▶ dns
//!   └──────────────── WorkerPool::send_all ◀─────────────────────┼─▶ relay ─▶ processes of the host
//!                                                                └─▶ health ─▶ conditions of targets
//! ```
//!
//! It has a thread of its own: control makes devices and asks the kernel, which takes it tens of milliseconds at a
//! time, and a name must not wait for that. It reads the configuration as workers do, by the [`Snapshot`] of the
//! moment, so control has nothing to tell it.
//!
//! [`Snapshot`]: crate::snapshot::Snapshot

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::{io, thread};

use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc};
use tokio::task::{LocalSet, yield_now};
use tokio::time::sleep;

use crate::clock::Time;
use crate::shared::Shared;
use crate::worker::{Outgoing, now};

pub mod datagram;
pub mod dhcp;
pub mod dns;
pub mod gateway;
pub(crate) mod health;
pub mod packet;
pub mod relay;
pub mod tcp;

use gateway::Gateway;
use relay::Doors;

/// The thread of the gateway's services. It ends when this is dropped.
#[derive(Debug)]
pub struct Services {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    doors: Doors,
}

impl Services {
    /// Starts the thread. It looks for frames when `bell` rings ([`Event::StackPunted`]), hands what it sends to
    /// `send`, and asks the resolvers of `resolv_conf`.
    ///
    /// [`Event::StackPunted`]: crate::worker::Event::StackPunted
    ///
    /// # Errors
    /// If the thread or its event loop cannot be made.
    pub fn start(
        shared: Arc<Shared>,
        bell: Arc<Notify>,
        resolv_conf: PathBuf,
        send: impl Fn(Vec<Outgoing>) + Send + 'static,
    ) -> io::Result<Services> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (doors, orders) = mpsc::unbounded_channel();
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("services".to_owned()).spawn(move || {
            let gateway = Gateway::new(shared, resolv_conf, Box::new(send));
            LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    () = gateway.clone().run(bell) => {}
                    () = relay::obey(gateway.clone(), orders) => {}
                    () = health::watch(gateway) => {}
                    () = stopped.notified() => {}
                }
            });
        })?;
        Ok(Services { stop, thread: Some(thread), doors: Doors(doors) })
    }

    /// By which control opens the host's ports to what is published.
    pub fn doors(&self) -> Doors {
        self.doors.clone()
    }
}

/// Waits for a moment, or forever. Others have their turn even if the moment is over.
pub(crate) async fn until(due: Option<Time>) {
    match due {
        Some(due) if due <= now() => yield_now().await,
        Some(due) => sleep(due.since(now())).await,
        None => std::future::pending().await,
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the services ended by a panic");
        }
    }
}
