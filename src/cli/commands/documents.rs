//! `completions`, `man`, `exit-codes`: what the program says of itself.

use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::cli::args::Cli;
use crate::cli::context::Context;
use crate::cli::exit::{self, Failure, Outcome, TABLE};
use crate::cli::output;

/// Prints completions for a shell.
pub fn completions(shell: Shell) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dormouse", &mut text);
    output::print(&String::from_utf8_lossy(&text))
}

/// Prints the table of exit codes.
pub fn exit_codes(context: &Context) -> Outcome {
    let rows: Vec<_> = TABLE
        .iter()
        .map(|(code, name, meaning, remedy)| {
            serde_json::json!({
                "code": code.number(), "name": name, "meaning": meaning, "remedy": remedy,
            })
        })
        .collect();
    output::facts(context.json, &rows, &exit::table_text())
}

/// Prints dormouse(1), or writes one page per command into a directory.
pub fn man(context: &Context, out: Option<&Path>) -> Outcome {
    let mut command = Cli::command();
    command.build();
    let Some(dir) = out else {
        return output::print(&String::from_utf8_lossy(&page(&command, "dormouse")?));
    };
    let dir = context.absolute(dir)?;
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let write = |name: &str, text: Vec<u8>| {
        std::fs::write(dir.join(format!("{name}.1")), text).map_err(failed)
    };
    write("dormouse", page(&command, "dormouse")?)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("dormouse-{}", sub.get_name());
        write(&name, page(sub, &name)?)?;
    }
    Ok(())
}

fn page(command: &Command, name: &str) -> Outcome<Vec<u8>> {
    let version = concat!("dormouse ", env!("CARGO_PKG_VERSION"));
    let command = command.clone().name(name.to_owned()).display_name(name.to_owned());
    let man = Man::new(command).title(name.to_uppercase()).source(version).manual("Dormouse");
    let mut text = Vec::new();
    man.render(&mut text).map_err(Failure::internal)?;
    if name == "dormouse" {
        let mut codes = Roff::new();
        codes.control("SH", ["EXIT STATUS"]);
        for (code, name, meaning, remedy) in TABLE {
            codes.control("TP", []);
            codes.text([roman(format!("{} {name}", code.number()))]);
            let colon = if remedy.is_empty() { "" } else { ": " };
            codes.text([roman(format!("{meaning}{colon}{remedy}"))]);
        }
        codes.to_writer(&mut text).map_err(Failure::internal)?;
    }
    Ok(text)
}
