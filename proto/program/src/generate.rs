//! What is generated from the command line's own definition: completions and manual pages.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

use crate::exit;

/// Prints the completion for a shell.
pub fn completion(mut command: Command, shell: Shell) {
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut io::stdout());
}

/// Writes the manual pages, one for each command, into a directory; says what failed.
pub fn pages(command: Command, section: &str, directory: &Path) -> ExitCode {
    match man(command, section, directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let said = format!("no manual pages in {}: {error}", directory.display());
            exit::failure(exit::OS_ERROR, &said)
        }
    }
}

fn man(command: Command, section: &str, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write_page(&command, section, directory)
}

fn write_page(command: &Command, section: &str, directory: &Path) -> io::Result<()> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let page = clap_mangen::Man::new(command.clone())
        .section(section)
        .title(name.to_owned());
    let mut text = Vec::new();
    page.render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.{section}")), text)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_page(sub, section, directory)?;
    }
    Ok(())
}
