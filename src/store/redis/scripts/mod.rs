//! The Lua sources, and how they are called: composed, sent by their digest, and their replies decoded.
//!
//! Rust defines every constant that Lua and Rust share; [`prelude`] passes them on. A module of the batch script is a
//! function that Redis makes only for the operations of the batch: making all of them costs more than most operations.
//!
//! This folder knows no connection pool, no master and no rule of retrying.

pub(super) mod reply;

use std::borrow::Cow;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value, cmd};

use crate::lock::lease::micros;
use crate::lock::queue::ENTRY_KEPT;
use crate::lock::releases::{MAX_REMEMBERED_RELEASES, RELEASE_MEMORY};
use crate::lock::rules::RESERVATION;
use crate::store::redis::options::Clock;

/// The layout of the data in Redis. A server that meets a newer one writes nothing.
pub(super) const DATA_FORMAT: u64 = 2;

/// How long new grants wait after an activation while servers report.
pub(super) const REPORTING_TIME: Duration = Duration::from_secs(1);

/// How long a server without a heartbeat counts as alive.
const HEARTBEAT_MEMORY: Duration = Duration::from_secs(3);

/// How long a server without a heartbeat is listed.
const SILENT_SERVER_MEMORY: Duration = Duration::from_secs(5);

/// How often a sweep looks at a queue without another reason.
const QUEUE_SWEEP: Duration = Duration::from_secs(10);

/// How many locks one sweep ends: other commands wait meanwhile.
pub(super) const MAX_SWEPT: usize = 500;

/// The message to all servers that their waiters must ask again.
pub(super) const ASK: &str = "ask";

/// How many fields the activation record has in the hash of the locks; see `activate.lua`.
const RECORD_FIELDS: usize = 15;

/// The text of a file beside this one.
macro_rules! lua {
    ($file:literal) => {
        text($file, include_str!($file))
    };
}

/// A debug build reads the files in this folder instead, so that a test of a seeded bug needs no build. A release build
/// does not know the variable.
#[cfg(debug_assertions)]
const FOLDER_UNDER_TEST: &str = "REDIS_SCRIPTS_UNDER_TEST";

#[cfg(debug_assertions)]
fn text(file: &str, built_in: &'static str) -> Cow<'static, str> {
    let Some(folder) = std::env::var_os(FOLDER_UNDER_TEST) else {
        return built_in.into();
    };
    let path = std::path::Path::new(&folder).join(file);
    let read = std::fs::read_to_string(&path);
    read.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .into()
}

#[cfg(not(debug_assertions))]
fn text(_file: &str, built_in: &'static str) -> Cow<'static, str> {
    built_in.into()
}

/// A script and its digest.
pub(super) struct Source {
    code: String,
    script: Script,
}

/// The scripts of the store.
pub(super) struct Scripts {
    /// Runs a batch of operations.
    pub(super) batch: Source,
    /// Activates a node.
    pub(super) activate: Source,
    /// Writes what replicas confirm.
    pub(super) confirm: Source,
    /// Takes the heartbeat of a server.
    pub(super) report: Source,
    /// Tries the commands of the others.
    pub(super) check: Source,
}

impl Scripts {
    /// The scripts, with a clock that only a test replaces.
    pub(super) fn new(clock: Clock, key_prefix: &str) -> Self {
        let time = time(clock, key_prefix);
        let source = |parts: &[&str]| Source::new(&prelude(), parts);
        Self {
            batch: source(&[
                &time,
                &lua!("guard.lua"),
                &lua!("pause.lua"),
                &lua!("batch.lua"),
                &modules(),
                &lua!("write.lua"),
            ]),
            activate: source(&[&lua!("time.lua"), &lua!("guard.lua"), &lua!("activate.lua")]),
            confirm: source(&[&lua!("guard.lua"), &lua!("confirm.lua")]),
            report: source(&[&time, &lua!("guard.lua"), &lua!("report.lua")]),
            check: source(&[&lua!("check.lua")]),
        }
    }
}

/// The constants. The first line lets Dragonfly run scripts that compute the names of queues.
fn prelude() -> String {
    format!(
        "--!df flags=allow-undeclared-keys\n\
         local FORMAT, RECORD_FIELDS, MAX_RELEASES, MAX_SWEPT = {DATA_FORMAT}, {RECORD_FIELDS}, {MAX_REMEMBERED_RELEASES}, {MAX_SWEPT}\n\
         local RESERVATION_US, ENTRY_KEPT_US, RELEASE_MEMORY_US = {}, {}, {}\n\
         local REPORTING_US, HEARTBEAT_US, SILENT_US, QUEUE_SWEEP_US = {}, {}, {}, {}\n\
         local ASK = '{ASK}'\n",
        micros(RESERVATION),
        micros(ENTRY_KEPT),
        micros(RELEASE_MEMORY),
        micros(REPORTING_TIME),
        micros(HEARTBEAT_MEMORY),
        micros(SILENT_SERVER_MEMORY),
        micros(QUEUE_SWEEP),
    )
}

/// The modules of the batch script, each made when an operation needs it.
fn modules() -> String {
    let modules = [
        ("acquire", lua!("acquire.lua")),
        ("release", lua!("release.lua")),
        ("releases", lua!("releases.lua")),
        ("ending", lua!("ending.lua")),
        ("renew", lua!("renew.lua")),
        ("inspect", lua!("inspect.lua")),
        ("queue", lua!("queue.lua")),
        ("rollback", lua!("rollback.lua")),
        ("decline", lua!("decline.lua")),
        ("break", lua!("break.lua")),
        ("list", lua!("list.lua")),
        ("sweep", lua!("sweep.lua")),
        ("resume", lua!("resume.lua")),
        ("failure", lua!("failure.lua")),
    ];
    let cases = modules.map(|(name, code)| format!("if name == '{name}' then\n{code}\n"));
    format!("define = function(name)\n{}end\nend\n", cases.join("else"))
}

/// The scripts' clock; only a test asks for another than the server's.
fn time(clock: Clock, key_prefix: &str) -> Cow<'static, str> {
    let key = format!("{key_prefix}test:clock");
    match clock {
        Clock::Server => lua!("time.lua"),
        Clock::Set => {
            format!("local function time_us() return tonumber(redis.call('GET', '{key}')) end\n")
                .into()
        }
    }
}

impl Source {
    /// Comments stay here.
    fn new(prelude: &str, parts: &[&str]) -> Self {
        let is_code = |line: &&str| !line.trim_start().starts_with("--") && !line.trim().is_empty();
        let lines = parts.iter().flat_map(|part| part.lines().filter(is_code));
        let code = lines.fold(prelude.to_owned(), |code, line| {
            code + line.trim_start() + "\n"
        });
        let script = Script::new(&code);
        Self { code, script }
    }

    /// Runs the script by its digest. If Redis has forgotten it, nothing was done; see [`is_forgotten`].
    pub(super) async fn run_by_digest(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> RedisResult<Value> {
        call("EVALSHA", self.script.get_hash(), keys, arguments)
            .query_async(connection)
            .await
    }

    /// Runs the script. When Redis has forgotten it, nothing was done, and it is sent whole.
    pub(super) async fn run(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> RedisResult<Value> {
        match self.run_by_digest(connection, keys, arguments).await {
            Err(error) if is_forgotten(&error) => {}
            reply => return reply,
        }
        let reply = call("EVAL", &self.code, keys, arguments)
            .query_async(connection)
            .await;
        // A user or a proxy may allow only the other way to send a script.
        match reply {
            Err(error) if is_refused(&error) => match self.script.load_async(connection).await {
                Ok(_) => self.run_by_digest(connection, keys, arguments).await,
                Err(_) => Err(error),
            },
            reply => reply,
        }
    }
}

fn call(command: &str, script: &str, keys: &[String], arguments: &[&[u8]]) -> Cmd {
    let mut call = cmd(command);
    call.arg(script).arg(keys.len()).arg(keys).arg(arguments);
    call
}

/// Whether Redis has forgotten a script.
pub(super) fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Whether a command does not exist, or is not allowed.
fn is_refused(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        || error
            .detail()
            .is_some_and(|detail| detail.contains("unknown command"))
}
