//! Variables of the environment that are there and empty: what a template or an `EnvironmentFile` leaves of a setting that
//! nobody made. They count as not set.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::{Arg, Command};

/// A command that does not read the variables that are empty now.
#[allow(clippy::disallowed_methods)] // clap reads the others itself
pub fn without_empty(command: Command) -> Command {
    without(command, &|variable| std::env::var_os(variable))
}

fn without(command: Command, read: &dyn Fn(&OsString) -> Option<OsString>) -> Command {
    let forget = |arg: Arg| match arg.get_env().map(ToOwned::to_owned) {
        Some(variable) if read(&variable).is_some_and(|value| value.is_empty()) => arg.env(Resettable::Reset),
        _ => arg,
    };
    command.mut_args(forget).mut_subcommands(|inner| without(inner, read))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Args;

    #[test]
    fn a_variable_that_is_empty_is_not_read() {
        let read = |variable: &OsString| match variable.to_str() {
            Some("TERRACE_TIER" | "TERRACE_FILE_ROOTS") => Some(OsString::new()),
            _ => None,
        };
        let command = without(Args::command(), &read);
        let variables = |command: &Command| -> Vec<OsString> {
            command.get_arguments().filter_map(|arg| arg.get_env().map(ToOwned::to_owned)).collect()
        };
        let (left, all) = (variables(&command), variables(&Args::command()));
        assert_eq!(left.len(), all.len() - 2, "{left:?}");
        let check = command.get_subcommands().find(|inner| inner.get_name() == "check").unwrap();
        assert!(!variables(check).contains(&"TERRACE_FILE_ROOTS".into()), "{:?}", variables(check));
    }
}
