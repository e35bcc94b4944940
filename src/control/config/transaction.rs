//! Applying: all of a file, or nothing.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::document::{DaemonOption, Document, Wish, read};
use super::dump::{command, file, settings, timeouts, usual_dhcp};
use super::rehearsal::Rehearsal;
use super::wished::Wished;
use crate::clock::Time;
use crate::control::apply::{Control, DEFAULT_NETWORK};
use crate::control::dhcp_setting::DhcpSetting;
use crate::control::error::{Error, Kind};
use crate::control::host::Host;
use crate::control::name::{IfName, Name};
use crate::control::policies::usual_default;
use crate::control::policy_spec::WhichRule;
use crate::control::ports::change;
use crate::control::publications::scoped;
use crate::control::publish_spec::{Listen, Unpublish};
use crate::control::records::PortRecord;
use crate::control::request::{
    Apply, CtTimeouts, FdbAgeing, NetworkCreate, NetworkDhcp, NetworkDisconnect, NetworkHostPort, NetworkSet,
    NetworkSetting, PolicyAdd, PolicyDefault, PolicyRm, PortSet, PublishRm, Remove, Request,
};
use crate::control::response::{Applied, Configuration, Fault, PortKind};
use crate::control::rules::Rules;
use crate::control::uplink::UplinkRecord;
use crate::host::state::StateDir;
use crate::limits::MAC_AGEING;
use crate::snapshot::{Network, NetworkMode, Port};
use crate::table::conntrack::Timeouts;
use crate::table::policy::Policy;

impl<H: Host> Control<H> {
    /// Makes the switch what a file says, or changes nothing.
    ///
    /// What is wrong with the file is in the answer, all of it.
    ///
    /// # Errors
    /// `Failed` if the kernel refused a step. What was done before it is undone then.
    pub(in crate::control) fn apply_file(&mut self, apply: &Apply, now: Time) -> Result<Applied, Error> {
        let mut document = read(&apply.text);
        document.faults.extend(document.refuse_empty());
        let options = std::mem::take(&mut document.options);
        for (at, DaemonOption { line, name, .. }) in options.iter().enumerate() {
            // One that is repeated is compared as a whole.
            if options[..at].iter().any(|before| before.name == *name) {
                continue;
            }
            let values = options.iter().filter(|option| option.name == *name);
            let refused = self.refuse_option(name, &values.map(|option| &*option.value).collect::<Vec<_>>());
            document.faults.extend(refused.map(|error| Fault { line: *line, error }));
        }
        self.fulfil(document, apply.dry_run, now)
    }

    /// Makes the switch what a file says that was read, its options apart; if this is no `dry_run`, which only says
    /// what would change.
    ///
    /// # Errors
    /// `Failed` if the kernel refused a step. What was done before it is undone then.
    pub fn fulfil(&mut self, document: Document, dry_run: bool, now: Time) -> Result<Applied, Error> {
        let Document { wishes, mut faults, .. } = document;
        let (steps, refused) = self.rehearse(&wishes, now);
        faults.extend(refused);
        faults.sort_by_key(|fault| fault.line);
        if !faults.is_empty() {
            return Ok(Applied { changes: Vec::new(), faults });
        }
        if !dry_run {
            self.perform(&steps, now)?;
        }
        Ok(Applied { changes: steps.iter().map(command).collect(), faults })
    }

    /// The file that would make this switch.
    pub(in crate::control) fn dump(&self) -> Result<Configuration, Error> {
        Ok(Configuration { text: file(&self.options, &self.wishes()?)? })
    }

    /// Why an option of the daemon cannot have these values, if it cannot.
    fn refuse_option(&self, name: &str, values: &[&str]) -> Option<Error> {
        let running = self.options.iter().filter(|(known, _)| known == name);
        let running: Vec<_> = running.map(|(_, value)| value.as_str()).collect();
        if running.is_empty() {
            let why = "is no option that this switch was started with";
            return Some(Error::usage(name, why, "leave it out, or restart vswitchd with it"));
        }
        let why = format_args!("is {} while the switch runs", running.join(" and "));
        (running != values).then(|| Error::failed(name, why, "restart vswitchd with the new value"))
    }

    /// The steps from what is to what is wished, and what stands in the way.
    fn rehearse(&mut self, wishes: &[Wish], now: Time) -> (Vec<Request>, Vec<Fault>) {
        let mut run = Run { books: self.copy(), steps: Vec::new(), now };
        let mut faults = run.fulfil_all_but_rules(wishes);
        faults.extend(run.order_rules(wishes));
        (run.steps, faults)
    }

    /// Does the steps, or none.
    fn perform(&mut self, steps: &[Request], now: Time) -> Result<(), Error> {
        let (before, policy) = (self.wishes_but_policy()?, self.snapshot().policy.clone());
        let Err(error) = self.go(steps, now) else { return Ok(()) };
        let before: Vec<Wish> = before.into_iter().map(|request| Wish { line: 0, request }).collect();
        let mut back = Run { books: self.copy(), steps: Vec::new(), now };
        back.fulfil_all_but_rules(&before);
        for step in back.steps {
            if let Err(error) = self.apply(step.clone(), now) {
                log::error!("{}: cannot be undone: {error}", command(&step));
            }
        }
        // With all its rules and defaults: nothing else has to be known of thousands of them.
        self.set_policy(Policy::clone(&policy), true, now);
        Err(error)
    }

    /// Does the steps in their order. Changes of rules are one change, and so are publications, and their ends: nobody sees
    /// the rules half changed, and a thousand publications are told to the kernel at once.
    fn go(&mut self, steps: &[Request], now: Time) -> Result<(), Error> {
        let is_rule = |step: &Request| matches!(step, Request::PolicyAdd(_) | Request::PolicyRm(_));
        let publishes = |step: &Request| matches!(step, Request::PublishAdd(_));
        let unpublishes = |step: &Request| matches!(step, Request::PublishRm(_));
        let are_one = |a: &Request, b: &Request| {
            let are_both = |is: &dyn Fn(&Request) -> bool| is(a) && is(b);
            are_both(&is_rule) || are_both(&publishes) || are_both(&unpublishes)
        };
        steps.chunk_by(are_one).try_for_each(|chunk| match chunk {
            [step] => self.apply(step.clone(), now).map(drop),
            [Request::PublishAdd(_), ..] => self.publish_all(chunk, now),
            [Request::PublishRm(_), ..] => {
                self.unpublish_all(chunk, now);
                Ok(())
            }
            _ => self.change_rules(chunk, now),
        })
    }

    /// Books that say the same, with tables of their own and a host that does nothing.
    fn copy(&mut self) -> Control<Rehearsal<'_>> {
        let reserved: Vec<Listen> =
            self.publications.iter().map(|record| record.spec.listen.clone()).collect();
        Control {
            shared: Arc::new(self.shared.rehearsal()),
            host: Rehearsal::of(&mut self.host, reserved),
            state: StateDir::none(),
            ports: self.ports.clone(),
            book: self.book.clone(),
            publications: self.publications.clone(),
            dhcp: self.dhcp.clone(),
            uplinks: self.uplinks.iter().map(UplinkRecord::copy).collect(),
            host_ports: self.host_ports.clone(),
            lans: self.lans.clone(),
            retired: self.retired,
            options: self.options.clone(),
        }
    }
}

/// A port's name, and one of its interfaces with its network's.
type Interface = (Name, Name, PortRecord);

/// A rehearsal.
struct Run<'a> {
    books: Control<Rehearsal<'a>>,
    /// The requests that have changed something.
    steps: Vec<Request>,
    now: Time,
}

impl Run<'_> {
    /// Does what is needed for all wishes but those for rules, and returns what is wrong with them.
    fn fulfil_all_but_rules(&mut self, wishes: &[Wish]) -> Vec<Fault> {
        let wished = Wished::of(wishes);
        self.remove_all_but(&wished);
        // What must make room for its successor does so first; then everything has its place, or never will.
        let others = wishes.iter().filter(|wish| wish.request.route().0 != "policy");
        let open: Vec<&Wish> = others.filter(|wish| !self.make_room(&wish.request)).collect();
        let refused = |Wish { line, request }: &Wish| {
            self.step(request).err().map(|error| Fault { line: *line, error })
        };
        let faults = open.into_iter().filter_map(refused).collect();
        self.settle(&wished);
        faults
    }

    /// Does what a request asks, and notes it if that changed anything.
    fn step(&mut self, request: &Request) -> Result<(), Error> {
        let request = match request {
            Request::PortSet(set) => self.full_settings(set)?,
            Request::CtTimeouts(timeouts) => self.full_timeouts(timeouts),
            Request::NetworkDhcp(dhcp) => return self.set_dhcp(dhcp),
            Request::FdbAgeing(_) if self.is_aged_so(request) => None,
            _ => Some(request.clone()),
        };
        let Some(request) = request else { return Ok(()) };
        let before = self.books.shared().generation();
        self.books.apply(request.clone(), self.now)?;
        if self.books.shared().generation() != before {
            self.steps.push(request);
        }
        Ok(())
    }

    /// As [`Run::step`], for a removal, which may be in vain.
    fn remove(&mut self, request: &Request) {
        // What cannot be removed stands in somebody's way, and that one will say so.
        let _ = self.step(request);
    }

    /// Removes what nobody wishes for: first what hangs on something else.
    fn remove_all_but(&mut self, wished: &Wished<'_>) {
        let policy = self.books.snapshot().policy.clone();
        let defaults = policy.defaults().iter();
        for (from, to, _) in defaults.filter(|&(from, to, _)| !wished.defaults.contains(&(from, to))) {
            let action = Some(usual_default(from, to));
            let (from, to) = (from.parse().ok(), to.parse().ok());
            self.remove(&Request::PolicyDefault(PolicyDefault { from, to, action }));
        }
        let there = self.books.publications.iter().map(|record| &record.spec);
        let unwanted = there.filter(|spec| !wished.has_publication(spec));
        for listen in unwanted.map(|spec| spec.listen.clone()).collect::<Vec<_>>() {
            self.remove(&unpublish(listen));
        }
        let is_wished = |(name, network, record): &Interface| {
            wished.has_interface(record.kind(), name, self.is_first(name, record), network)
        };
        let unwanted: Vec<_> = self.interfaces().filter(|interface| !is_wished(interface)).collect();
        unwanted.into_iter().for_each(|interface| self.unplug(interface));
        self.remove_networks_but(&wished.networks);
    }

    /// A file without networks has the usual one.
    fn remove_networks_but(&mut self, wished: &HashSet<&str>) {
        let bridges_default = |(name, value): &(String, String)| name == "uplink_mode" && value == "bridge";
        let has_default = wished.is_empty() || self.books.options.iter().any(bridges_default);
        let is_wished = |name: &&str| wished.contains(name) || (has_default && *name == DEFAULT_NETWORK);
        let snapshot = self.books.snapshot();
        let names = snapshot.networks.iter().flatten().map(|network| network.name.as_str());
        for name in names.filter(|name| !is_wished(name)).filter_map(|name| name.parse().ok()) {
            self.remove(&Request::NetworkRm(Remove { name, if_exists: true }));
        }
    }

    /// Fulfils a wish, or removes what has its name and is something else. Says whether it is fulfilled.
    fn make_room(&mut self, wish: &Request) -> bool {
        match self.step(wish) {
            Ok(()) => return true,
            Err(error) if error.kind != Kind::Exists => return false,
            Err(_) => {}
        }
        match wish {
            Request::NetworkCreate(create) => {
                let Ok(there) = self.books.network(create.name.as_str()) else { return false };
                if self.change_network(create, &there) {
                    return true;
                }
                let on_it: Vec<_> =
                    self.interfaces().filter(|(.., record)| record.network == there.id).collect();
                let on_it = on_it.into_iter().filter(|(.., record)| record.kind() != PortKind::Uplink);
                on_it.for_each(|interface| self.unplug(interface));
                self.remove(&Request::NetworkRm(Remove { name: create.name.clone(), if_exists: true }));
            }
            Request::NetworkConnect(connect) => self.remove(&Request::NetworkDisconnect(NetworkDisconnect {
                network: connect.network.clone(),
                port: connect.port.clone(),
                if_exists: true,
            })),
            Request::NetworkHostPort(wanted) => self.remove(&no_host_port(wanted.network.clone())),
            Request::PortAdd(add) => {
                self.remove(&Request::PortRm(Remove { name: add.name.clone(), if_exists: true }));
            }
            Request::PublishAdd(add) => {
                let Ok((wish, _)) = scoped(add) else { return false };
                let there = self.books.publications.iter().find(|record| wish.is_met_by(&record.spec));
                let listen = there.map(|record| record.spec.listen.clone());
                listen.into_iter().for_each(|listen| self.remove(&unpublish(listen)));
            }
            _ => {}
        }
        false
    }

    /// Changes what can be changed of a network in its place, if that is all.
    fn change_network(&mut self, wish: &NetworkCreate, there: &Network) -> bool {
        let same_subnet = wish.subnet.is_none_or(|subnet| subnet == there.subnet);
        let first = there.subnet.hosts().next();
        let same_gateway = match there.gateway {
            Some(gateway) => wish.gateway.or(first) == Some(gateway),
            None => wish.gateway.is_none_or(|gateway| there.router == Some(gateway)),
        };
        let there_by = self.books.bridged_to(there.id);
        let same_uplink =
            there_by.is_none() || wish.uplink.as_ref().is_none_or(|ifname| Some(ifname.as_str()) == there_by);
        // A LAN is one until somebody says otherwise.
        let usual = if there_by.is_some() { NetworkMode::Bridge } else { NetworkMode::Nat };
        let mode = NetworkSetting::Mode(wish.mode.unwrap_or(usual));
        let first = || self.books.uplinks.first().and_then(|uplink| uplink.settings.name.parse().ok());
        let uplink = wish.uplink.clone().or_else(first);
        let is_there = |name: &IfName| self.books.uplink(name.as_str()).is_ok_and(|it| it.id == there.uplink);
        let uplink = uplink.filter(|name| there_by.is_none() && !is_there(name)).map(NetworkSetting::Uplink);
        let settings = [mode].into_iter().chain(wish.mtu.map(NetworkSetting::Mtu)).chain(uplink).collect();
        let set = Request::NetworkSet(NetworkSet { name: wish.name.clone(), settings });
        same_subnet && same_gateway && same_uplink && self.step(&set).is_ok()
    }

    /// Every interface of every port, with the port's name and its network's.
    fn interfaces(&self) -> impl Iterator<Item = Interface> + use<'_> {
        let snapshot = self.books.snapshot();
        self.books.ports.iter().filter_map(move |(name, record)| {
            let network = snapshot.network(record.network)?.name.parse().ok()?;
            Some((name.clone(), network, record.clone()))
        })
    }

    fn is_first(&self, name: &Name, record: &PortRecord) -> bool {
        self.books.ports.get(name).is_some_and(|first| first.id == record.id)
    }

    /// Removes an interface; with its first one a port goes.
    fn unplug(&mut self, (name, network, record): Interface) {
        let request = match record.kind() {
            PortKind::Host => no_host_port(network),
            _ if self.is_first(&name, &record) => Request::PortRm(Remove { name, if_exists: true }),
            _ => Request::NetworkDisconnect(NetworkDisconnect { network, port: name, if_exists: true }),
        };
        self.remove(&request);
    }

    /// Makes the rules those that are wished, in their order: as many as possible stay where they are. Returns what is
    /// wrong with them.
    fn order_rules(&mut self, wishes: &[Wish]) -> Vec<Fault> {
        let mut faults = Vec::new();
        let (mut wanted, mut rules) = (Vec::new(), Rules::default());
        for Wish { line, request } in wishes {
            let planned = match request {
                Request::PolicyDefault(_) => self.step(request),
                Request::PolicyAdd(add) => {
                    let listed = self.books.planned_rule(add);
                    listed.and_then(|listed| rules.push(listed)).map(|new| wanted.extend(new.then_some(add)))
                }
                _ => Ok(()),
            };
            faults.extend(planned.err().map(|error| Fault { line: *line, error }));
        }
        let there = Rules::of(self.books.snapshot().policy.rules());
        let places: Vec<_> = rules.iter().map(|listed| there.place(listed)).collect();
        let stay = longest_rising(&places);
        let kept: BTreeSet<_> = stay.iter().filter_map(|&at| places[at]).collect();
        for at in (0..there.len()).rev().filter(|at| !kept.contains(at)) {
            let rm = PolicyRm { rule: WhichRule::At(at + 1), if_exists: true };
            self.steps.push(Request::PolicyRm(rm));
        }
        let new = wanted.into_iter().enumerate().filter(|(at, _)| !stay.contains(at));
        for (count, (at, add)) in (kept.len()..).zip(new) {
            let before = (at < count).then_some(at + 1);
            self.steps.push(Request::PolicyAdd(PolicyAdd { before, ..add.clone() }));
        }
        faults
    }

    /// Makes a DHCP server say what is wished, and else what it says at the start.
    fn set_dhcp(&mut self, wish: &NetworkDhcp) -> Result<(), Error> {
        let before = self.books.dhcp_settings(&wish.name)?;
        let mut settings: Vec<DhcpSetting> = usual_dhcp()?;
        settings.extend(wish.settings.iter().cloned());
        self.books
            .apply(Request::NetworkDhcp(NetworkDhcp { name: wish.name.clone(), settings }), self.now)?;
        let mut settings = self.books.dhcp_settings(&wish.name)?;
        settings.retain(|setting| !before.contains(setting));
        if !settings.is_empty() {
            self.steps.push(Request::NetworkDhcp(NetworkDhcp { name: wish.name.clone(), settings }));
        }
        Ok(())
    }

    /// Sets what nobody wishes for as it is at the start.
    fn settle(&mut self, wished: &Wished<'_>) {
        let interfaces: Vec<_> = self.interfaces().collect();
        for (name, network, _) in interfaces {
            if !wished.settings.contains(&(&name, Some(&network))) {
                let set = PortSet { name, network: Some(network), settings: Vec::new() };
                self.remove(&Request::PortSet(set));
            }
        }
        let snapshot = self.books.snapshot();
        let served = snapshot.networks.iter().flatten().filter(|network| network.gateway.is_some());
        let names = served.filter_map(|network| network.name.parse().ok());
        for name in names.filter(|name| !wished.dhcp.contains(name)) {
            self.remove(&Request::NetworkDhcp(NetworkDhcp { name, settings: Vec::new() }));
        }
        if !wished.timeouts {
            self.remove(&Request::CtTimeouts(CtTimeouts::default()));
        }
        if !wished.ageing {
            let seconds = u32::try_from(MAC_AGEING.as_secs()).ok();
            self.remove(&Request::FdbAgeing(FdbAgeing { seconds }));
        }
    }

    /// The settings that an interface must change so that it has those that are wished, and else the usual ones.
    fn full_settings(&self, set: &PortSet) -> Result<Option<Request>, Error> {
        let record = match &set.network {
            Some(network) => self.books.interface(&set.name, network)?,
            None => self.books.port(&set.name)?,
        };
        let snapshot = self.books.snapshot();
        let Some(there) = snapshot.port(record.id) else { return Ok(None) };
        let mut wanted = Port::clone(there);
        let usual = self.books.usual_settings(there);
        usual.iter().chain(&set.settings).try_for_each(|setting| change(&mut wanted, *setting, record))?;
        let there = settings(there);
        let mut settings = settings(&wanted);
        settings.retain(|setting| !there.contains(setting));
        let request = PortSet { settings, ..set.clone() };
        Ok((!request.settings.is_empty()).then_some(Request::PortSet(request)))
    }

    /// As [`Run::full_settings`], for timeouts. One that is not known is kept, to be refused.
    fn full_timeouts(&self, wish: &CtTimeouts) -> Option<Request> {
        let there = timeouts(&self.books.snapshot().timeouts);
        let mut wanted = timeouts(&Timeouts::default());
        for setting in &wish.settings {
            wanted.retain(|usual| usual.key != setting.key);
            wanted.push(setting.clone());
        }
        wanted.retain(|setting| !there.contains(setting));
        (!wanted.is_empty()).then_some(Request::CtTimeouts(CtTimeouts { settings: wanted }))
    }

    fn is_aged_so(&self, request: &Request) -> bool {
        let ageing = self.books.snapshot().mac_ageing.as_secs();
        matches!(request, Request::FdbAgeing(FdbAgeing { seconds: Some(seconds) }) if u64::from(*seconds) == ageing)
    }
}

/// The indices of a longest part of the list whose values rise (patience sorting).
fn longest_rising(list: &[Option<usize>]) -> BTreeSet<usize> {
    // By length less one: the end of the rising part that ends lowest. And for each index, the one before it.
    let (mut ends, mut before): (Vec<usize>, Vec<Option<usize>>) = (Vec::new(), vec![None; list.len()]);
    for (index, value) in list.iter().enumerate().filter(|(_, value)| value.is_some()) {
        let place = ends.partition_point(|&end| list[end] < *value);
        before[index] = place.checked_sub(1).map(|shorter| ends[shorter]);
        match ends.get_mut(place) {
            Some(end) => *end = index,
            None => ends.push(index),
        }
    }
    std::iter::successors(ends.last().copied(), |&index| before[index]).collect()
}

fn no_host_port(network: Name) -> Request {
    Request::NetworkHostPort(NetworkHostPort { network, ip: None, ifname: None, off: true })
}

fn unpublish(listen: Listen) -> Request {
    Request::PublishRm(PublishRm { spec: Unpublish { listen, target_first: None }, if_exists: true })
}
