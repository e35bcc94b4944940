//! Trunks: devices that carry the frames of several networks, told apart by VLAN tags (IEEE 802.1Q).
//!
//! # What it is
//! A port of the data plane is on one network. A trunk is the device of a port, and of other ports besides, which
//! are its VLANs: each is a port like any other, on a network of its own, whose wire is the trunk's. Only here, at the
//! edge, is there a difference: what is read from the trunk is dealt to the ports by its tag ([`untag`]), and what one
//! of them sends gets its tag before it is written ([`Tagged`]). The pipeline and its flow cache see untagged frames
//! of ports, and super-frames were merged by then. The tag goes behind the MAC addresses, which make room for it in
//! the headroom; what an offload promise counts from the frame's first byte moves along.
//!
//! # Whose frame it is
//!
//! | the frame from a trunk begins with | it is of |
//! |---|---|
//! | no tag, or a service VLAN's (0x88a8) | the trunk's own port: the native network |
//! | a priority tag (VID 0) | the same, and loses the tag: a switch without queues has no use for its priority |
//! | the tag of one of its VLANs | that VLAN's port, and loses the tag; what further tags are behind it are its own |
//! | another VLAN's tag | nobody: [`DropReason::UnknownVlan`], at the trunk's port |
//!
//! # No hopping
//! Ports that are no trunks carry tags as they come, to each other. By a trunk such a frame would come out on another
//! network than it was sent on, so its native network takes none that its reader could find a VLAN's tag in
//! ([`DropReason::VlanHopping`], in the pipeline, where frames for each port are looked at). On a VLAN the frame goes
//! behind the VLAN's own tag, where nobody mistakes it.
//!
//! # Bounds
//! A tag is not part of what an MTU limits: a full packet with one is 1518 bytes long. A trunk's frame may have a
//! second tag, and is whole as long as its IP packet is.

use crate::addr::{PortId, Vid};
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::snapshot::Vlans;
use crate::wire::ethernet;

/// The port whose frame was read from the trunk of `native`. A tag that says so is taken out.
///
/// # Errors
/// [`DropReason::UnknownVlan`]; the frame is as it was.
pub fn untag(vlans: &Vlans, native: PortId, frame: &mut Frame) -> Result<PortId, DropReason> {
    let Some(vid) = ethernet::outer_vid(frame.bytes()) else { return Ok(native) };
    let port = match Vid::try_from(vid) {
        Ok(vid) => vlans.port(vid).ok_or(DropReason::UnknownVlan)?,
        Err(_) if vid == 0 => native,
        Err(_) => return Err(DropReason::UnknownVlan),
    };
    frame.remove_vlan_tag();
    Ok(port)
}

/// Which of the frames that are being written was tagged last, and how. Copies of one frame may go to several ports,
/// one after the other, each with a tag of its own or none.
#[derive(Debug, Default)]
pub(super) struct Tagged(Option<(usize, Vid)>);

impl Tagged {
    /// Whether frame number `index` has another tag than it is to have.
    #[inline(always)]
    pub(super) fn differs(&self, index: usize, vid: Option<Vid>) -> bool {
        self.of(index) != vid
    }

    /// Gives frame number `index` the tag that it is to have, in place of that which it has.
    pub(super) fn change(&mut self, index: usize, frame: &mut Frame, vid: Option<Vid>) {
        if self.of(index).is_some() {
            frame.remove_vlan_tag();
        }
        if let Some(vid) = vid {
            frame.insert_vlan_tag(ethernet::vlan_tag(vid));
        }
        self.0 = vid.map(|vid| (index, vid));
    }

    fn of(&self, index: usize) -> Option<Vid> {
        self.0.filter(|&(number, _)| number == index).map(|(_, vid)| vid)
    }
}
