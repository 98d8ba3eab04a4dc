//! The command line: the server, and the commands that call one.

mod arguments;
mod token;
mod verbs;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::arguments::{ElectArguments, RunArguments};
use self::token::TokenArguments;
use self::verbs::Verb;
use crate::client::{Client, Connection, exit};
use crate::config::{SECRET, Settings, refuse_unknown_variables};
use crate::{http, run, server, telemetry};

/// How long a health check waits for its answer.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the runtime waits for its threads at the exit.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The exit code for wrong settings or arguments of the server, as is usual for commands.
const USAGE: u8 = 2;

/// The commands of the server. All others are clients: settings of a server beside them are none of their business.
const OF_THE_SERVER: [&str; 4] = ["serve", "openapi", "token", "healthcheck"];

/// The variables that `run` sets for its command, which may be a server.
const SET_BY_RUN: [&str; 4] = [
    "LEASEHOLD_KEY",
    "LEASEHOLD_FENCING_TOKEN",
    "LEASEHOLD_EXPIRES_AT",
    "LEASEHOLD_LEASE_ID",
];

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
    /// Make tokens for the file LEASEHOLD_AUTH_FILE
    Token(TokenArguments),
    /// Run a command under a lease of a lock
    Run(Box<RunArguments>),
    /// Compete for the leadership, and answer GET /role with 200 while this candidate leads, else with 503
    Elect(Box<ElectArguments>),
    #[command(flatten)]
    Verb(Box<Verb>),
    /// Copy this program into a folder, as an init container does for a container without it
    Install {
        /// The folder
        folder: PathBuf,
    },
    /// Print the completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all pages into a folder
    Man {
        /// The folder
        folder: Option<PathBuf>,
    },
    /// The process that ends the command of `run` in time
    #[command(name = run::GUARDIAN, hide = true)]
    Guardian {
        /// The first order
        order: Option<String>,
    },
    /// The process that becomes the command of `run`
    #[command(name = run::BECOME, hide = true)]
    Become {
        /// The process that starts it
        program: u32,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
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
fn without_empty_variables(command: clap::Command, is_client: bool) -> clap::Command {
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
    let command = command.mut_subcommands(|of| of.mut_args(unless_empty));
    if is_client {
        command.mut_args(|argument| argument.env(Resettable::Reset))
    } else {
        command.mut_args(unless_empty)
    }
}

/// The variables that a server must not take for misspelt settings: its own, and those of clients.
fn known_variables(command: &clap::Command) -> Vec<String> {
    let subcommands = command.get_subcommands();
    let arguments = subcommands.flat_map(clap::Command::get_arguments);
    let names = command.get_arguments().chain(arguments);
    names
        .filter_map(|argument| argument.get_env()?.to_str())
        .chain(SET_BY_RUN)
        .map(str::to_owned)
        .collect()
}

/// Runs the command of the command line, and returns the exit code of the process.
#[must_use]
pub fn run() -> ExitCode {
    let command = command();
    let known = known_variables(&command);
    let first = std::env::args().nth(1).unwrap_or_default();
    let is_client = command.find_subcommand(&first).is_some() && !OF_THE_SERVER.contains(&&*first);
    let parsed = without_empty_variables(command, is_client)
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return refuse_arguments(&error, if is_client { exit::USAGE } else { USAGE }),
    };
    match cli.command {
        None => serve(cli.settings, &known),
        Some(Command::Serve(arguments)) => serve(arguments.settings, &known),
        Some(Command::Openapi) => {
            // The reader may close the pipe early, as `head` does. That is not a failure.
            let _written = std::io::stdout().write_all(http::openapi().as_bytes());
            ExitCode::SUCCESS
        }
        Some(Command::Token(arguments)) => match arguments.run() {
            Ok(text) => {
                let _written = std::io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Err(text) => fail(&text, USAGE),
        },
        Some(Command::Run(arguments)) => match arguments.parse() {
            Ok((client, run)) => {
                let code = block_on(run::run(&client, &run));
                ExitCode::from(code)
            }
            Err(failure) => fail(&failure.to_string(), failure.exit_code()),
        },
        Some(Command::Elect(arguments)) => match block_on(arguments.run()) {
            Ok(code) => ExitCode::from(code),
            Err(failure) => fail(&failure.to_string(), failure.exit_code()),
        },
        Some(Command::Install { folder }) => match install(&folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(
                &format!("cannot install into {}: {error}", folder.display()),
                exit::NOT_EXECUTABLE,
            ),
        },
        Some(Command::Verb(verb)) => match block_on(verb.run()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => fail(&failure.to_string(), failure.exit_code()),
        },
        Some(Command::Completion { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut self::command(), "leasehold", &mut script);
            let _written = std::io::stdout().write_all(&script);
            ExitCode::SUCCESS
        }
        Some(Command::Man { folder }) => manual(folder.as_deref()),
        Some(Command::Guardian { order }) => match run::guard(order.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Some(Command::Become { program, command }) => {
            let error = run::become_command(program, &command);
            let code = match error.kind() {
                std::io::ErrorKind::NotFound => exit::NOT_FOUND,
                _ => exit::NOT_EXECUTABLE,
            };
            fail(
                &format!("cannot run {}: {error}", command[0].display()),
                code,
            )
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
    let connection = Connection {
        servers: vec![url.to_owned()],
        token: None,
        ca: None,
    };
    let answer =
        Client::new(&connection).and_then(|client| block_on(client.is_ready(HEALTHCHECK_TIMEOUT)));
    match answer {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => fail("the server is not ready", 1),
        Err(error) => fail(&error.to_string(), 1),
    }
}

/// Another process may execute the copy at once, so it appears whole.
fn install(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let part = folder.join(".leasehold.part");
    std::fs::copy(std::env::current_exe()?, &part)?;
    std::fs::rename(part, folder.join("leasehold"))
}

fn manual(folder: Option<&Path>) -> ExitCode {
    let written = if let Some(folder) = folder {
        clap_mangen::generate_to(command(), folder).map(drop)
    } else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command()).render(&mut page);
        // The reader may close the pipe early.
        let _written = std::io::stdout().write_all(&page);
        rendered
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write the manual: {error}"), exit::USAGE),
    }
}

/// Runs a client, which does one thing at a time. A blocked DNS look-up does not delay the exit.
fn block_on<T>(client: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the system gives what a runtime needs");
    let result = runtime.block_on(client);
    runtime.shutdown_background();
    result
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the system gives threads")
}

/// Prints clap's message as one line, because it usually ends up in a log.
fn refuse_arguments(error: &clap::Error, code: u8) -> ExitCode {
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
            code,
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
