//! What users are told when something cannot be done: `WHAT: WHY (WHAT TO DO)`.
//!
//! The same value crosses the API as JSON, decides the HTTP status, and ends as one line on standard error
//! and as the exit code of `vswitchctl`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The class of an error: it decides exit code and HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The system refused, or a limit is reached.
    Failed,
    /// The request itself makes no sense.
    Usage,
    /// No daemon answers on the socket.
    NoDaemon,
    /// Something named in the request does not exist.
    NotFound,
    /// It exists already, or conflicts with something that does.
    Exists,
}

impl Kind {
    /// The exit code of `vswitchctl`.
    pub const fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::NoDaemon => 3,
            Kind::NotFound => 4,
            Kind::Exists => 5,
        }
    }

    /// The status of the HTTP answer (RFC 9110 section 15).
    pub const fn http_status(self) -> u16 {
        match self {
            Kind::Failed => 500,
            Kind::Usage => 400,
            Kind::NoDaemon => 503,
            Kind::NotFound => 404,
            Kind::Exists => 409,
        }
    }
}

/// An error for a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// The class.
    pub kind: Kind,
    /// What it is about: a name, a value, a file.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Error {
    /// An error of any class.
    pub fn new(kind: Kind, what: impl fmt::Display, why: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Error { kind, what: one_line(what), why: one_line(why), hint: one_line(hint) }
    }

    /// The system refused, or a limit is reached.
    pub fn failed(what: impl fmt::Display, why: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Error::new(Kind::Failed, what, why, hint)
    }

    /// The request makes no sense.
    pub fn usage(what: impl fmt::Display, why: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Error::new(Kind::Usage, what, why, hint)
    }

    /// `what` does not exist.
    pub fn not_found(what: impl fmt::Display, why: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Error::new(Kind::NotFound, what, why, hint)
    }

    /// `what` exists, or conflicts.
    pub fn exists(what: impl fmt::Display, why: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Error::new(Kind::Exists, what, why, hint)
    }
}

/// Whatever a value prints, without control characters: an error is one line, and what a client sent must
/// not reach somebody's terminal as an escape sequence.
fn one_line(text: impl fmt::Display) -> String {
    text.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.why.is_empty() {
            write!(f, ": {}", self.why)?;
        }
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_what_why_and_what_to_do() {
        let error = Error::not_found("web", "no such port", "see vswitchctl port ls");
        assert_eq!(error.to_string(), "web: no such port (see vswitchctl port ls)");
        assert_eq!((error.kind.exit_code(), error.kind.http_status()), (4, 404));
        assert_eq!(Error::failed("web", "gone", "").to_string(), "web: gone");
    }

    #[test]
    fn errors_cross_the_api_and_stay_on_one_line() {
        let error = Error::exists("a\nb\u{1b}[31m", "taken", "choose another");
        assert_eq!(error.what, "a b [31m");
        let json = serde_json::to_string(&error).unwrap();
        assert!(json.contains(r#""kind":"exists""#), "{json}");
        assert_eq!(serde_json::from_str::<Error>(&json).unwrap(), error);
    }

    #[test]
    fn every_kind_has_its_own_exit_code() {
        let kinds = [Kind::Failed, Kind::Usage, Kind::NoDaemon, Kind::NotFound, Kind::Exists];
        assert_eq!(kinds.map(Kind::exit_code), [1, 2, 3, 4, 5]);
    }
}
