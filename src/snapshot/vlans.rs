//! VLANs of a trunk: ports whose frames travel with a tag over another port's device.

use crate::addr::{PortId, Vid};

/// The VLAN that a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlan {
    /// The port whose device it shares.
    pub trunk: PortId,
    /// What its frames are tagged with there.
    pub vid: Vid,
}

/// The VLANs of a trunk, at most one of each VID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vlans(Vec<(Vid, PortId)>);

impl Vlans {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The port that is this VLAN.
    pub fn port(&self, vid: Vid) -> Option<PortId> {
        let place = self.0.binary_search_by_key(&vid, |&(vid, _)| vid).ok()?;
        Some(self.0[place].1)
    }

    /// Makes a port this VLAN, in place of another that was.
    pub(super) fn insert(&mut self, vid: Vid, port: PortId) {
        match self.0.binary_search_by_key(&vid, |&(vid, _)| vid) {
            Ok(place) => self.0[place].1 = port,
            Err(place) => self.0.insert(place, (vid, port)),
        }
    }

    /// Makes a port no VLAN any more.
    pub(super) fn remove(&mut self, port: PortId) {
        self.0.retain(|&(_, there)| there != port);
    }
}
