//! `evenkeel man`: the manual page on stdout.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;

/// Print the manual page, all commands included: `evenkeel man | man -l -`
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> ExitCode {
    let mut page = Vec::new();
    match render(&mut page) {
        Ok(()) => {
            // A reader that has gone (`| head`) is no mistake.
            let _ = std::io::stdout().write_all(&page);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("evenkeel: cannot render the manual page: {error}");
            ExitCode::FAILURE
        }
    }
}

fn render(page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut command = super::Cli::command();
    command.build();
    let main = clap_mangen::Man::new(command.clone());
    main.render_title(page)?;
    main.render_name_section(page)?;
    main.render_synopsis_section(page)?;
    main.render_description_section(page)?;
    main.render_options_section(page)?;
    for subcommand in command.get_subcommands() {
        writeln!(page, ".SH \"{}\"", subcommand.get_name().to_uppercase())?;
        let man = clap_mangen::Man::new(subcommand.clone());
        man.render_synopsis_section(page)?;
        man.render_description_section(page)?;
        man.render_options_section(page)?;
    }
    main.render_extra_section(page)?;
    main.render_version_section(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_section() {
        let mut page = Vec::new();
        render(&mut page).expect("a Vec takes everything");
        let page = String::from_utf8(page).expect("roff is text");
        for command in super::super::Cli::command().get_subcommands() {
            let section = format!(".SH \"{}\"", command.get_name().to_uppercase());
            assert!(page.contains(&section), "{section} is missing");
        }
    }
}
