//! The index against a plain search, and what rules mean.

use proptest::prelude::*;

use super::*;

const ADDRESSES: [Ipv4Addr; 5] = [
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::new(10, 0, 0, 3),
    Ipv4Addr::new(10, 0, 1, 2),
    Ipv4Addr::new(192, 168, 0, 9),
    Ipv4Addr::new(203, 0, 113, 9),
];

fn inside(ip: Ipv4Addr, port: &'static str, network: &'static str) -> End<'static> {
    End { ip, zone: Zone::Inside, port: Some(port), network: Some(network) }
}

fn outside(ip: Ipv4Addr, zone: Zone) -> End<'static> {
    End { ip, zone, port: None, network: None }
}

/// What there is in this small world.
fn ends() -> [End<'static>; 6] {
    [
        inside(ADDRESSES[0], "web", "red"),
        inside(ADDRESSES[1], "db", "red"),
        inside(ADDRESSES[2], "web2", "blue"),
        outside(ADDRESSES[3], Zone::Lan),
        outside(ADDRESSES[4], Zone::Internet),
        outside(Ipv4Addr::new(10, 0, 0, 1), Zone::Host),
    ]
}

fn ask(from: End<'static>, to: End<'static>, protocol: Protocol, port: u16) -> Question<'static> {
    Question { from, to, protocol: Some(protocol), port }
}

fn rule(action: Action, from: &[Place], to: &[Place]) -> Rule {
    Rule { action, from: from.to_vec(), to: to.to_vec(), protocol: None, ports: None }
}

fn policy(rules: impl IntoIterator<Item = Rule>) -> Policy {
    let listed = rules.into_iter().map(|rule| Arc::new(Listed::new(rule, None)));
    Policy::new(listed.collect(), Defaults::new())
}

/// As the words mean it.
fn matches(rule: &Rule, question: &Question<'_>) -> bool {
    let is_at = |end: &End<'_>, place: &Place| match place {
        Place::Network(name) => end.network == Some(name),
        Place::Port(name) => end.port == Some(name),
        Place::Prefix(prefix) => prefix.contains(&end.ip),
        Place::Internet => end.zone == Zone::Internet,
        Place::Lan => end.zone == Zone::Lan,
        Place::Host => end.zone == Zone::Host,
    };
    let at_one = |end, places: &[Place]| places.is_empty() || places.iter().any(|place| is_at(end, place));
    let has_ports = matches!(question.protocol, Some(Protocol::Tcp | Protocol::Udp));
    at_one(&question.from, &rule.from)
        && at_one(&question.to, &rule.to)
        && rule.protocol.is_none_or(|protocol| question.protocol == Some(protocol))
        && rule.ports.as_ref().is_none_or(|ports| has_ports && ports.contains(&question.port))
}

fn place() -> impl Strategy<Value = Place> {
    let name = |names: &'static [&'static str]| prop::sample::select(names).prop_map(str::to_owned);
    prop_oneof![
        name(&["red", "blue", "gone"]).prop_map(Place::Network),
        name(&["web", "db", "web2", "gone"]).prop_map(Place::Port),
        (prop::sample::select(&ADDRESSES[..]), 0..=32_u8)
            .prop_map(|(ip, len)| Place::Prefix(Ipv4Net::new(ip, len).unwrap().trunc())),
        prop::sample::select(&[Place::Internet, Place::Lan, Place::Host][..]),
    ]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Icmp)];
    let ports = prop_oneof![
        (0..20_u16, 0..20_u16).prop_map(|(a, b)| a.min(b)..=a.max(b)),
        Just(0..=u16::MAX),
        Just(65_530..=u16::MAX),
    ];
    let places = || prop::collection::vec(place(), 0..3);
    (action, places(), places(), prop::option::of(protocol), prop::option::of(ports))
        .prop_map(|(action, from, to, protocol, ports)| Rule { action, from, to, protocol, ports })
}

proptest! {
    #[test]
    fn the_first_rule_that_matches_decides(
        rules in prop::collection::vec(any_rule(), 0..40),
        changes in prop::collection::vec((0..40_usize, any::<bool>()), 0..30),
    ) {
        let policy = policy(rules.clone());
        // The same, if they come and go one by one, in any order.
        let mut one_by_one = policy.clone();
        for &(place, goes) in &changes {
            let count = one_by_one.rules().len();
            match (goes, count) {
                (true, 1..) => one_by_one = one_by_one.without(place % count),
                _ => {
                    let rule = rules.get(place).cloned().unwrap_or_else(|| rule(Action::Deny, &[], &[]));
                    one_by_one = one_by_one.with(place % (count + 1), Arc::new(Listed::new(rule, None)));
                }
            }
        }
        let changed: Vec<Rule> = one_by_one.rules().iter().map(|listed| listed.rule.clone()).collect();
        for (from, to) in ends().into_iter().flat_map(|from| ends().map(|to| (from, to))) {
            for protocol in [None, Some(Protocol::Tcp), Some(Protocol::Udp), Some(Protocol::Icmp)] {
                for port in (0..20).chain([65_529, 65_530, u16::MAX]) {
                    let question = Question { from, to, protocol, port };
                    let expected = rules.iter().position(|rule| matches(rule, &question));
                    prop_assert_eq!(policy.index.first(&question, &policy.list), expected, "{:?}", question);
                    let now = changed.iter().position(|rule| matches(rule, &question));
                    let found = one_by_one.index.first(&question, &one_by_one.list);
                    prop_assert_eq!(found, now, "{:?}", question);
                    if let (Some(from), Some(to), Some(_)) = (from.network, to.network, expected) {
                        prop_assert!(from != to || policy.is_about_neighbors());
                    }
                }
            }
        }
    }
}

#[test]
fn networks_are_isolated_unless_a_rule_or_their_default_says_otherwise() {
    let [web, db, web2, lan, internet, host] = ends();
    let none = Policy::default();
    assert_eq!(none.judge(&ask(web, web2, Protocol::Tcp, 80)), Ruling::Isolated);
    for to in [db, lan, internet, host] {
        assert_eq!(none.judge(&ask(web, to, Protocol::Tcp, 80)), Ruling::Open);
    }
    let defaults = Defaults::from([(("red".into(), "blue".into()), Action::Allow)]);
    let deny = rule(Action::Deny, &[Place::Port("db".into())], &[]);
    let policy = Policy::new(vec![Arc::new(Listed::new(deny, None))], defaults);
    assert_eq!(policy.judge(&ask(web, web2, Protocol::Tcp, 80)), Ruling::Default(Action::Allow));
    assert_eq!(policy.judge(&ask(web2, web, Protocol::Tcp, 80)), Ruling::Isolated, "one direction only");
    assert_eq!(policy.judge(&ask(db, web2, Protocol::Tcp, 80)), Ruling::Rule(0, Action::Deny));
}

#[test]
fn internet_yes_lan_no_host_no_is_one_rule() {
    let [web, db, web2, lan, internet, host] = ends();
    let deny = rule(Action::Deny, &[Place::Port("web".into())], &[Place::Lan, Place::Host]);
    let policy = policy([deny]);
    for (from, to, action) in [
        (web, internet, Action::Allow),
        (web, db, Action::Allow),
        (web, web2, Action::Deny),
        (web, lan, Action::Deny),
        (web, host, Action::Deny),
        (db, lan, Action::Allow),
    ] {
        assert_eq!(policy.judge(&ask(from, to, Protocol::Tcp, 443)).action(), action, "{to:?}");
    }
    assert!(!policy.is_about_neighbors(), "nothing that is switched has to be looked at");
}

#[test]
fn thousands_of_rules_of_one_kind_are_one_search() {
    let [web, _, web2, ..] = ends();
    let each = |port| Rule {
        protocol: Some(Protocol::Tcp),
        ports: Some(port..=port),
        ..rule(Action::Allow, &[Place::Network("red".into())], &[Place::Network("blue".into())])
    };
    let policy = policy((1..=10_000).map(each).chain([rule(Action::Deny, &[], &[])]));
    assert_eq!(policy.judge(&ask(web, web2, Protocol::Tcp, 7777)), Ruling::Rule(7776, Action::Allow));
    assert_eq!(policy.judge(&ask(web, web2, Protocol::Udp, 7777)), Ruling::Rule(10_000, Action::Deny));
}

#[test]
fn names_that_no_rule_says_any_more_are_forgotten() {
    let web = || Arc::new(Listed::new(rule(Action::Deny, &[Place::Port("web".into())], &[]), None));
    let mut policy = policy([]).with(0, web());
    for n in 0..1000 {
        let (from, to) = (Place::Port(format!("c{n}")), Place::Network(format!("n{n}")));
        policy = policy.with(1, Arc::new(Listed::new(rule(Action::Allow, &[from], &[to]), None))).without(1);
        assert!(policy.index.names() <= 2 * 64, "{n}: {}", policy.index.names());
    }
    let [web, _, web2, ..] = ends();
    assert_eq!(policy.judge(&ask(web, web2, Protocol::Tcp, 80)), Ruling::Rule(0, Action::Deny));
}
