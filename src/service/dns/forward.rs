//! Forwarding: queries that wait for the host's resolvers, equal ones together.
//!
//! At any time, one query at most is under way for a question (name, type and class) over each transport. Whoever asks
//! the same meanwhile waits for its answer: who can make the switch ask one question a thousand times at once could
//! otherwise answer it by guessing one of a thousand numbers (RFC 5452 5). A query that asks the same *differently*
//! (other flags, other EDNS options) cannot have the other's answer, because answers are passed on verbatim; it takes
//! its turn when that has come.
//!
//! **Bounds.** [`DNS_WAITING`] queries wait, and [`DNS_WAITING_PER_PORT`] of them are from one port. One more is refused.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::message::{self, Question};
use super::resolvers::Resolvers;
use super::upstream::{self, Transport};
use crate::addr::PortId;
use crate::limits::{DNS_WAITING, DNS_WAITING_PER_PORT};
use crate::worker::now;

/// How long a client is kept waiting, its turn included.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who waits for an answer.
#[derive(Debug)]
struct Asker {
    query: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

impl Asker {
    /// Whether an answer to `query` answers this one: they are equal but for their numbers.
    fn asks(&self, query: &[u8]) -> bool {
        self.query.get(2..) == query.get(2..)
    }
}

type Key = (Question, Transport);

/// The forwarder.
#[derive(Debug)]
pub struct Forwarder {
    resolvers: RefCell<Resolvers>,
    /// Questions that are under way, and who waits for an answer to them.
    asked: RefCell<HashMap<Key, Vec<Asker>>>,
    /// How many queries of each port wait.
    waiting: RefCell<HashMap<PortId, usize>>,
}

impl Forwarder {
    /// Asks `resolvers`.
    pub fn new(resolvers: Resolvers) -> Rc<Self> {
        Rc::new(Forwarder {
            resolvers: RefCell::new(resolvers),
            asked: RefCell::default(),
            waiting: RefCell::default(),
        })
    }

    /// Asks the resolvers `query` of `port`, which asks `question`. `None` if too many wait already. To be called
    /// within a `LocalSet`.
    pub fn forward(
        self: &Rc<Self>,
        port: PortId,
        transport: Transport,
        query: &[u8],
        question: Question,
    ) -> Option<Pending> {
        let place = Place::take(self, port)?;
        let (answer, answered) = oneshot::channel();
        let key = (question, transport);
        let asker = Asker { query: query.to_vec(), answer };
        if let Some(askers) = self.asked.borrow_mut().get_mut(&key) {
            askers.push(asker);
        } else {
            spawn_local(self.clone().ask(key.clone(), asker.query.clone()));
            self.asked.borrow_mut().insert(key, vec![asker]);
        }
        Some(Pending { query: query.to_vec(), answered, _place: place })
    }

    /// Asks a question, first as `query` does, until nobody waits for an answer to it.
    async fn ask(self: Rc<Self>, key: Key, mut query: Vec<u8>) {
        let (question, transport) = &key;
        loop {
            let servers = self.resolvers.borrow_mut().now(now()).to_vec();
            let answer = upstream::ask(&servers, *transport, &query, question).await;
            let mut asked = self.asked.borrow_mut();
            let askers = asked.get_mut(&key).map(std::mem::take).unwrap_or_default();
            let (same, mut others): (Vec<_>, Vec<_>) =
                askers.into_iter().partition(|asker| asker.asks(&query));
            if let Some(answer) = answer {
                for asker in same {
                    // Who does not wait any more needs no answer.
                    let _ = asker.answer.send(answer.clone());
                }
            }
            others.retain(|asker| !asker.answer.is_closed());
            let Some(next) = others.first() else {
                asked.remove(&key);
                return;
            };
            query.clone_from(&next.query);
            asked.insert(key.clone(), others);
        }
    }
}

/// A query that waits for its answer.
#[derive(Debug)]
pub struct Pending {
    query: Vec<u8>,
    answered: oneshot::Receiver<Vec<u8>>,
    _place: Place,
}

impl Pending {
    /// What a resolver has said, or that none has in time.
    pub async fn answer(self) -> Vec<u8> {
        let Ok(Ok(mut answer)) = timeout(PATIENCE, self.answered).await else {
            return message::failure(&self.query, ResponseCode::ServFail);
        };
        message::set_id(&mut answer, message::id(&self.query));
        answer
    }
}

/// A place among those who wait, given back when it is dropped.
#[derive(Debug)]
struct Place {
    forwarder: Rc<Forwarder>,
    port: PortId,
}

impl Place {
    fn take(forwarder: &Rc<Forwarder>, port: PortId) -> Option<Self> {
        let mut waiting = forwarder.waiting.borrow_mut();
        if waiting.values().sum::<usize>() >= DNS_WAITING {
            return None;
        }
        let of_port = waiting.entry(port).or_default();
        if *of_port >= DNS_WAITING_PER_PORT {
            return None;
        }
        *of_port += 1;
        Some(Place { forwarder: forwarder.clone(), port })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.forwarder.waiting.borrow_mut();
        if let Some(count) = waiting.get_mut(&self.port) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.port);
            }
        }
    }
}
