//! What is answered about configuration files.

use serde::{Deserialize, Serialize};

use super::super::error::Error;

/// `apply`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// What was changed, or would be, as commands of vswitchctl.
    pub changes: Vec<String>,
    /// What is wrong with the file. If anything is, nothing was changed.
    pub faults: Vec<Fault>,
}

/// Something that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub error: Error,
}

impl Applied {
    /// What is wrong with the file, as one error; the others are written to `also`, a line each.
    ///
    /// # Errors
    /// The last fault.
    pub fn check(&self, file: &str, mut also: impl FnMut(&Error)) -> Result<(), Error> {
        let mut errors = self.faults.iter().map(|Fault { line, error }| {
            let what = format_args!("{file}:{line}: {}", error.what);
            Error::new(error.kind, what, &error.why, &error.hint)
        });
        let last = errors.next_back();
        errors.for_each(|error| also(&error));
        last.map_or(Ok(()), Err)
    }
}

/// `dump`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// A configuration file.
    pub text: String,
}
