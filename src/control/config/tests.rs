//! Files are read, applied as a whole or not at all, and written so that they apply to the same state.

use std::time::Duration;

use crate::control::apply_tests::{Switch, ask, state, switch};
use crate::control::error::Error;
use crate::control::response::{Applied, Configuration, Response};
use crate::worker::now;

/// Applies a file.
fn apply(control: &mut Switch, text: &str) -> Result<Applied, Error> {
    let body = serde_json::json!({ "text": text }).to_string();
    match ask(control, "apply", &body)? {
        Response::Applied(applied) => Ok(applied),
        other => panic!("{other:?}"),
    }
}

/// Applies a file without faults, and returns what it changed.
fn changes(control: &mut Switch, text: &str) -> Vec<String> {
    let applied = apply(control, text).unwrap();
    assert_eq!(applied.faults, [], "{text}");
    applied.changes
}

fn dump(control: &mut Switch) -> String {
    let Response::Configuration(Configuration { text }) = ask(control, "dump", "").unwrap() else { panic!() };
    text
}

/// A file that wants nothing but what there is at the start.
const NOTHING: &str = "[[network]]\nname = \"default\"\n";

const RICH: &str = include_str!("sample.toml");

#[test]
fn a_file_makes_what_it_says_and_then_changes_nothing() {
    let mut control = switch();
    let done = changes(&mut control, RICH);
    assert!(
        done.contains(
            &"network create backend --gateway 10.2.0.254 --mode internal --mtu 1400 --subnet 10.2.0.0/24"
                .into()
        ),
        "{done:#?}"
    );
    assert!(
        done.contains(&"port add db --ifname eth7 --ip 10.2.0.9 --netns blue --network backend".into()),
        "{done:#?}"
    );
    assert!(done.contains(&"publish add 8080-8081:80-81/tcp --to web".into()), "{done:#?}");
    assert!(
        done.contains(&"ct timeouts udp=77".into()) && done.contains(&"fdb ageing 60".into()),
        "{done:#?}"
    );
    let after = state(&control);
    let generation = control.shared().generation();
    assert_eq!(changes(&mut control, RICH), Vec::<String>::new());
    assert_eq!((state(&control), control.shared().generation()), (after, generation));
}

#[test]
fn a_dump_applies_to_the_same_state_here_and_elsewhere() {
    let mut control = switch();
    changes(&mut control, RICH);
    let text = dump(&mut control);
    let before = state(&control);
    assert_eq!(changes(&mut control, &text), Vec::<String>::new(), "{text}");
    assert_eq!(state(&control), before);
    let mut other = switch();
    changes(&mut other, &text);
    assert_eq!(dump(&mut other), text);
}

#[test]
fn only_what_differs_is_touched() {
    let mut control = switch();
    changes(&mut control, RICH);
    let less = RICH.replace("connections = 50, ", "").replace("udp = 77", "icmp = 5");
    assert_eq!(
        changes(&mut control, &less),
        ["port set web --network default connections=65536", "ct timeouts udp=300 icmp=5"]
    );
    let moved = less.replace("10.2.0.9", "10.2.0.10");
    assert_eq!(changes(&mut control, &moved).len(), 2);
    let bigger = moved.replace("mtu = 1400", "mtu = 1410");
    assert_eq!(changes(&mut control, &bigger), ["network set backend mode=internal mtu=1410"]);
    assert_eq!(changes(&mut control, &moved), ["network set backend mode=internal mtu=1400"]);
    assert_eq!(
        changes(&mut control, &less.replace("10.2.0.9", "10.2.0.11")),
        ["port rm db --if-exists", "port add db --ifname eth7 --ip 10.2.0.11 --netns blue --network backend"]
    );
    let elsewhere =
        moved.replace("8080-8081:80-81/tcp\"\nto = \"web\"", "8080-8081:80-81/tcp\"\nto = \"db\"");
    let refused = apply(&mut control, &elsewhere).unwrap();
    assert!(refused.changes.is_empty() && refused.faults.len() == 1, "{refused:?}");
    assert!(refused.faults[0].error.why.contains("internal network"), "{refused:?}");
    assert_eq!(
        changes(&mut control, NOTHING),
        [
            "policy default default backend deny",
            "publish rm 8080-8081/tcp --if-exists",
            "publish rm 127.0.0.1:53/udp --if-exists",
            "publish rm 9000/tcp --if-exists",
            "port rm db --if-exists",
            "port rm vm --if-exists",
            "port rm vm2 --if-exists",
            "network host-port backend --off",
            "port rm web --if-exists",
            "network rm backend --if-exists",
            "network dhcp default lease=3600 domain=",
            "ct timeouts icmp=60",
            "fdb ageing 300",
            "policy rm 3 --if-exists",
            "policy rm 2 --if-exists",
            "policy rm 1 --if-exists",
        ]
    );
    assert_eq!(changes(&mut control, NOTHING), Vec::<String>::new());
}

#[test]
fn a_file_that_got_lost_on_its_way_changes_nothing() {
    let mut control = switch();
    changes(&mut control, RICH);
    let before = dump(&mut control);
    for text in ["", "\n\n", "# all that was left of it\n"] {
        let applied = apply(&mut control, text).unwrap();
        assert_eq!(applied.changes, [""; 0]);
        assert!(applied.faults[0].error.why.contains("would remove everything"), "{applied:?}");
    }
    assert_eq!(dump(&mut control), before);
}

#[test]
fn rules_take_their_places_with_few_steps() {
    let mut control = switch();
    changes(&mut control, RICH);
    let (deny, allow) = (
        "[[policy]]\naction = \"deny\"\nto = \"host\"\n",
        "[[policy]]\naction = \"allow\"\nto = \"10.0.0.0/8\"\n",
    );
    let less = RICH.replace(deny, "");
    assert_eq!(changes(&mut control, &less), ["policy rm 3 --if-exists"]);
    let first = RICH.replace(deny, "").replacen("[[policy]]", &[deny, "[[policy]]"].concat(), 1);
    assert_eq!(changes(&mut control, &first), ["policy add deny --before 1 --to host"]);
    let swapped = first.replace(deny, "").replacen(
        "[[policy_default]]",
        &[allow, deny, "[[policy_default]]"].concat(),
        1,
    );
    let done = changes(&mut control, &swapped);
    assert_eq!(done.len(), 3, "{done:#?}");
    assert_eq!(changes(&mut control, &swapped), Vec::<String>::new());
    let wrong = swapped.replace("to = \"10.0.0.0/8\"", "to = \"nobody\"");
    let faults = apply(&mut control, &wrong).unwrap().faults;
    assert!(faults.len() == 1 && faults[0].error.to_string().contains("nobody"), "{faults:?}");
    assert_eq!(changes(&mut control, &swapped), Vec::<String>::new());
    let plain =
        swapped.replace("dhcp = { lease = 600, domain = \"example.com\" }", "dhcp = { server = \"off\" }");
    assert_eq!(changes(&mut control, &plain), ["network dhcp default off lease=3600 domain="]);
}

#[test]
fn rules_about_what_is_gone_can_be_applied_again() {
    let mut control = switch();
    changes(&mut control, RICH);
    ask(&mut control, "network create", r#"{"name":"web","subnet":"10.8.0.0/24"}"#).unwrap();
    for (from, to) in [("port:web", "backend"), ("network:web", "db"), ("port:db", "network:web")] {
        let body = format!(r#"{{"action":"deny","from":"{from}","to":"{to}"}}"#);
        ask(&mut control, "policy add", &body).unwrap();
    }
    ask(&mut control, "policy default", r#"{"from":"web","to":"backend","action":"allow"}"#).unwrap();
    let before = dump(&mut control);
    assert_eq!(changes(&mut control, &before), [""; 0]);
    for (what, name) in [("network rm", "web"), ("port rm", "db"), ("port rm", "web")] {
        ask(&mut control, what, &format!(r#"{{"name":"{name}"}}"#)).unwrap();
        let text = dump(&mut control);
        assert_eq!(changes(&mut control, &text), [""; 0], "after {what} {name}\n{text}");
    }
    // Those that the command line made are there already, so only they differ.
    let mut other = switch();
    let text = dump(&mut control);
    changes(&mut other, &text);
    assert_eq!(dump(&mut other), text);
}

#[test]
fn vlans_stand_with_their_port_or_by_themselves() {
    let mut control = switch();
    let with_port = |more: &str| {
        let networks = RICH.split("[[port]]").next().unwrap();
        format!(
            "{networks}[[network]]\nname = \"dmz\"\n\n[[port]]\nname = \"vm\"\ndevice = \"veth0\"\n{more}"
        )
    };
    let text = with_port("vlan = [\"backend=10\", \"dmz=20\"]\n");
    let done = changes(&mut control, &text);
    assert!(done.contains(&"network connect backend vm --vlan 10".into()), "{done:#?}");
    assert_eq!(changes(&mut control, &text), Vec::<String>::new());
    let dumped = dump(&mut control);
    assert!(dumped.contains("vlan = 20"), "{dumped}");
    assert_eq!(changes(&mut control, &dumped), Vec::<String>::new());
    let mut other = switch();
    changes(&mut other, &dumped);
    assert_eq!(dump(&mut other), dumped);
    // They change places, and one goes.
    let swapped = with_port("vlan = [\"backend=20\", \"dmz=10\"]\n");
    assert_eq!(
        changes(&mut control, &swapped),
        [
            "network disconnect backend vm --if-exists",
            "network disconnect dmz vm --if-exists",
            "network connect backend vm --vlan 20",
            "network connect dmz vm --vlan 10",
        ]
    );
    let one = with_port("[[connect]]\nnetwork = \"dmz\"\nport = \"vm\"\nvlan = 10\nset = { mtu = 1300 }\n");
    assert_eq!(
        changes(&mut control, &one),
        ["network disconnect backend vm --if-exists", "port set vm --network dmz mtu=1300"]
    );
    for (wrong, says) in [
        ("vlan = [\"dmz=4095\"]\n", "1 to 4094"),
        ("vlan = [\"dmz=1\"]\n[[connect]]\nnetwork = \"dmz\"\nport = \"vm\"\nvlan = 2\n", "stands in line"),
        ("vlan = [\"dmz=1\", \"backend=1\"]\n", "VLAN 1: is network"),
    ] {
        let faults = apply(&mut control, &with_port(wrong)).unwrap().faults;
        assert!(faults.len() == 1 && faults[0].error.to_string().contains(says), "{wrong}: {faults:?}");
    }
}

#[test]
fn networks_can_change_places() {
    let mut control = switch();
    changes(&mut control, RICH);
    let swapped =
        RICH.replace("10.1.0.", "10.9.0.").replace("10.2.0.", "10.1.0.").replace("10.9.0.", "10.2.0.");
    changes(&mut control, &swapped);
    let text = dump(&mut control);
    let mut other = switch();
    changes(&mut other, &swapped);
    assert_eq!(dump(&mut other), text);
}

#[test]
fn every_fault_is_told_with_its_line_and_nothing_changes() {
    let mut control = switch();
    changes(&mut control, RICH);
    let before = state(&control);
    let file = r#"uplink = "eth9"
colour = "red"

[[network]]
name = "a"
subnet = "10.3.0.0/33"

[[network]]
name = "b"
subnet = "10.3.0.0/24"
frob = 1

[[network]]
name = "default"
subnet = "10.1.0.0/24"

[[network]]
name = "default"
subnet = "10.4.0.0/24"

[[port]]
name = "web"
netns = "green"
set = { mtu = 5, colour = "red" }

[[port]]
name = "web2"
netns = "red"
network = "nowhere"

[[publish]]
spec = "90-80:1-2"
to = "web"

[timeouts]
udp = "soon"

[frob]
x = 1
"#;
    let faults = apply(&mut control, file).unwrap().faults;
    let lines: Vec<_> = faults.iter().map(|fault| fault.line).collect();
    let told: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.line, fault.error)).collect();
    assert_eq!(lines, [1, 2, 6, 11, 17, 21, 24, 24, 26, 32, 36, 38], "{told:#?}");
    for says in [
        "1: uplink",
        "6: network",
        "unknown field `frob`",
        "stands in line 13 already",
        "green",
        "colour",
        "nowhere",
        "runs backwards",
    ] {
        assert!(told.iter().any(|line| line.contains(says)), "{says}: {told:#?}");
    }
    assert!(told.iter().all(|line| line.ends_with(')')), "{told:#?}");
    assert_eq!(state(&control), before);

    for (broken, line) in
        [("[[network]\nname=1", 1), ("\n\nx = ", 3), ("[network]\nname = \"a\"", 1), ("fdb = 3", 1)]
    {
        let faults = apply(&mut control, broken).unwrap().faults;
        assert_eq!(faults.first().map(|fault| fault.line), Some(line), "{broken}: {faults:?}");
        assert_eq!(state(&control), before, "{broken}");
    }
}

#[test]
fn a_step_that_the_kernel_refuses_undoes_those_before_it() {
    let mut control = switch();
    changes(&mut control, RICH);
    let before = (state(&control), dump(&mut control));
    // Without a default, too, which is the first thing that is done.
    let default = "[[policy_default]]\nfrom = \"default\"\nto = \"backend\"\naction = \"allow\"\n";
    let other = RICH.replace("10.2.0.9", "10.2.0.10").replace("udp = 77", "udp = 78").replace(default, "");
    assert!(!other.contains("policy_default"));
    control.host_mut().fail_next = true;
    let error = apply(&mut control, &other).unwrap_err();
    assert!(error.to_string().contains("out of memory"), "{error}");
    assert_eq!((state(&control), dump(&mut control)), before);
}

#[test]
fn a_dry_run_only_tells() {
    let mut control = switch();
    let before = state(&control);
    let body = serde_json::json!({ "text": RICH, "dry_run": true }).to_string();
    let Response::Applied(told) = ask(&mut control, "apply", &body).unwrap() else { panic!() };
    assert_eq!(state(&control), before);
    assert_eq!(changes(&mut control, RICH), told.changes);
}

#[test]
fn a_rule_that_is_written_twice_is_a_fault_unless_it_follows_itself() {
    let mut control = switch();
    let rule =
        |to: &str, name: &str| format!("[[policy]]\naction = \"deny\"\nto = \"{to}\"\nname = \"{name}\"\n");
    let twice = rule("10.0.0.1", "a") + &rule("10.0.0.1", "a") + &rule("10.0.0.2", "b");
    let done = changes(&mut control, &twice);
    assert_eq!(done.len(), 2, "{done:?}");
    for (second, says) in
        [(rule("10.0.0.1", "a"), "as rule 1"), (rule("10.0.0.3", "b"), "the name of rule 2")]
    {
        let before = state(&control);
        let faults =
            apply(&mut control, &(rule("10.0.0.1", "a") + &rule("10.0.0.2", "b") + &second)).unwrap().faults;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].line, 9);
        assert!(faults[0].error.to_string().contains(says), "{faults:?}");
        assert_eq!(state(&control), before);
    }
}

#[test]
fn ten_thousand_rules_and_a_thousand_publications_are_applied_in_no_time() {
    let mut control = switch();
    let mut text = "[[port]]\nname = \"web\"\nnetns = \"red\"\n".to_owned();
    for n in 0..1000 {
        text += &format!("[[publish]]\nspec = \"{}:80/tcp\"\nto = \"web\"\n", 1024 + n);
    }
    for n in 0..10_000_u16 {
        let [a, b] = n.to_be_bytes();
        text += &format!("[[policy]]\naction = \"deny\"\nfrom = \"web\"\nto = \"203.{a}.{b}.0/24\"\n");
    }
    let timed = |control: &mut Switch, text: &str| {
        let begun = now();
        let done = changes(control, text).len();
        (done, now().since(begun))
    };
    let (made, first) = timed(&mut control, &text);
    let (none, again) = timed(&mut control, &text);
    // Every rule in another place, and every publication somewhere else.
    let moved = text.replace("\"203.", "\"204.").replace(":80/tcp", ":81/tcp");
    let (changed, third) = timed(&mut control, &moved);
    println!("made {made} in {first:?}, none in {again:?}, changed {changed} in {third:?}");
    assert_eq!((made, none, changed), (11_001, 0, 22_000));
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 2 });
    assert!(first < limit && again < limit && third < limit, "{first:?} {again:?} {third:?}");
}
