//! From a line to arguments, and what is said where that can't be.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory as _, FromArgMatches as _};

use super::args::Cli;
use super::exit::Failure;

/// Understands a command line.
pub fn parse(line: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = command();
    let mut matches = command.try_get_matches_from_mut(line)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Clap's own usage line of an error tells every argument that is there, those too that the
/// environment gives, as if they had to be. What `--help` tells is told instead.
fn command() -> Command {
    let mut command = Cli::command();
    command.build();
    command.mut_subcommands(|mut sub| {
        let usage = sub.render_usage().to_string();
        match usage.strip_prefix("Usage: ") {
            Some(usage) => sub.override_usage(usage.to_owned()),
            None => sub,
        }
    })
}

/// Whether a line that was not understood asks for JSON.
#[must_use]
pub fn wants_json(line: &[OsString]) -> bool {
    line.iter().skip(1).take_while(|word| *word != "--").any(|word| word == "--json")
}

/// A usage error as every other failure.
#[must_use]
pub fn failure(error: &clap::Error, line: &[OsString]) -> Failure {
    let no_command =
        [ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, ErrorKind::MissingSubcommand];
    if no_command.contains(&error.kind()) {
        return Failure::usage("no command was given").hint("`dormouse --help` lists them");
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    // What happened; then, each after an empty line: tips, the usage, where there is more.
    let mut parts = text.trim_end().split("\n\n").map(in_one_line);
    let message = parts.next().unwrap_or_default();
    let mut hints: Vec<_> = parts.filter(|part| !part.starts_with("For more")).collect();
    hints.extend(variable_at_fault(error, line));
    hints.retain(|part| !part.is_empty());
    match hints.is_empty() {
        true => Failure::usage(message).hint("`dormouse COMMAND --help` tells what it takes"),
        false => Failure::usage(message).hint(hints.join("; ")),
    }
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where a value can't be used that no flag gave: the variable that did.
#[must_use]
pub fn variable_at_fault(error: &clap::Error, line: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidArg) else { return None };
    if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
        return None;
    }
    let flag = name.split([' ', '=', '[']).next()?;
    let is_given =
        |word: &OsStr| word.to_str().is_some_and(|word| word.split('=').next() == Some(flag));
    if line.iter().any(|word| is_given(word)) {
        return None;
    }
    let command = Cli::command();
    let all = std::iter::once(&command).chain(command.get_subcommands());
    let variable = all
        .flat_map(Command::get_arguments)
        .find(|arg| arg.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long)))?
        .get_env()?;
    Some(format!("The value comes from the environment: {}", variable.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn an_error_tells_the_usage_that_help_tells() {
        let line = words("dormouse mount --create w");
        let failure = failure(&parse(&line).unwrap_err(), &line);
        let said = "the following required arguments were not provided: <MOUNTPOINT>";
        assert_eq!(failure.message, said);
        let usage = "Usage: dormouse mount [OPTIONS] <NAME> <MOUNTPOINT>";
        assert_eq!(failure.hint.as_deref(), Some(usage));
    }

    #[test]
    fn tips_are_hints_and_there_is_always_one() {
        let of = |line: &str| failure(&parse(&words(line)).unwrap_err(), &words(line));
        let command = of("dormouse hibernat x");
        assert_eq!(command.message, "unrecognized subcommand 'hibernat'");
        assert!(command.hint.unwrap().contains("'hibernate'"));
        assert!(of("dormouse mount --cache-size=lots w d").hint.is_some());
        for line in ["dormouse", "dormouse --json"] {
            assert_eq!(of(line).message, "no command was given");
        }
    }

    #[test]
    fn json_is_asked_for_before_the_end_of_the_flags() {
        assert!(wants_json(&words("dormouse mount --json w")));
        assert!(!wants_json(&words("dormouse mount -- --json")));
    }

    #[test]
    fn what_is_right_is_understood_as_ever() {
        let cli = parse(&words("dormouse mount --create --json w d")).unwrap();
        assert!(cli.json && matches!(cli.command, super::super::args::CommandArgs::Mount(_)));
        assert!(parse(&words("dormouse umount w")).is_ok());
        let help = parse(&words("dormouse mount --help")).unwrap_err().to_string();
        assert_eq!(help.matches("Usage:").count(), 1);
    }
}
