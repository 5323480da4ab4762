//! `moelten completions` and `moelten man`: files for shells and for `man`, made from the command line's own
//! definition. They must not know a command by name.

use std::io;

use clap::Command;

/// Print completions for a shell: `moelten completions bash > FILE`
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    shell: clap_complete::Shell,
}

/// Print the man page, or with a command's name that of the command
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// A command, such as `run`
    command: Option<String>,
}

/// Prints completions for the whole command line.
pub fn run(args: CompletionsArgs, mut whole: Command) -> anyhow::Result<()> {
    let name = whole.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut whole, name, &mut script);
    Ok(io::Write::write_all(&mut io::stdout(), &script)?)
}

/// Prints a man page.
pub fn man(args: ManArgs, mut whole: Command) -> anyhow::Result<()> {
    whole.build();
    let page = match args.command {
        None => whole,
        Some(name) => {
            let missing = || crate::exit::CommandError::Usage(format!("there is no command {name:?}"));
            let command = whole.find_subcommand(&name).ok_or_else(missing)?.clone();
            command.display_name(format!("moelten-{name}"))
        }
    };
    Ok(clap_mangen::Man::new(page).render(&mut io::stdout())?)
}
