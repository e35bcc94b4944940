//! Names that users give, checked once where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::limits::NAME_MAX;

/// Longest interface name (Linux `IFNAMSIZ` less the terminating zero).
const INTERFACE_NAME_MAX: usize = 15;

/// Longest text for a namespace (Linux `PATH_MAX` less the terminating zero).
const PATH_MAX: usize = 4095;

macro_rules! text_type {
    ($type:ident, $check:ident) => {
        impl $type {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                $check(text)?;
                Ok($type(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                $check(&text)?;
                Ok($type(text))
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

/// Has a type cross the API as it is written.
macro_rules! as_text {
    ($($type:ident)+) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text: String = serde::Deserialize::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

pub(super) use as_text;

/// The name of a port or network: 1 to 64 letters, digits, `_`, `.` and `-`, with a letter or digit first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

text_type!(Name, check_name);

fn check_name(text: &str) -> Result<(), Error> {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(letters) {
        return Err(Error::usage(
            format_args!("'{}'", text.chars().take(NAME_MAX).collect::<String>()),
            "not a name",
            "use letters, digits, '_', '.' and '-', with a letter or digit first",
        ));
    }
    if text.len() > NAME_MAX {
        return Err(Error::usage(
            format_args!("'{}...'", &text[..16]),
            "the name is too long",
            format_args!("use at most {NAME_MAX} characters"),
        ));
    }
    Ok(())
}

/// The name of a network interface, as the kernel takes it: 1 to 15 printable characters without `/`, `:`
/// and `%` (the kernel replaces `%d` by a number).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

text_type!(IfName, check_interface_name);

fn check_interface_name(text: &str) -> Result<(), Error> {
    let letters = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    if text.len() > INTERFACE_NAME_MAX {
        return Err(Error::usage(
            format_args!("'{}...'", text.chars().take(INTERFACE_NAME_MAX).collect::<String>()),
            "the interface name is too long",
            format_args!("use at most {INTERFACE_NAME_MAX} characters"),
        ));
    }
    if text.is_empty() || text == "." || text == ".." || !text.chars().all(letters) {
        return Err(Error::usage(
            format_args!("'{text}'"),
            "not an interface name",
            "use printable characters without '/', ':' and '%'",
        ));
    }
    Ok(())
}

/// What a user calls a network namespace: a name under /run/netns, a path, or a process number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetnsName(String);

text_type!(NetnsName, check_netns);

fn check_netns(text: &str) -> Result<(), Error> {
    if text.is_empty() || text.len() > PATH_MAX || text.contains('\0') {
        return Err(Error::usage(
            format_args!("'{}'", text.chars().take(NAME_MAX).collect::<String>()),
            "not a namespace",
            "give a name under /run/netns, a path, or a process number",
        ));
    }
    Ok(())
}

/// The name of a domain (RFC 1035 2.3.1, with `_` as it is used).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

text_type!(Domain, check_domain);

fn check_domain(text: &str) -> Result<(), Error> {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(letter);
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(Error::usage(
            format_args!("'{}'", text.chars().take(NAME_MAX).collect::<String>()),
            "not a domain name",
            "write labels of letters, digits and '-', like example.com",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_plain() {
        for good in ["a", "web-1", "10.0.0.1", "A_b.c", &"x".repeat(64)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_are_those_of_the_kernel() {
        for good in ["eth0", "br-lan", "eth0.5", "123456789012345"] {
            assert!(good.parse::<IfName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "1234567890123456", "a/b", "a:b", "tap%d", "a b", "\u{e4}"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_checked_on_its_way_in_as_json_too() {
        assert!(serde_json::from_str::<Name>("\"ok\"").is_ok());
        assert!(serde_json::from_str::<Name>("\"not ok\"").is_err());
        assert!(serde_json::from_str::<NetnsName>("\"\"").is_err());
    }
}
