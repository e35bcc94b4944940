//! What the host refused, in one line: `WHAT: WHY (WHAT TO DO)`.

use std::io;

use nix::errno::Errno;

/// The classes of refusal that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The thing named does not exist.
    NotFound,
    /// The name, address or port is taken.
    Exists,
    /// The kernel wants a privilege that this process lacks.
    Permission,
    /// Anything else.
    Other,
}

/// A refusal by the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}{}", hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct HostError {
    /// Its class.
    pub kind: ErrorKind,
    /// What could not be used or done.
    pub what: String,
    /// Why not.
    pub why: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl HostError {
    /// A refusal of this class.
    pub fn new(kind: ErrorKind, what: impl Into<String>, why: impl Into<String>) -> Self {
        HostError { kind, what: what.into(), why: why.into(), hint: None }
    }

    /// A refusal by a system call: the class and the reason follow from its error number.
    pub fn os(what: impl Into<String>, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let (kind, hint) = match (errno, error.kind()) {
            (Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::ENXIO, _) => (ErrorKind::NotFound, None),
            (Errno::EEXIST | Errno::EADDRINUSE, _) => (ErrorKind::Exists, None),
            (Errno::EPERM | Errno::EACCES, _) => {
                (ErrorKind::Permission, Some("run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"))
            }
            (_, io::ErrorKind::NotFound) => (ErrorKind::NotFound, None),
            _ => (ErrorKind::Other, None),
        };
        let known = errno != Errno::UnknownErrno;
        let why = if known { errno.desc().to_lowercase() } else { error.to_string() };
        HostError { kind, what: what.into(), why, hint: hint.map(str::to_owned) }
    }

    /// The same refusal with another advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_with_its_advice() {
        let error = HostError::os("moving vsw3", Errno::EPERM).hint("run as root");
        assert_eq!(error.kind, ErrorKind::Permission);
        assert_eq!(error.to_string(), "moving vsw3: operation not permitted (run as root)");
        let error = HostError::os("eth9", Errno::ENODEV);
        assert_eq!((error.kind, error.to_string().as_str()), (ErrorKind::NotFound, "eth9: no such device"));
    }
}
