//! The rules in their order. Each has a number of its own that it keeps when others are put before it, so that what
//! refers to it needs no change then.

use std::sync::Arc;

use super::{Listed, Rule};

/// The number of a rule, as long as it is in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RuleId(u32);

/// The place of a number that is nobody's.
const NOWHERE: u32 = u32::MAX;

/// Rules in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct List {
    /// By place.
    pub(super) listed: Vec<Arc<Listed>>,
    /// By place.
    pub(super) ids: Vec<RuleId>,
    /// By number.
    places: Vec<u32>,
}

impl List {
    pub(super) fn new(listed: Vec<Arc<Listed>>) -> Self {
        let places: Vec<u32> = (0..).take(listed.len()).collect();
        List { listed, ids: places.iter().map(|&number| RuleId(number)).collect(), places }
    }

    /// All rules, in their order.
    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.listed.iter().map(|listed| &listed.rule)
    }

    /// The rule with a number.
    pub(super) fn rule(&self, id: RuleId) -> &Rule {
        &self.listed[self.place(id) as usize].rule
    }

    /// The place of the rule with a number.
    #[inline(always)]
    pub(super) fn place(&self, id: RuleId) -> u32 {
        self.places[id.0 as usize]
    }

    /// Puts a rule before the one at a place, or at the end.
    pub(super) fn insert(&mut self, place: usize, listed: Arc<Listed>) -> RuleId {
        let free = self.places.iter().position(|&place| place == NOWHERE).unwrap_or(self.places.len());
        if free == self.places.len() {
            self.places.push(NOWHERE);
        }
        let id = RuleId(u32::try_from(free).unwrap_or(NOWHERE));
        self.listed.insert(place, listed);
        self.ids.insert(place, id);
        self.number();
        id
    }

    /// Removes the rule at a place.
    pub(super) fn remove(&mut self, place: usize) -> (RuleId, Arc<Listed>) {
        let (id, listed) = (self.ids.remove(place), self.listed.remove(place));
        self.places[id.0 as usize] = NOWHERE;
        self.number();
        (id, listed)
    }

    fn number(&mut self) {
        for (place, id) in (0..).zip(&self.ids) {
            self.places[id.0 as usize] = place;
        }
    }
}
