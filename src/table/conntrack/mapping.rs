//! Mappings: which external port an inside endpoint has, and those that are nobody's.

use super::Table;
use super::ask::{Seen, Sponsor};
use crate::addr::{Address, Endpoint, PortId, Protocol};
use crate::clock::Time;
use crate::drops::DropReason;

/// The external port that all connections of one inside endpoint share.
#[derive(Debug)]
pub(super) struct Mapping<A> {
    protocol: Protocol,
    inside: Endpoint<A>,
    pub(super) outside_port: u16,
    /// Who answers for the external port.
    port: PortId,
    pub(super) connections: u32,
}

impl<A: Address> Table<A> {
    /// The external port that a new connection of `inside` will have, if it has one already.
    pub fn mapping(&self, protocol: Protocol, inside: Endpoint<A>) -> Option<u16> {
        let hash = self.hasher.hash_one((protocol, inside));
        let mapping = self.mappings.find(hash, |m| m.protocol == protocol && m.inside == inside)?;
        Some(mapping.outside_port)
    }

    /// The port of the switch that answers for the mapping of `inside`.
    pub(super) fn mapping_owner(&self, protocol: Protocol, inside: Endpoint<A>) -> Option<PortId> {
        let hash = self.hasher.hash_one((protocol, inside));
        let mapping = self.mappings.find(hash, |m| m.protocol == protocol && m.inside == inside)?;
        Some(mapping.port)
    }

    /// Who masquerades with this external port.
    pub fn holder(&self, protocol: Protocol, port: u16) -> Option<Endpoint<A>> {
        self.pools[protocol as usize].holder(port)
    }

    /// Keeps an external port from being dealt.
    pub fn reserve(&mut self, protocol: Protocol, port: u16) {
        self.pools[protocol as usize].reserve(port);
    }

    /// Ends a reservation.
    pub fn release(&mut self, protocol: Protocol, port: u16, now: Time) {
        self.pools[protocol as usize].release(port, now);
    }

    /// Gives a free external port away to another table, as much like `like` as there is one.
    pub fn lend(&mut self, protocol: Protocol, like: u16, now: Time) -> Option<u16> {
        let random = self.random();
        self.pools[protocol as usize].lend(like, random, now)
    }

    /// As [`Table::lend`], the port that has rested longest.
    pub fn lend_resting(&mut self, protocol: Protocol) -> Option<u16> {
        self.pools[protocol as usize].lend_resting()
    }

    /// Takes over an external port that no table has.
    pub fn adopt(&mut self, protocol: Protocol, port: u16) {
        self.pools[protocol as usize].adopt(port);
    }

    /// The external endpoint for one more connection from `inside` to `remote`: its mapping's, made if there is
    /// none.
    ///
    /// A connection by a publication that was taken back while its packet was on the way may stand at that
    /// endpoint, towards the same remote. Then this one is refused until that one has ended: there is one
    /// connection behind an outside endpoint and a remote.
    pub(super) fn map(
        &mut self,
        seen: &Seen,
        [inside, remote]: [Endpoint<A>; 2],
        external: A,
        port: PortId,
        mut sponsor: impl Sponsor,
    ) -> Result<Endpoint<A>, DropReason> {
        let (protocol, random) = (seen.protocol, self.random());
        let known = self.mapping(protocol, inside);
        let pool = &mut self.pools[protocol as usize];
        let Some(outside_port) = known.or_else(|| pool.take(inside, random, seen.now)) else {
            return Err(self.refuse(DropReason::NatPortsExhausted));
        };
        let outside = Endpoint::new(external, outside_port);
        let free = self.find_outside(protocol, outside, remote).is_none();
        let allowed = match known {
            _ if !free => Err(DropReason::NatPortsExhausted),
            Some(_) => Ok(()),
            None => sponsor.external_port(),
        };
        if let Err(reason) = allowed {
            if known.is_none() {
                self.pools[protocol as usize].untake(outside_port);
            }
            return Err(self.refuse(reason));
        }
        if let Some(mapping) = self.mapping_of(protocol, inside) {
            mapping.connections += 1;
            return Ok(outside);
        }
        let mapping = Mapping { protocol, inside, outside_port, port, connections: 1 };
        let hasher = &self.hasher;
        let hash = hasher.hash_one((protocol, inside));
        self.mappings.insert_unique(hash, mapping, |m| hasher.hash_one((m.protocol, m.inside)));
        Ok(outside)
    }

    /// Gives back what [`Table::map`] gave a connection; with the last one of its mapping, that. Returns who answered
    /// for the external port, if it is free now.
    pub(super) fn unmap(
        &mut self,
        protocol: Protocol,
        inside: Endpoint<A>,
        outside_port: u16,
        now: Time,
    ) -> Option<PortId> {
        let hash = self.hasher.hash_one((protocol, inside));
        let entry = self.mappings.find_entry(hash, |m| m.protocol == protocol && m.inside == inside);
        let mut entry = entry.ok()?;
        entry.get_mut().connections -= 1;
        if entry.get().connections > 0 {
            return None;
        }
        let mapping = entry.remove().0;
        self.pools[protocol as usize].give(outside_port, now);
        Some(mapping.port)
    }

    pub(super) fn mapping_of(&mut self, protocol: Protocol, inside: Endpoint<A>) -> Option<&mut Mapping<A>> {
        let hash = self.hasher.hash_one((protocol, inside));
        self.mappings.find_mut(hash, |m| m.protocol == protocol && m.inside == inside)
    }

    /// The next number of a keyed sequence: nobody outside can predict it.
    pub(super) fn random(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(1);
        self.hasher.hash_one(self.dice)
    }
}
