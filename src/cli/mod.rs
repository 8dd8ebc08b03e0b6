//! The command line: one file per command, no logic that another command needs.

pub mod check;
pub mod client;
pub mod completions;
pub mod config_show;
pub mod demo;
pub mod explain;
pub mod healthcheck;
pub mod man;
pub mod reload;
pub mod run;
pub mod schema;
pub mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// A Layer-7 reverse proxy and load balancer: one binary, one TOML file, reloaded while it runs
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Configuration file
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "EVENKEEL_CONFIG",
        default_value = "/etc/evenkeel/evenkeel.toml"
    )]
    pub config: PathBuf,
    /// Check the configuration and exit: the same as `check`
    #[arg(short = 't', long = "test")]
    pub test: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 success, 1 bad configuration (or: not routed, not ready), \
2 wrong usage, 3 cannot bind, 4 refused by the running instance";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run in the foreground; events go to stderr
    Run(run::Args),
    Check(check::Args),
    Explain(explain::Args),
    Reload(reload::Args),
    Healthcheck(healthcheck::Args),
    /// Show everything with no other program: three origin servers, a proxy, the admin page
    Demo(demo::Options),
    Schema(schema::Args),
    /// Show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    Version(version::Args),
    Completions(completions::Args),
    Man(man::Args),
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    Show(config_show::Args),
}

/// Parses the arguments and does what they say. The process' exit code.
pub fn main() -> ExitCode {
    // Usage errors exit 2 within `parse`.
    let cli = Cli::parse();
    let Some(command) = cli.command else {
        if cli.test {
            return check::run(check::Args {
                config: cli.config,
                format: check::Format::Human,
            });
        }
        // Written to stderr: nothing was done.
        eprint!("{}", Cli::command().render_help());
        return ExitCode::from(2);
    };
    match command {
        Command::Run(args) => run::run(args, &cli.config),
        Command::Explain(args) => explain::run(args, &cli.config),
        Command::Check(args) => check::run(args),
        Command::Reload(args) => reload::run(&args, &cli.config),
        Command::Healthcheck(args) => healthcheck::run(&args, &cli.config),
        Command::Demo(options) => demo::run(options),
        Command::Schema(args) => schema::run(args),
        Command::Config(ConfigCommand::Show(args)) => config_show::run(args),
        Command::Version(args) => version::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Cli {
        let arguments = [&["evenkeel"], arguments].concat();
        Cli::try_parse_from(arguments).expect("these arguments are valid")
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_file_may_stand_before_or_after_the_command() {
        for arguments in [["-c", "x.toml", "check"], ["check", "-c", "x.toml"]] {
            let Some(Command::Check(args)) = parse(&arguments).command else {
                panic!("`check` is a command");
            };
            assert_eq!(args.config, PathBuf::from("x.toml"), "{arguments:?}");
        }
        assert_eq!(
            parse(&["run", "-c", "x.toml"]).config,
            PathBuf::from("x.toml")
        );
        assert_eq!(
            parse(&["-t", "-c", "x.toml"]).config,
            PathBuf::from("x.toml")
        );
    }

    #[test]
    fn commands_that_come_later_are_unknown() {
        for command in ["diff", "apply", "confirm", "rollback", "simulate", "top"] {
            let error = Cli::try_parse_from(["evenkeel", command]).expect_err("comes later");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
