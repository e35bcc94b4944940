//! DNS messages, as far as a forwarder reads them (RFC 1035 4.1).
//!
//! What is forwarded is not understood: of a query, and of the reply to it, only the header and the one question are
//! read, so that record types, options and whatever else is invented tomorrow pass as they are (RFC 5625 4.4). A
//! message whose sole question is not written out plainly has no [`Question`]: in the first name of a message there is
//! nothing that a compression pointer could point to (RFC 9267 2). Only answers that are the switch's own are composed
//! of parts, by `hickory-proto`.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, Metadata, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::wire::be16;

/// Bytes of a header.
const HEADER_LEN: usize = 12;

/// Bytes of a name with its last, empty label, at most (RFC 1035 2.3.4).
const NAME_MAX: usize = 255;

/// Bytes of a label, at most (RFC 1035 2.3.4). Longer lengths are pointers, or nothing that exists.
const LABEL_MAX: u8 = 63;

/// Bytes of a message over UDP for a client that does not say more (RFC 1035 4.2.1).
const UDP_PAYLOAD: u16 = 512;

/// Bytes of a message over UDP that we take ourselves (RFC 6891 6.2.5).
const OUR_UDP_PAYLOAD: u16 = 4096;

/// How long an answer of the switch's own may be kept, in seconds: names come and go with containers.
const TTL: u32 = 0;

/// QR: the message is a response.
const RESPONSE: u8 = 0x80;
/// OPCODE; zero is a standard query.
const OPCODE: u8 = 0x78;

/// Type A: an IPv4 address.
pub const A_TYPE: u16 = 1;
/// Type PTR: a name.
pub const PTR_TYPE: u16 = 12;
/// Every type.
pub const ANY_TYPE: u16 = 255;
/// Class IN: the Internet.
const IN_CLASS: u16 = 1;

/// What a message asks: name, type and class. Names that differ in case only are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// The labels in lower case, each with its length in front, and an empty one last.
    name: Box<[u8]>,
    /// The type (RFC 1035 3.2.3).
    pub kind: u16,
    class: u16,
}

impl Question {
    /// The question of a message, if it has one and no more.
    fn of(message: &[u8]) -> Option<Question> {
        if message.len() < HEADER_LEN || be16(message, 4) != 1 {
            return None;
        }
        let body = &message[HEADER_LEN..];
        let mut end = 0;
        loop {
            let len = *body.get(end)?;
            if len > LABEL_MAX {
                return None;
            }
            end += 1 + usize::from(len);
            if end > NAME_MAX {
                return None;
            }
            if len == 0 {
                break;
            }
        }
        let rest = body.get(end..end + 4)?;
        // No length of a label is a letter.
        let name = body[..end].to_ascii_lowercase().into();
        Some(Question { name, kind: be16(rest, 0), class: be16(rest, 2) })
    }

    /// The name in lower case, with dots and without the last one. `None` if it is not of class IN or has other
    /// characters than the names of ports and networks.
    pub fn name(&self) -> Option<String> {
        if self.class != IN_CLASS {
            return None;
        }
        let mut text = String::with_capacity(self.name.len());
        let mut rest = &self.name[..];
        while let [len, labels @ ..] = rest {
            let (label, others) = labels.split_at_checked(usize::from(*len))?;
            if label.is_empty() {
                break;
            }
            if !label.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|&byte| char::from(byte)));
            rest = others;
        }
        Some(text)
    }
}

/// What came from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A query.
    Query(Question),
    /// Something else, and what to say to it.
    Refused(Vec<u8>),
    /// Nothing that is answered: too short, or itself a response, and answering those makes loops.
    Ignored,
}

/// Reads what came from a client.
pub fn read(message: &[u8]) -> Received {
    if message.len() < HEADER_LEN || message[2] & RESPONSE != 0 {
        return Received::Ignored;
    }
    if message[2] & OPCODE != 0 {
        // Updates and transfers of zones would speak to the host's resolver with the host's rights.
        return Received::Refused(failure(message, ResponseCode::NotImp));
    }
    match Question::of(message) {
        Some(question) => Received::Query(question),
        // RFC 9619: a query has one question.
        None => Received::Refused(failure(message, ResponseCode::FormErr)),
    }
}

/// Whether `reply` is a reply to the query with this number and question (RFC 5452 9.1).
pub fn answers(reply: &[u8], id: u16, question: &Question) -> bool {
    reply.len() >= HEADER_LEN
        && be16(reply, 0) == id
        && reply[2] & (RESPONSE | OPCODE) == RESPONSE
        && Question::of(reply).as_ref() == Some(question)
}

/// The response code of a reply, without what EDNS adds to it.
pub fn response_code(reply: &[u8]) -> ResponseCode {
    ResponseCode::from(0, reply.get(3).map_or(0, |flags| flags & 0x0f))
}

/// The number of a message.
pub fn id(message: &[u8]) -> u16 {
    if message.len() < 2 { 0 } else { be16(message, 0) }
}

/// Gives a message another number.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(field) = message.first_chunk_mut() {
        *field = id.to_be_bytes();
    }
}

/// A response without records to `query`, whose header must be there: the question is repeated if it can be read.
pub fn failure(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut decoder = BinDecoder::new(query);
    let Ok(header) = hickory_proto::op::Header::read(&mut decoder) else { return Vec::new() };
    let mut response = Message::response(header.metadata.id, header.metadata.op_code);
    response.metadata = respond(&header.metadata, code);
    if Question::of(query).is_some()
        && let Ok(question) = Query::read(&mut decoder)
    {
        response.add_query(question);
        response.edns = Message::from_vec(query).ok().and_then(|query| edns(&query));
    }
    response.to_vec().unwrap_or_default()
}

/// What the switch itself knows about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// The addresses that it has; none if it has none of the type that is asked for.
    Addresses(Vec<Ipv4Addr>),
    /// The names that an address has; none if only other types have some.
    Names(Vec<String>),
    /// There is no such name.
    NoName,
}

/// The answer to `query` that the switch gives itself. `udp` says whether it must fit a datagram; if it does not, it
/// is empty and says that TCP carries it.
pub fn answer(query: &[u8], records: &Records, udp: bool) -> Vec<u8> {
    let Ok(query) = Message::from_vec(query) else { return failure(query, ResponseCode::FormErr) };
    let (Some(question), edns) = (query.queries.first(), edns(&query)) else { return Vec::new() };
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    let known = if *records == Records::NoName { ResponseCode::NXDomain } else { ResponseCode::NoError };
    let old = query.edns.as_ref().is_none_or(|edns| edns.version() == 0);
    response.metadata = respond(&query.metadata, if old { known } else { ResponseCode::BADVERS });
    response.metadata.authoritative = old;
    response.add_query(question.clone());
    let record = |data| Record::from_rdata(question.name().clone(), TTL, data);
    match records {
        _ if !old => {}
        Records::Addresses(addresses) => {
            response.add_answers(addresses.iter().map(|&ip| record(RData::A(A(ip)))));
        }
        Records::Names(names) => {
            let names = names.iter().filter_map(|name| Name::from_ascii(format!("{name}.")).ok());
            response.add_answers(names.map(|name| record(RData::PTR(PTR(name)))));
        }
        Records::NoName => {}
    }
    let room = query.edns.as_ref().map_or(UDP_PAYLOAD, |edns| edns.max_payload().max(UDP_PAYLOAD));
    response.edns = edns;
    let Ok(bytes) = response.to_vec() else { return Vec::new() };
    if udp && bytes.len() > usize::from(room) {
        return response.truncate().to_vec().unwrap_or_default();
    }
    bytes
}

/// The header of a response. Recursion is what the host's resolvers do for us.
fn respond(query: &Metadata, code: ResponseCode) -> Metadata {
    let mut response = Metadata::response_from_request(query);
    response.recursion_available = true;
    response.response_code = code;
    response
}

/// What a response says to a query with EDNS, and only to one (RFC 6891 6.1.1).
fn edns(query: &Message) -> Option<Edns> {
    let asked = query.edns.as_ref()?;
    let mut edns = Edns::new();
    edns.set_max_payload(OUR_UDP_PAYLOAD).set_dnssec_ok(asked.flags().dnssec_ok);
    Some(edns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for a name and type, as every stub resolver writes it.
    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(IN_CLASS.to_be_bytes());
        bytes
    }

    fn with_edns(mut query: Vec<u8>, version: u8, payload: u16) -> Vec<u8> {
        query[11] = 1;
        let [high, low] = payload.to_be_bytes();
        query.extend([0, 0, 41, high, low, 0, version, 0, 0, 0, 0]);
        query
    }

    fn asked(message: &[u8]) -> Option<Question> {
        match read(message) {
            Received::Query(question) => Some(question),
            Received::Refused(_) | Received::Ignored => None,
        }
    }

    #[test]
    fn a_question_has_a_name_without_regard_to_case() {
        let question = asked(&query("Web.DEFAULT", A_TYPE)).unwrap();
        assert_eq!(question.name().as_deref(), Some("web.default"));
        assert_eq!(asked(&query("", A_TYPE)).unwrap().name().as_deref(), Some(""));
        assert_eq!(asked(&query("we b", A_TYPE)).unwrap().name(), None, "no port is called so");
        // A label that contains a dot is not two labels.
        let mut dotted = query("webxdefault", A_TYPE);
        dotted[16] = b'.';
        assert_eq!(asked(&dotted).unwrap().name(), None);
        // Type 65 and 97 differ in the bit that tells letters' case.
        assert_ne!(asked(&query("web", 65)), asked(&query("web", 97)));
        assert_eq!(asked(&query("web", 65534)).unwrap().kind, 65534);
    }

    #[test]
    fn row_88_every_cut_and_every_wrong_length_is_refused() {
        let whole = query("web.default", A_TYPE);
        for len in 0..whole.len() {
            assert_eq!(asked(&whole[..len]), None, "{len}");
        }
        let refused = |message: &[u8]| matches!(read(message), Received::Refused(_));
        for (byte, value) in [
            (5, 0),     // no question
            (5, 2),     // two of which one is there
            (4, 255),   // far more than there are
            (12, 0x40), // label types that do not exist
            (12, 0x80),
            (12, 63), // a label beyond the end
        ] {
            let mut bad = whole.clone();
            bad[byte] = value;
            assert!(refused(&bad), "byte {byte} = {value}");
        }
    }

    #[test]
    fn row_88_names_have_at_most_255_bytes_and_no_pointers() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert!(asked(&query(&longest, A_TYPE)).is_some());
        assert!(asked(&query(&format!("{longest}a"), A_TYPE)).is_none());
        assert!(asked(&query(&format!("{label}a"), A_TYPE)).is_none());
        // Pointers: to itself, forward, back into the header.
        for target in [12u8, 40, 0] {
            let mut looped = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, target, 0, 1, 0, 1];
            assert!(asked(&looped).is_none());
            looped.splice(12..12, [3, b'w', b'e', b'b']);
            assert!(asked(&looped).is_none());
        }
    }

    #[test]
    fn row_88_loops_of_pointers_cost_nothing() {
        // 65,535 bytes of pointers to pointers, as records of a query that we answer ourselves.
        let mut message = query("web", A_TYPE);
        message[6..8].copy_from_slice(&u16::MAX.to_be_bytes());
        while message.len() < 65_534 {
            let at = u16::try_from(message.len().min(0x3fff)).unwrap();
            message.extend((0xc000 | at).to_be_bytes());
        }
        #[allow(clippy::disallowed_methods, reason = "it is the processor's time that is bounded")]
        let took = || {
            let start = std::time::Instant::now();
            let response = answer(&message, &Records::NoName, true);
            assert_eq!(response_code(&response), ResponseCode::FormErr);
            start.elapsed()
        };
        // Others use the processor as well: the best of some.
        let best = (0..10).map(|_| took()).min().unwrap();
        assert!(best < std::time::Duration::from_millis(1), "{best:?}");
    }

    #[test]
    fn row_88_a_reply_matches_in_number_name_type_and_class() {
        let sent = query("web.default", A_TYPE);
        let question = asked(&sent).unwrap();
        let mut reply = sent.clone();
        reply[2] |= RESPONSE;
        assert!(answers(&reply, 0x1234, &question));
        let mut shouted = reply.clone();
        shouted[13] = b'W';
        assert!(answers(&shouted, 0x1234, &question), "case does not count");
        for byte in [0, 1, 2, 5, 13, 16, 24, 25, 26, 27, 28] {
            let mut forged = reply.clone();
            // The top bit of byte 2 makes it a query again.
            forged[byte] ^= if byte == 2 { 0x80 } else { 1 };
            if forged != reply {
                assert!(!answers(&forged, 0x1234, &question), "byte {byte}");
            }
        }
        assert!(!answers(&reply, 0x1235, &question));
        assert!(!answers(&reply[..11], 0x1234, &question));
    }

    #[test]
    fn responses_and_scraps_are_not_answered_and_other_operations_are_refused() {
        let mut response = query("web", A_TYPE);
        response[2] |= RESPONSE;
        assert_eq!(read(&response), Received::Ignored);
        assert_eq!(read(&[0; 11]), Received::Ignored);
        let mut update = query("web", A_TYPE);
        update[2] |= 5 << 3;
        let Received::Refused(said) = read(&update) else { panic!("an update is refused") };
        assert_eq!(response_code(&said), ResponseCode::NotImp);
        assert_eq!(id(&said), 0x1234);
    }

    #[test]
    fn own_answers_say_what_is_known() {
        let ip = Ipv4Addr::new(172, 30, 0, 2);
        let bytes = answer(&query("web", A_TYPE), &Records::Addresses(vec![ip]), true);
        let message = Message::from_vec(&bytes).unwrap();
        assert!(message.metadata.authoritative && message.metadata.recursion_available);
        assert!(message.metadata.recursion_desired);
        assert_eq!(message.answers[0].data, RData::A(A(ip)));
        assert_eq!(message.edns, None, "no EDNS to a client without");
        assert!(answers(&bytes, 0x1234, &asked(&query("web", A_TYPE)).unwrap()));

        let bytes = answer(&query("web", 28), &Records::Addresses(Vec::new()), true);
        assert_eq!(response_code(&bytes), ResponseCode::NoError);
        let bytes = answer(
            &query("2.0.30.172.in-addr.arpa", PTR_TYPE),
            &Records::Names(vec!["web.default".into()]),
            true,
        );
        assert!(Message::from_vec(&bytes).unwrap().answers[0].to_string().contains("web.default."));
        assert_eq!(
            response_code(&answer(&query("w", A_TYPE), &Records::NoName, true)),
            ResponseCode::NXDomain
        );
    }

    #[test]
    fn edns_is_answered_with_edns_and_an_unknown_version_with_badvers() {
        let ip = Ipv4Addr::new(172, 30, 0, 2);
        let old = answer(&with_edns(query("web", A_TYPE), 0, 1232), &Records::Addresses(vec![ip]), true);
        let message = Message::from_vec(&old).unwrap();
        assert_eq!((message.edns.unwrap().version(), message.answers.len()), (0, 1));
        let new = answer(&with_edns(query("web", A_TYPE), 1, 1232), &Records::Addresses(vec![ip]), true);
        let message = Message::from_vec(&new).unwrap();
        assert_eq!(u16::from(message.metadata.response_code), 16, "BADVERS");
        assert!(message.answers.is_empty());
    }

    #[test]
    fn what_does_not_fit_a_datagram_says_so() {
        let many = Records::Addresses((0..200).map(|n| Ipv4Addr::new(172, 30, 1, n)).collect());
        let truncated = |bytes: &[u8]| Message::from_vec(bytes).unwrap().metadata.truncation;
        let plain = answer(&query("web", A_TYPE), &many, true);
        assert!(truncated(&plain) && plain.len() <= 512);
        assert!(!truncated(&answer(&query("web", A_TYPE), &many, false)));
        assert!(!truncated(&answer(&with_edns(query("web", A_TYPE), 0, 4096), &many, true)));
        let edns = answer(&with_edns(query("web", A_TYPE), 0, 1232), &many, true);
        assert!(truncated(&edns) && Message::from_vec(&edns).unwrap().edns.is_some());
    }
}
