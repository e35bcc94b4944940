//! A list of rules as it is made up: each rule once, and each name.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ahash::AHashMap;

use super::error::Error;
use crate::limits::RULES_MAX;
use crate::table::policy::Listed;

/// Rules in their order, which are found by what they say and by their names.
#[derive(Debug, Default)]
pub(super) struct Rules {
    places: AHashMap<Key, usize>,
    names: AHashMap<String, usize>,
    /// By place.
    listed: Vec<Arc<Listed>>,
}

/// A rule as it is found: by what it says and by its name, whatever it has counted.
#[derive(Debug)]
struct Key(Arc<Listed>);

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        (&self.0.rule, &self.0.name) == (&other.0.rule, &other.0.name)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.0.rule, &self.0.name).hash(state);
    }
}

impl Rules {
    /// Those of a list that has each once.
    pub(super) fn of(listed: &[Arc<Listed>]) -> Self {
        let mut rules = Rules::default();
        listed.iter().for_each(|listed| rules.note(listed.clone()));
        rules
    }

    /// Puts a rule at the end. Says whether it is new: one that is written twice in a row is one.
    ///
    /// # Errors
    /// `Exists` if it is there already, or another one with its name; `Failed` if there are too many.
    pub(super) fn push(&mut self, listed: Arc<Listed>) -> Result<bool, Error> {
        if let Some(there) = self.place(&listed) {
            return if there + 1 == self.len() { Ok(false) } else { Err(is_there(there)) };
        }
        if let Some(name) = &listed.name
            && let Some(&there) = self.names.get(name)
        {
            return Err(is_named(name, there));
        }
        if self.len() >= RULES_MAX {
            return Err(too_many());
        }
        self.note(listed);
        Ok(true)
    }

    fn note(&mut self, listed: Arc<Listed>) {
        let place = self.len();
        self.places.insert(Key(listed.clone()), place);
        self.names.extend(listed.name.clone().map(|name| (name, place)));
        self.listed.push(listed);
    }

    /// Where the very same rule is.
    pub(super) fn place(&self, listed: &Arc<Listed>) -> Option<usize> {
        self.places.get(&Key(listed.clone())).copied()
    }

    /// All of them, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Listed>> {
        self.listed.iter()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.listed.len()
    }
}

/// Says that a rule is there already, at this place.
pub(super) fn is_there(place: usize) -> Error {
    let why = format_args!("is there already, as rule {}", place + 1);
    Error::exists("the rule", why, "remove it first: vswitchctl policy rm")
}

/// Says that the rule at this place has a name.
pub(super) fn is_named(name: &str, place: usize) -> Error {
    Error::exists(name, format_args!("is the name of rule {}", place + 1), "choose another name")
}

/// Says that there is no room for a rule.
pub(super) fn too_many() -> Error {
    let why = format_args!("there are {RULES_MAX} already");
    Error::failed("rules", why, "use prefixes and lists of places, or remove some")
}
