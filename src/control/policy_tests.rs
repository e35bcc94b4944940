//! The books under requests about rules and publications.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::apply_tests::{NOW, Switch, UPLINK_IP, ask, network, port, publish, refused, switch};
use super::error::Kind;
use super::response::{CheckInfo, DefaultInfo, PublicationInfo, Response, RuleInfo};
use crate::addr::{Endpoint, PortId, Protocol};
use crate::shared::Ask;
use crate::snapshot::Check;
use crate::table::conntrack::{Seen, Timeouts};
use crate::table::policy::{Action, Defaults, Listed, Place, Policy, Rule};
use crate::worker::now;

/// A switch with web and db on "default", and app on "blue".
fn populated() -> Switch {
    let mut control = switch();
    network(&mut control, r#"{"name":"blue","subnet":"10.2.0.0/24"}"#);
    port(&mut control, r#"{"name":"web","netns":"red"}"#);
    port(&mut control, r#"{"name":"db","tap":"tap0"}"#);
    port(&mut control, r#"{"name":"app","netns":"blue","network":"blue"}"#);
    control
}

fn add(control: &mut Switch, body: &str) -> RuleInfo {
    let Response::Rule(rule) = ask(control, "policy add", body).unwrap() else { panic!("{body}") };
    rule
}

fn rules(control: &mut Switch) -> Vec<RuleInfo> {
    let Response::Rules(rules) = ask(control, "policy ls", "").unwrap() else { panic!() };
    rules
}

/// Which names the rules have, in their order.
fn order(control: &mut Switch) -> Vec<String> {
    rules(control).into_iter().map(|rule| rule.name.unwrap_or_default()).collect()
}

fn check(control: &mut Switch, body: &str) -> CheckInfo {
    let Response::Check(check) = ask(control, "policy check", body).unwrap() else { panic!("{body}") };
    check
}

fn publications(control: &mut Switch) -> Vec<PublicationInfo> {
    let Response::Publications(all) = ask(control, "publish ls", "").unwrap() else { panic!() };
    all
}

fn id(control: &Switch, name: &str) -> PortId {
    let snapshot = control.shared().snapshot();
    snapshot.ports.iter().flatten().find(|port| port.name == name).unwrap().id
}

/// A UDP packet to be tracked for this port of the switch.
fn asks(owner: PortId, timeouts: &Timeouts) -> Ask<'_> {
    let seen = Seen { protocol: Protocol::Udp, segment: None, is_answer: false, bytes: 100, now: NOW };
    Ask { seen, timeouts, owner, quota: 1000, nat_ports: 1000, hairpin: false, called: false }
}

fn end(ip: [u8; 4], port: u16) -> Endpoint {
    Endpoint::new(ip.into(), port)
}

#[test]
fn rules_stay_as_they_were_written() {
    let mut control = populated();
    let made = add(
        &mut control,
        r#"{"action":"deny","from":"web,10.0.0.0/8","to":"lan,host","proto":"tcp","dport":"80-90","name":"a"}"#,
    );
    assert_eq!(
        (made.n, made.action, made.from.as_str(), made.to.as_str()),
        (1, Action::Deny, "web,10.0.0.0/8", "lan,host")
    );
    assert_eq!((made.proto, made.dport.as_deref()), (Some(Protocol::Tcp), Some("80-90")));
    add(&mut control, r#"{"action":"allow","from":"default","to":"blue","name":"b"}"#);
    let made = add(&mut control, r#"{"action":"deny","name":"c","before":2}"#);
    assert_eq!((made.n, made.from.as_str(), made.to.as_str(), made.proto), (2, "any", "any", None));
    assert_eq!(order(&mut control), ["a", "c", "b"]);
    // The very same once more.
    assert_eq!(add(&mut control, r#"{"action":"allow","from":"default","to":"blue","name":"b"}"#).n, 3);
    assert_eq!(add(&mut control, r#"{"action":"deny","name":"c","before":2}"#).n, 2);
    assert_eq!(order(&mut control), ["a", "c", "b"]);
    assert_eq!(
        refused(&mut control, "policy add", r#"{"action":"deny","name":"c","before":1}"#).kind,
        Kind::Exists
    );
    assert_eq!(refused(&mut control, "policy add", r#"{"action":"allow","name":"c"}"#).kind, Kind::Exists);
    ask(&mut control, "policy rm", r#"{"rule":1}"#).unwrap();
    ask(&mut control, "policy rm", r#"{"rule":"b"}"#).unwrap();
    assert_eq!(order(&mut control), ["c"]);
    for rule in ["0", "2", "\"b\""] {
        let body = format!(r#"{{"rule":{rule}}}"#);
        assert_eq!(refused(&mut control, "policy rm", &body).kind, Kind::NotFound);
        let body = format!(r#"{{"rule":{rule},"if_exists":true}}"#);
        assert!(ask(&mut control, "policy rm", &body).is_ok());
    }
}

#[test]
fn a_rule_that_means_nothing_is_refused() {
    let mut control = populated();
    network(&mut control, r#"{"name":"web","subnet":"10.3.0.0/24"}"#);
    network(&mut control, r#"{"name":"lan","subnet":"10.4.0.0/24"}"#);
    for (body, kind, says) in [
        (r#"{"action":"deny","from":"wbe"}"#, Kind::NotFound, "no such network or port"),
        (r#"{"action":"deny","to":"web"}"#, Kind::Usage, "network and of a port"),
        (r#"{"action":"deny","from":"internet","to":"lan,internet"}"#, Kind::Usage, "both ends are outside"),
        (r#"{"action":"deny","proto":"icmp","dport":"80"}"#, Kind::Usage, "ICMP has no ports"),
        (r#"{"action":"deny","from":"10.0.0.1/8"}"#, Kind::Usage, "bits behind the prefix"),
        (r#"{"action":"deny","dport":"90-80"}"#, Kind::Usage, "runs backwards"),
        (r#"{"action":"deny","before":1}"#, Kind::NotFound, "rule 1"),
        (r#"{"action":"deny","before":0}"#, Kind::NotFound, "rule 0"),
        (r#"{"action":"drop"}"#, Kind::Usage, "drop"),
        (r#"{"action":"deny","name":"12"}"#, Kind::Usage, "not a name for a rule"),
    ] {
        let error = refused(&mut control, "policy add", body);
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    // Where it has to be said which one is meant, it is.
    let rule = add(&mut control, r#"{"action":"deny","from":"port:web,network:web","to":"network:lan,lan"}"#);
    assert_eq!((rule.from.as_str(), rule.to.as_str()), ("port:web,network:web", "network:lan,lan"));
}

#[test]
fn a_rule_outlives_what_it_names() {
    let mut control = populated();
    add(&mut control, r#"{"action":"deny","from":"web","to":"lan"}"#);
    let asked = r#"{"from":"10.1.0.2","to":"lan","proto":"tcp","port":80}"#;
    assert_eq!(check(&mut control, asked).rule, Some(1));
    ask(&mut control, "port rm", r#"{"name":"web"}"#).unwrap();
    assert_eq!(check(&mut control, asked).by, "open");
    // Which it would have to be, if it were written anew.
    assert_eq!(rules(&mut control)[0].from, "port:web");
    // And it holds from the first packet on when that is back.
    port(&mut control, r#"{"name":"web","netns":"red","ip":"10.1.0.2"}"#);
    assert_eq!(check(&mut control, asked).rule, Some(1));
    assert_eq!(rules(&mut control)[0].from, "web");
}

#[test]
fn a_rule_may_be_there_first() {
    let mut control = populated();
    let error = refused(&mut control, "policy add", r#"{"action":"deny","from":"guest"}"#);
    assert!(error.hint.contains("port:guest"), "{error}");
    let rule = add(&mut control, r#"{"action":"deny","from":"port:guest,network:web","to":"internet"}"#);
    assert_eq!(rule.from, "port:guest,network:web", "a port is called web, which is not meant");
    let asked = r#"{"from":"10.1.0.9","to":"internet","proto":"icmp"}"#;
    assert_eq!(check(&mut control, asked).by, "open");
    let nobody = r#"{"from":"port:guest","to":"internet","proto":"icmp"}"#;
    assert_eq!(refused(&mut control, "policy check", nobody).kind, Kind::NotFound);
    port(&mut control, r#"{"name":"guest","tap":"tap7","ip":"10.1.0.9"}"#);
    assert_eq!(check(&mut control, asked).rule, Some(1));
    assert_eq!(rules(&mut control)[0].from, "guest,network:web");
}

#[test]
fn a_check_says_what_decides() {
    let mut control = populated();
    network(&mut control, r#"{"name":"vault","subnet":"10.5.0.0/24","mode":"internal"}"#);
    add(
        &mut control,
        r#"{"action":"allow","from":"web","to":"app","proto":"tcp","dport":"80","name":"front"}"#,
    );
    add(&mut control, r#"{"action":"deny","from":"web","to":"lan,host"}"#);
    publish(&mut control, r#"{"spec":"8080:80","to":"web"}"#);
    for (from, to, what, action, by, rule) in [
        ("web", "app", r#""tcp","port":80"#, Action::Allow, "rule", Some(1)),
        ("web", "app", r#""tcp","port":81"#, Action::Deny, "isolation", None),
        ("app", "web", r#""tcp","port":80"#, Action::Deny, "isolation", None),
        ("default", "blue", r#""tcp","port":80"#, Action::Deny, "isolation", None),
        ("web", "192.0.2.77", r#""udp","port":53"#, Action::Deny, "rule", Some(2)),
        ("web", "192.0.2.5", r#""icmp""#, Action::Deny, "rule", Some(2)),
        ("web", "10.1.0.1", r#""icmp""#, Action::Deny, "rule", Some(2)),
        ("web", "internet", r#""icmp""#, Action::Allow, "open", None),
        ("web", "db", r#""icmp""#, Action::Allow, "open", None),
        ("vault", "internet", r#""icmp""#, Action::Deny, "internal", None),
        ("internet", "web", r#""tcp","port":80"#, Action::Allow, "open", None),
        // At the host's address: what is published there is the container's, and all else is not for containers.
        ("app", "192.0.2.5", r#""tcp","port":22"#, Action::Deny, "host-service", None),
        ("app", "host", r#""udp","port":22"#, Action::Deny, "host-service", None),
        ("app", "host", r#""icmp""#, Action::Allow, "open", None),
        ("app", "192.0.2.5", r#""tcp","port":8080"#, Action::Deny, "isolation", None),
        ("db", "192.0.2.5", r#""tcp","port":8080"#, Action::Allow, "open", None),
        ("8.8.8.8", "192.0.2.5", r#""tcp","port":8080"#, Action::Allow, "open", None),
        ("vault", "192.0.2.5", r#""icmp""#, Action::Deny, "internal", None),
        // Its own gateway is at hand, and so is a host port.
        ("app", "10.2.0.1", r#""udp","port":53"#, Action::Allow, "open", None),
        ("internet", "web", r#""tcp","port":81"#, Action::Deny, "unpublished", None),
        ("8.8.8.8", "db", r#""icmp""#, Action::Deny, "unpublished", None),
    ] {
        let found = check(&mut control, &format!(r#"{{"from":"{from}","to":"{to}","proto":{what}}}"#));
        assert_eq!((found.action, found.by.as_str(), found.rule), (action, by, rule), "{from} {to} {what}");
    }
    ask(&mut control, "network host-port", r#"{"network":"blue"}"#).unwrap();
    let host = r#"{"from":"app","to":"host","proto":"tcp","port":22}"#;
    assert_eq!(check(&mut control, host).by, "open");
    let found = check(&mut control, r#"{"from":"web","to":"app","proto":"tcp","port":80}"#);
    assert_eq!(found.text, "allow: rule 1 (front): allow from web to app tcp port 80");
    for (body, kind) in [
        (r#"{"from":"web","to":"nobody","proto":"icmp"}"#, Kind::NotFound),
        (r#"{"from":"web","to":"10.0.0.0/8","proto":"icmp"}"#, Kind::Usage),
        (r#"{"from":"web","to":"app","proto":"tcp"}"#, Kind::Usage),
        (r#"{"from":"web","to":"app","proto":"icmp","port":1}"#, Kind::Usage),
    ] {
        assert_eq!(refused(&mut control, "policy check", body).kind, kind, "{body}");
    }
}

#[test]
fn defaults_of_networks_are_kept_where_they_differ() {
    let mut control = populated();
    let mut default = |body: &str| -> Vec<DefaultInfo> {
        let Response::Defaults(all) = ask(&mut control, "policy default", body).unwrap() else { panic!() };
        all
    };
    assert_eq!(default(""), []);
    let allow = r#"{"from":"default","to":"blue","action":"allow"}"#;
    assert_eq!(default(allow).len(), 1);
    assert_eq!(default(allow)[0].to, "blue");
    assert_eq!(default(r#"{"from":"default","to":"default","action":"deny"}"#).len(), 2);
    assert_eq!(default(r#"{"from":"default","to":"blue","action":"deny"}"#).len(), 1, "as it is anyway");
    let error = refused(&mut control, "policy default", r#"{"from":"default","to":"grey","action":"allow"}"#);
    assert_eq!(error.kind, Kind::NotFound);
    assert_eq!(refused(&mut control, "policy default", r#"{"from":"default"}"#).kind, Kind::Usage);
}

#[test]
fn a_default_goes_with_its_network() {
    let mut control = populated();
    ask(&mut control, "policy default", r#"{"from":"default","to":"blue","action":"allow"}"#).unwrap();
    ask(&mut control, "policy default", r#"{"from":"default","to":"default","action":"deny"}"#).unwrap();
    ask(&mut control, "port rm", r#"{"name":"app"}"#).unwrap();
    ask(&mut control, "network rm", r#"{"name":"blue"}"#).unwrap();
    let Response::Defaults(left) = ask(&mut control, "policy default", "").unwrap() else { panic!() };
    assert_eq!(left.len(), 1, "{left:?}");
    // A network with the same name is another one.
    network(&mut control, r#"{"name":"blue","subnet":"10.2.0.0/24"}"#);
    let asked = r#"{"from":"default","to":"blue","proto":"icmp"}"#;
    assert_eq!(check(&mut control, asked).action, Action::Deny);
}

#[test]
fn connections_end_when_they_are_not_allowed_any_more() {
    let mut control = populated();
    publish(&mut control, r#"{"spec":"53:53/udp","to":"web"}"#);
    add(&mut control, r#"{"action":"allow","from":"web","to":"app"}"#);
    let (web, db, timeouts) = (id(&control, "web"), id(&control, "db"), Timeouts::default());
    let shared = control.shared().clone();
    let conntrack = &shared.conntrack;
    let external = UPLINK_IP;
    let [web_ip, db_ip, app_ip] = [[10, 1, 0, 2], [10, 1, 0, 3], [10, 2, 0, 2]];
    // To the internet, to the LAN, from the world, to another network, and around.
    conntrack.outward(end(web_ip, 1), end([8, 8, 8, 8], 53), external, &asks(web, &timeouts)).unwrap();
    conntrack.outward(end(web_ip, 2), end([192, 0, 2, 77], 53), external, &asks(web, &timeouts)).unwrap();
    let client = end([9, 9, 9, 9], 7);
    let target = Some(end(web_ip, 53));
    let published = Endpoint::new(external, 53);
    conntrack.inward(published, client, target, &asks(web, &timeouts)).unwrap();
    conntrack.direct(end(web_ip, 4), end(app_ip, 80), &asks(web, &timeouts)).unwrap();
    let around = Ask { hairpin: true, ..asks(db, &timeouts) };
    let shown = conntrack.outward(end(db_ip, 5), published, external, &around).unwrap().endpoint;
    let around = Ask { hairpin: true, ..asks(web, &timeouts) };
    conntrack.inward(published, shown, target, &around).unwrap();
    let left = || conntrack.stats().connections;
    assert_eq!((left(), rules(&mut control)[0].connections), (6, 1));

    add(&mut control, r#"{"action":"deny","from":"web","to":"lan"}"#);
    assert_eq!(left(), 5, "the one to the LAN");
    add(&mut control, r#"{"action":"deny","from":"db","to":"web","proto":"udp","dport":"53","before":1}"#);
    assert_eq!(left(), 3, "both halves of the one around");
    ask(&mut control, "policy rm", r#"{"rule":2}"#).unwrap();
    assert_eq!(left(), 2, "the one that was allowed");
    add(&mut control, r#"{"action":"deny","from":"internet"}"#);
    assert_eq!(left(), 1, "the one from the world");
    add(&mut control, r#"{"action":"allow","from":"web","before":1}"#);
    assert_eq!(left(), 1);
    add(&mut control, r#"{"action":"deny","before":1}"#);
    assert_eq!(left(), 0);
}

#[test]
fn a_port_is_chosen_where_none_is_named() {
    let mut control = populated();
    control.host_mut().host_ports.insert((Protocol::Tcp, 32_768));
    let first = publish(&mut control, r#"{"spec":"80","to":"web"}"#);
    assert_eq!((first.port_first, first.target_first), (32_769, 80));
    assert_eq!(publish(&mut control, r#"{"spec":"80","to":"web"}"#), first, "the very same");
    assert_eq!(publish(&mut control, r#"{"spec":"192.0.2.5::80-81","to":"db"}"#).port_first, 32_770);
    assert_eq!(publish(&mut control, r#"{"spec":"8000-8001:80","to":"web"}"#).port_first, 8000);
    assert_eq!(publish(&mut control, r#"{"spec":"8000-8001:80","to":"db"}"#).port_first, 8001);
    let error = refused(&mut control, "publish add", r#"{"spec":"8000-8001:80","to":"app"}"#);
    assert_eq!(error.kind, Kind::Exists);
    // A range is one publication, and one thing in the host's hands.
    let before = control.host().reserved.len();
    publish(&mut control, r#"{"spec":"20000-29999:20000-29999/udp","to":"web"}"#);
    assert_eq!(control.host().reserved.len(), before + 1);
    assert_eq!(control.shared().snapshot().publications.iter().count(), 5);
}

#[test]
fn a_publication_leads_to_those_that_are_there() {
    let mut control = populated();
    let made = publish(&mut control, r#"{"spec":"8080:80","to":["web","db"]}"#);
    assert_eq!((made.target_port.as_str(), made.targets.len()), ("web,db", 2));
    let targets = |control: &Switch| -> Vec<Ipv4Addr> {
        let snapshot = control.shared().snapshot();
        let found = snapshot.publications.find(Protocol::Tcp, Endpoint::new(UPLINK_IP, 8080));
        found.map_or_else(Vec::new, |p| p.targets_at(8080).map(|target| target.endpoint.ip).collect())
    };
    assert_eq!(targets(&control).len(), 2);
    ask(&mut control, "port rm", r#"{"name":"web"}"#).unwrap();
    assert_eq!(targets(&control), [Ipv4Addr::new(10, 1, 0, 3)]);
    assert_eq!(publications(&mut control)[0].target_port, "db");
    ask(&mut control, "port rm", r#"{"name":"db"}"#).unwrap();
    assert_eq!((targets(&control), publications(&mut control)), (vec![], vec![]));
    assert!(control.host().reserved.is_empty());
    for (body, kind) in [
        (r#"{"spec":"1:1","to":[]}"#, Kind::Usage),
        (r#"{"spec":"1:1","to":["app","app"]}"#, Kind::Usage),
        (r#"{"spec":"1:1","to":["app","gone"]}"#, Kind::NotFound),
    ] {
        assert_eq!(refused(&mut control, "publish add", body).kind, kind, "{body}");
    }
}

#[test]
fn targets_are_watched_when_asked() {
    let mut control = populated();
    let body = r#"{"spec":"8080:80","to":["web","db"],"health":"tcp"}"#;
    let made = publish(&mut control, body);
    assert_eq!((made.health, made.health_interval), (Some(Check::Tcp), Some(2)));
    assert_eq!(publish(&mut control, body), made, "the very same");
    let of = |control: &Switch| {
        let snapshot = control.shared().snapshot_full();
        let found = snapshot.publications.find(Protocol::Tcp, Endpoint::new(UPLINK_IP, 8080)).cloned();
        found.and_then(|publication| publication.health).unwrap()
    };
    let (watch, conditions) = of(&control);
    assert_eq!((watch.check, watch.interval), (Check::Tcp, Duration::from_secs(2)));
    while !conditions[1].note(false) {}
    let up: Vec<_> = publications(&mut control)[0].targets.iter().map(|target| target.up).collect();
    assert_eq!(up, [true, false]);
    // Who stays keeps the condition that was found out.
    ask(&mut control, "port rm", r#"{"name":"web"}"#).unwrap();
    assert!(Arc::ptr_eq(&of(&control).1[0], &conditions[1]));
    for (body, says) in [
        (r#"{"spec":"8080:80","to":"db"}"#, "is published already"),
        (r#"{"spec":"1:1","to":"db","health_interval":3}"#, "an interval without a check"),
        (r#"{"spec":"1:1","to":"db","health":"arp","health_interval":0}"#, "out of range"),
        (r#"{"spec":"1:1/udp","to":"db","health":"tcp"}"#, "use --health arp"),
        (r#"{"spec":"1:1","to":"db","health":"icmp"}"#, "unknown variant"),
    ] {
        let error = refused(&mut control, "publish add", body);
        assert!(error.to_string().contains(says), "{body}: {error}");
    }
}

/// Has a worker that still decides by what was before let somebody in by port 8080, whenever it is waited for. Counts
/// how often.
fn let_in_meanwhile(control: &mut Switch, to: Endpoint) -> Rc<Cell<usize>> {
    let count = Rc::new(Cell::new(0));
    let counted = count.clone();
    let (shared, owner) = (control.shared().clone(), id(control, "web"));
    let (outside, remote) = (Endpoint::new(UPLINK_IP, 8080), end([198, 51, 100, 7], 4000));
    control.host_mut().meanwhile.0 = Some(Box::new(move || {
        shared.conntrack.inward(outside, remote, Some(to), &asks(owner, &Timeouts::default())).unwrap();
        counted.set(counted.get() + 1);
    }));
    count
}

#[test]
fn nobody_is_let_in_by_what_is_taken_back_or_translated_as_before() {
    let mut control = populated();
    let left = |control: &Switch| control.shared().conntrack.entries(NOW).len();
    let web = Endpoint::new(Ipv4Addr::new(10, 1, 0, 2), 80);
    publish(&mut control, r#"{"spec":"8080:80/udp","to":"web"}"#);
    let let_in = let_in_meanwhile(&mut control, web);
    ask(&mut control, "publish rm", r#"{"spec":"8080/udp"}"#).unwrap();
    assert_eq!((let_in.get(), left(&control)), (1, 0), "publish rm");
    ask(&mut control, "network set", r#"{"name":"default","settings":[{"mode":"routed"}]}"#).unwrap();
    assert_eq!((let_in.get(), left(&control)), (2, 0), "network set");
}

#[test]
fn scopes_say_who_may_be_a_client() {
    let mut control = populated();
    assert_eq!(publish(&mut control, r#"{"spec":"1:1","to":"web"}"#).scope, "any");
    assert_eq!(publish(&mut control, r#"{"spec":"2:2","to":"web","lan":true}"#).scope, "lan");
    let local = publish(&mut control, r#"{"spec":"3:3","to":"web","loopback":true}"#);
    assert_eq!((local.scope.as_str(), local.ip), ("loopback", Some(Ipv4Addr::LOCALHOST)));
    for body in [
        r#"{"spec":"4:4","to":"web","lan":true,"loopback":true}"#,
        r#"{"spec":"192.0.2.5:4:4","to":"web","loopback":true}"#,
    ] {
        assert_eq!(refused(&mut control, "publish add", body).kind, Kind::Usage, "{body}");
    }
    let error = refused(&mut control, "publish add", r#"{"spec":"1:1","to":"web","lan":true}"#);
    assert_eq!(error.kind, Kind::Exists, "another scope is another publication");
}

#[test]
fn one_more_of_ten_thousand_rules_takes_no_time() {
    let mut control = populated();
    let rule = |n: u16| {
        let [a, b] = n.to_be_bytes();
        let prefix = Ipv4Net::new(Ipv4Addr::new(203, a, b, 0), 24).unwrap();
        let (from, to) = (vec![Place::Network("default".into())], vec![Place::Prefix(prefix)]);
        let rule = Rule { action: Action::Deny, from, to, protocol: None, ports: None };
        Arc::new(Listed::new(rule, None))
    };
    let policy = Arc::new(Policy::new((0..10_000).map(rule).collect(), Defaults::new()));
    control.shared().publish(|snapshot| snapshot.policy = policy);
    let mut times: Vec<_> = (0..11)
        .map(|n| {
            let begun = now();
            add(
                &mut control,
                &format!(r#"{{"action":"deny","from":"web","to":"192.0.2.{n}","before":5000}}"#),
            );
            now().since(begun)
        })
        .collect();
    times.sort_unstable();
    println!("one more of 10,000 rules: {:?} to {:?}", times[0], times[10]);
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 10 });
    assert!(times[5] < limit, "{times:?}");
    let asked = r#"{"from":"web","to":"192.0.2.10","proto":"tcp","port":80}"#;
    assert_eq!(check(&mut control, asked).rule, Some(5000));
    let asked = r#"{"from":"db","to":"203.39.15.1","proto":"tcp","port":80}"#;
    assert_eq!(check(&mut control, asked).rule, Some(10_011), "the last one");
}
