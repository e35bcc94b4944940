//! DNS in both directions: what comes from a client, and what comes from a resolver.
//!
//! An input is a client's message behind its length, and a resolver's reply. What must hold: nothing panics; what is
//! taken for a question is what an independent parser reads; every answer of the switch's own is a well-formed response
//! to the very query, and fits a datagram where it must; a reply is believed only if number and question are right; and
//! nothing but the number of what is passed on is changed.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use vswitchd::addr::NetworkId;
use vswitchd::service::dns::message::{self, Question, Received, Records};
use vswitchd::service::dns::names;
use vswitchd::sim::Switch;
use vswitchd::snapshot::{NetworkMode, Snapshot};

use super::Input;

/// Bytes of a header.
const HEADER_LEN: usize = 12;

/// Reads the messages of an input.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let Some(len) = input.word() else { return };
    let (query, reply) = (input.bytes(usize::from(len)), input.0);
    match message::read(query) {
        Received::Query(question) => {
            is_what_others_read(query, &question);
            known(query, &question);
            believed(query, &question, reply);
        }
        Received::Refused(said) => {
            assert!(query.len() >= HEADER_LEN && query[2] & 0x80 == 0, "what is no query is not answered");
            // What cannot even be read as a header is not.
            if !said.is_empty() {
                is_response(&said, query);
            }
        }
        Received::Ignored => {}
    }
}

/// The name that a question is about, as hickory reads it: labels in lower case with their lengths.
fn name_of(query: &Query) -> Vec<u8> {
    let labels = query.name().iter();
    let mut name: Vec<u8> =
        labels.flat_map(|label| u8::try_from(label.len()).into_iter().chain(label.iter().copied())).collect();
    name.push(0);
    name.to_ascii_lowercase()
}

fn is_what_others_read(query: &[u8], question: &Question) {
    let mut decoder = BinDecoder::new(&query[HEADER_LEN..]);
    let other = Query::read(&mut decoder).expect("hickory refuses a question that was accepted");
    assert_eq!(u16::from(other.query_type()), question.kind);
    if let Some(name) = question.name() {
        let dotted: Vec<u8> =
            name.split('.').filter(|label| !label.is_empty()).fold(Vec::new(), |mut all, label| {
                all.push(u8::try_from(label.len()).expect("a label"));
                all.extend(label.bytes());
                all
            });
        assert_eq!([&dotted[..], &[0]].concat(), name_of(&other), "{name}");
    }
}

/// What the switch answers itself.
fn known(query: &[u8], question: &Question) {
    let some = Ipv4Addr::new(172, 30, 0, 2);
    let looked_up = SNAPSHOT.with(|snapshot| names::look_up(snapshot, NetworkId(0), question));
    let made_up = [
        Records::NoName,
        Records::Addresses(vec![]),
        Records::Addresses(vec![some; 200]),
        Records::Names(vec!["web.default".to_owned(); 3]),
    ];
    for records in looked_up.iter().chain(&made_up) {
        for udp in [false, true] {
            let said = message::answer(query, records, udp);
            if said.is_empty() {
                continue;
            }
            is_response(&said, query);
            assert!(!udp || said.len() <= 512 || Message::from_vec(query).is_ok_and(|q| q.edns.is_some()));
        }
    }
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let said = message::failure(query, code);
        is_response(&said, query);
        assert_eq!(message::response_code(&said), code);
        assert!(message::answers(&said, message::id(query), question), "the question is repeated");
    }
}

thread_local! {
    /// A switch with two ports.
    static SNAPSHOT: std::sync::Arc<Snapshot> = {
        let mut switch = Switch::new(16);
        let network = switch.add_network("172.30.0.0/16".parse().expect("a prefix"), NetworkMode::Nat);
        let _ports = [switch.add_port(network), switch.add_port(network)];
        switch.shared.snapshot_full()
    };
}

/// A response to `query` that anybody can read.
fn is_response(said: &[u8], query: &[u8]) {
    let response = Message::from_vec(said).expect("what we say can be read");
    assert_eq!(message::id(said), message::id(query));
    assert!(said[2] & 0x80 != 0, "it is a response");
    assert_eq!(said[2] & 0x78, query[2] & 0x78, "to the same operation");
    assert!(response.queries.len() <= 1);
}

/// What a resolver says.
fn believed(query: &[u8], question: &Question, reply: &[u8]) {
    let id = message::id(query);
    if !message::answers(reply, id, question) {
        return;
    }
    assert_eq!((message::id(reply), reply[2] & 0x80), (id, 0x80));
    let asked = Query::read(&mut BinDecoder::new(&query[HEADER_LEN..])).expect("a question");
    let answered = Query::read(&mut BinDecoder::new(&reply[HEADER_LEN..])).expect("a question");
    assert_eq!(name_of(&asked), name_of(&answered));
    assert_eq!((asked.query_type(), asked.query_class()), (answered.query_type(), answered.query_class()));
    let mut passed_on = reply.to_vec();
    message::set_id(&mut passed_on, !id);
    assert_eq!((message::id(&passed_on), &passed_on[2..]), (!id, &reply[2..]), "nothing else is changed");
    assert!(!message::answers(&passed_on, id, question), "another number");
}
