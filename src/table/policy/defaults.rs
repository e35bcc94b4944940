//! What happens between two networks where no rule decides.

use std::collections::BTreeMap;

use super::Action;

/// Defaults by the networks' names: who opens, and whom to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults(BTreeMap<String, BTreeMap<String, Action>>);

impl Defaults {
    /// None.
    pub fn new() -> Self {
        Defaults::default()
    }

    /// The default from a network to another.
    pub fn get(&self, from: &str, to: &str) -> Option<Action> {
        self.0.get(from)?.get(to).copied()
    }

    /// Sets a default, or takes it back.
    pub fn set(&mut self, from: &str, to: &str, action: Option<Action>) {
        let towards = self.0.entry(from.to_owned()).or_default();
        match action {
            Some(action) => drop(towards.insert(to.to_owned(), action)),
            None => drop(towards.remove(to)),
        }
        if towards.is_empty() {
            self.0.remove(from);
        }
    }

    /// Takes back all that name a network.
    pub fn forget(&mut self, network: &str) {
        self.0.remove(network);
        self.0.retain(|_, towards| {
            towards.remove(network);
            !towards.is_empty()
        });
    }

    /// All of them, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, Action)> {
        self.0.iter().flat_map(|(from, towards)| {
            towards.iter().map(move |(to, action)| (from.as_str(), to.as_str(), *action))
        })
    }
}

impl<const N: usize> From<[((String, String), Action); N]> for Defaults {
    fn from(list: [((String, String), Action); N]) -> Self {
        let mut defaults = Defaults::default();
        list.iter().for_each(|((from, to), action)| defaults.set(from, to, Some(*action)));
        defaults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_has_a_direction_and_can_be_taken_back() {
        let mut defaults = Defaults::from([(("red".into(), "blue".into()), Action::Allow)]);
        defaults.set("blue", "red", Some(Action::Deny));
        assert_eq!(defaults.get("red", "blue"), Some(Action::Allow));
        assert_eq!(defaults.get("blue", "red"), Some(Action::Deny));
        assert_eq!(defaults.get("red", "green"), None);
        let all: Vec<_> = defaults.iter().collect();
        assert_eq!(all, [("blue", "red", Action::Deny), ("red", "blue", Action::Allow)]);
        defaults.set("red", "blue", None);
        defaults.set("blue", "red", None);
        defaults.set("green", "red", None);
        assert_eq!(defaults, Defaults::new());
    }

    #[test]
    fn defaults_go_with_their_network() {
        let pairs = [("red", "red"), ("red", "blue"), ("blue", "red"), ("blue", "green")];
        let pairs = pairs.map(|(from, to)| ((from.to_owned(), to.to_owned()), Action::Deny));
        let mut defaults = Defaults::from(pairs);
        defaults.forget("red");
        assert_eq!(defaults.iter().collect::<Vec<_>>(), [("blue", "green", Action::Deny)]);
        defaults.forget("green");
        assert_eq!(defaults, Defaults::new());
    }
}
