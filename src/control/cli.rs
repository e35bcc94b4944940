//! What the two programs' command lines have in common: errors on one line, and an exit code.

use std::error::Error as _;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::error::Error;

/// Reads the command line. Help and version are printed, errors too.
///
/// # Errors
/// The exit code, when there is nothing left to do.
pub fn parse<T: clap::Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        if !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return fail(&usage(&error));
        }
        // A closed pipe is a way to stop reading.
        let _ = error.print();
        ExitCode::SUCCESS
    })
}

/// Reads the arguments of one verb.
///
/// # Errors
/// `Usage`.
pub(super) fn arguments<'a, T: clap::Args>(words: impl Iterator<Item = &'a str>) -> Result<T, Error> {
    let command = T::augment_args(clap::Command::new("vswitchctl").no_binary_name(true));
    let matches = command.try_get_matches_from(words);
    matches.and_then(|matches| T::from_arg_matches(&matches)).map_err(|error| usage(&error))
}

/// Prints an error the way users expect it, and returns the exit code.
pub fn fail(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(error.kind.exit_code())
}

/// The one-line form of what clap found wrong.
pub fn usage(error: &clap::Error) -> Error {
    // Our own types explain themselves.
    if let Some(own) = error.source().and_then(|source| source.downcast_ref::<Error>()) {
        return own.clone();
    }
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let (argument, value) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
    let help = "see --help";
    #[allow(clippy::wildcard_enum_match_arm)] // clap's enum is open
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            Error::usage(context(ContextKind::InvalidSubcommand), "no such noun or verb", known(error))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            Error::usage("command line", "incomplete", known(error))
        }
        ErrorKind::UnknownArgument => Error::usage(argument, "no such option", help),
        ErrorKind::MissingRequiredArgument => Error::usage(argument, "missing", help),
        ErrorKind::InvalidValue if value.is_empty() => Error::usage(argument, "needs a value", help),
        ErrorKind::InvalidValue => {
            let valid = context(ContextKind::ValidValue);
            Error::usage(value, format_args!("not a value for {argument}"), format_args!("one of {valid}"))
        }
        ErrorKind::ValueValidation => {
            let why = error.source().map_or_else(|| "not a valid value".to_owned(), ToString::to_string);
            Error::usage(value, format_args!("{why}, for {argument}"), help)
        }
        ErrorKind::ArgumentConflict => {
            let other = context(ContextKind::PriorArg);
            Error::usage(argument, format_args!("cannot be used with {other}"), "give one of them")
        }
        _ => Error::usage("command line", first_line(error), help),
    }
}

/// The subcommands that could have stood there.
fn known(error: &clap::Error) -> String {
    match error.get(ContextKind::ValidSubcommand) {
        Some(ContextValue::Strings(known)) if !known.is_empty() => format!("one of {}", known.join(", ")),
        _ => "see --help".to_owned(),
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::control::error::Kind;
    use crate::control::request::{NetworkCreate, PortAdd};

    #[derive(Debug, Parser)]
    enum Nouns {
        Port(PortAdd),
        Network(NetworkCreate),
    }

    fn complaint(line: &str) -> String {
        let error = Nouns::try_parse_from(line.split(' ')).unwrap_err();
        let error = usage(&error);
        assert_eq!(error.kind, Kind::Usage);
        let text = error.to_string();
        assert!(!text.contains('\n') && !error.hint.is_empty(), "{text}");
        text
    }

    #[test]
    fn every_kind_of_misuse_is_one_line_that_says_what_to_do() {
        for (line, says) in [
            ("x frob", "frob: no such noun or verb"),
            ("x port", "missing"),
            ("x port web --tap a --device b", "cannot be used with"),
            ("x port web --netns", "needs a value"),
            ("x port web --netns a --frob", "--frob: no such option"),
            ("x port web --netns a --mac 02:00", "02:00: not a MAC address"),
            ("x port web --netns a --ip 1.2.3", "1.2.3: invalid IPv4 address syntax, for --ip"),
            ("x port web/1 --netns a", "'web/1': not a name"),
            (
                "x network n --subnet 10.0.0.0/24 --mode host",
                "host: no such mode (nat, routed, internal or bridge)",
            ),
            ("x network n --subnet 10.0.0.0", "10.0.0.0: not an IPv4 prefix"),
            ("x network", "<NAME>: missing"),
        ] {
            let text = complaint(line);
            assert!(text.contains(says), "{line}: {text}");
        }
    }
}
