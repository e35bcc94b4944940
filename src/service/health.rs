//! Health checks: whether the targets of publications are up, as far as that was asked for.
//!
//! Each target that is watched has a task, which asks it by ARP or opens a TCP connection from the gateway's address,
//! notes what came of it ([`Condition::note`]), and rests. The data plane reads the condition when it chooses a target
//! for a new connection, and at no other time.
//!
//! **Bounds.** A check waits [`HEALTH_WAIT`] for an answer, and there are at most [`HEALTH_CHECKS`] at a time. A
//! connection that could be opened is reset at once: it holds no port number and no socket, here or there.
//!
//! **Who is watched** is read from the configuration of the moment, once in [`LOOK`].

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::gateway::Gateway;
use super::tcp::{CHECK_BUFFERS, Connection};
use crate::addr::Protocol;
use crate::limits::{HEALTH_CHECKS, HEALTH_WAIT};
use crate::snapshot::{Check, Condition, Target, Watch};
use crate::table::conntrack::{Info, Nat};
use crate::worker::now;

/// How often the configuration is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A target that is watched, and what is published of it.
#[derive(Debug, Clone, Copy)]
struct Watched {
    protocol: Protocol,
    /// With the first of its ports.
    target: Target,
    /// The last one.
    last_port: u16,
    watch: Watch,
}

/// Tasks by the place of the condition that they find out, which they hold, so that no other is at that place.
type Tasks = HashMap<*const Condition, AbortHandle>;

/// Watches what is to be watched, for ever.
pub(super) async fn watch(gateway: Rc<Gateway>) {
    let places = Arc::new(Semaphore::new(HEALTH_CHECKS));
    let (mut tasks, mut seen) = (Tasks::new(), None);
    loop {
        let generation = gateway.shared().generation();
        if seen.replace(generation) != Some(generation) {
            follow(&gateway, &mut tasks, &places);
        }
        sleep(LOOK).await;
    }
}

/// Begins to watch what is new in the configuration, and ends what is not in it any more.
fn follow(gateway: &Rc<Gateway>, tasks: &mut Tasks, places: &Arc<Semaphore>) {
    let mut before = std::mem::take(tasks);
    let snapshot = gateway.shared().snapshot_full();
    for publication in snapshot.publications.iter() {
        let Some((watch, conditions)) = &publication.health else { continue };
        for (&target, condition) in publication.targets.iter().zip(conditions) {
            let at = Arc::as_ptr(condition);
            let task = before.remove(&at).unwrap_or_else(|| {
                let more = publication.ports.end() - publication.ports.start();
                let last_port = target.endpoint.port.saturating_add(more);
                let watched = Watched { protocol: publication.protocol, target, last_port, watch: *watch };
                let (gateway, places) = (gateway.clone(), places.clone());
                spawn_local(attend(gateway, watched, condition.clone(), places)).abort_handle()
            });
            tasks.insert(at, task);
        }
    }
    before.into_values().for_each(|task| task.abort());
}

/// Checks a target again and again.
async fn attend(gateway: Rc<Gateway>, watched: Watched, condition: Arc<Condition>, places: Arc<Semaphore>) {
    let mut ticks = interval(watched.watch.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // It is never closed.
        let Ok(place) = places.acquire().await else { return };
        let passed =
            timeout(HEALTH_WAIT, check(&gateway, &watched)).await.is_ok_and(|passed| passed.is_some());
        drop(place);
        if condition.note(passed) {
            tell(&gateway, &watched, passed);
        }
    }
}

/// Asks a target once. `None` if it refuses.
async fn check(gateway: &Rc<Gateway>, Watched { target, watch, .. }: &Watched) -> Option<()> {
    match watch.check {
        Check::Arp => gateway.hear(*target).await,
        Check::Tcp => {
            let (network, peer) = gateway.reach(*target).await?;
            let number = gateway.open_port(Protocol::Tcp)?;
            let stack = gateway.stack(&network);
            let made = Connection::connect(&stack, number, target.endpoint, peer, CHECK_BUFFERS).await;
            made.ok().map(Connection::reset)
        }
    }
}

/// What follows when a target has gone down or come back. The datagrams of a flow would go on to one that is down for
/// as long as their sender does not notice, and nothing makes it.
fn tell(gateway: &Gateway, watched: &Watched, is_up: bool) {
    let Watched { protocol, target, last_port, watch } = watched;
    let (at, check) = (target.endpoint, watch.check.as_str());
    if is_up {
        log::info!("{}:{}/{protocol}: is up again ({check} check)", at.ip, at.port);
        return;
    }
    log::warn!("{}:{}/{protocol}: is down ({check} check), new connections go elsewhere", at.ip, at.port);
    if *protocol == Protocol::Udp {
        let leads_there = |connection: &Info| {
            matches!(connection.nat, Nat::Dnat | Nat::Hairpin)
                && connection.protocol == Protocol::Udp
                && (connection.port, connection.inside.ip) == (target.to, at.ip)
                && (at.port..=*last_port).contains(&connection.inside.port)
        };
        gateway.shared().conntrack.flush(now(), leads_there);
    }
}
