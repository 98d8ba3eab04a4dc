//! The command line: `serve` (the default), `openapi` and `healthcheck`.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{SECRET, Settings, refuse_unknown_variables};
use crate::{client, http, server, telemetry};

/// How long a health check waits for its answer.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the runtime waits for its threads at the exit.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The exit code for wrong settings or arguments, as is usual for commands.
const USAGE: u8 = 2;

/// A lock service over HTTP: leases with fencing tokens, kept in Redis behind Sentinel.
#[derive(Parser)]
#[command(
    name = "leasehold",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (the default)
    Serve(Box<ServeArguments>),
    /// Print the OpenAPI document
    Openapi,
    /// Check whether a server is ready: exit code 0 if it is, 1 if it is not
    Healthcheck {
        /// Base URL of the server [default: the address in LEASEHOLD_LISTEN]
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
}

#[derive(clap::Args)]
struct ServeArguments {
    #[command(flatten)]
    settings: Settings,
}

/// The definition of the command line. Its arguments name every setting.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Compose files and charts write a setting that is not used as an empty variable. It counts as unset, but for secrets:
/// without its token a server would be open.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let unless_empty = |argument: Arg| {
        let name = argument.get_env().filter(|name| {
            let is_secret = argument.get_value_names().is_some_and(|of| of == [SECRET]);
            !is_secret && std::env::var_os(name).is_some_and(|value| value.is_empty())
        });
        match name {
            Some(_) => argument.env(Resettable::Reset),
            None => argument,
        }
    };
    command
        .mut_args(unless_empty)
        .mut_subcommand("serve", |serve| serve.mut_args(unless_empty))
}

/// Runs the command of the command line, and returns the exit code of the process.
#[must_use]
pub fn run() -> ExitCode {
    let command = command();
    let known: Vec<String> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env())
        .filter_map(|name| name.to_str().map(str::to_owned))
        .collect();
    let matches = match without_empty_variables(command).try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return refuse_arguments(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return refuse_arguments(&error),
    };
    match cli.command {
        None => serve(cli.settings, &known),
        Some(Command::Serve(arguments)) => serve(arguments.settings, &known),
        Some(Command::Openapi) => {
            // The reader may close the pipe early, as `head` does. That is not a failure.
            let _written = std::io::stdout().write_all(http::openapi().as_bytes());
            ExitCode::SUCCESS
        }
        Some(Command::Healthcheck { url }) => {
            healthcheck(&url.unwrap_or_else(|| cli.settings.own_url()))
        }
    }
}

fn serve(settings: Settings, known: &[String]) -> ExitCode {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let variables: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    let pairs = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let config = refuse_unknown_variables(known, pairs).and_then(|()| settings.validate());
    let config = match config {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), USAGE),
    };
    let logging = telemetry::start_logging();
    let runtime = runtime();
    let served = runtime.block_on(server::serve(config));
    // A blocked DNS look-up must not delay the exit.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    drop(logging);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), 1),
    }
}

fn healthcheck(url: &str) -> ExitCode {
    let answer = runtime().block_on(async {
        let client = client::Client::new(url)?;
        tokio::time::timeout(HEALTHCHECK_TIMEOUT, client.is_ready())
            .await
            .unwrap_or_else(|_| {
                Err(client::ClientError::Transport(format!(
                    "no answer within {} s",
                    HEALTHCHECK_TIMEOUT.as_secs()
                )))
            })
    });
    match answer {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => fail("the server is not ready", 1),
        Err(error) => fail(&error.to_string(), 1),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the system gives threads")
}

/// Prints clap's message as one line, because it usually ends up in a log.
fn refuse_arguments(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let text = error.render().to_string();
        let lines = text
            .lines()
            .map(str::trim)
            .take_while(|line| !line.is_empty());
        return fail(
            lines
                .collect::<Vec<_>>()
                .join(" ")
                .trim_start_matches("error: "),
            USAGE,
        );
    }
    // This is the help or the version. A failure to print it has no other channel to go to.
    let _printed = error.print();
    ExitCode::SUCCESS
}

fn fail(text: &str, code: u8) -> ExitCode {
    eprintln!("leasehold: {text}");
    ExitCode::from(code)
}
