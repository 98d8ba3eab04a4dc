//! The Lua sources, put together and sent by their digest.

use std::borrow::Cow;
use std::sync::LazyLock;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisResult, Script, ServerErrorKind, Value, cmd};

use super::options::Clock;

/// The text of a file beside this one.
macro_rules! lua {
    ($file:literal) => {
        text($file, include_str!($file))
    };
}

/// A debug build reads the files in this folder instead, so that a test of a seeded bug needs no build. A release build
/// knows no such variable.
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

/// Runs a batch of operations. Its parts in their order: what verbs share, the verbs, the dispatcher.
pub(super) fn batch(clock: Clock, key_prefix: &str) -> Source {
    let parts = [
        time(clock, key_prefix),
        lua!("record.lua"),
        lua!("queue.lua"),
        lua!("acquire.lua"),
        lua!("renew.lua"),
        lua!("release.lua"),
        lua!("break.lua"),
        lua!("abandon.lua"),
        lua!("inspect.lua"),
        lua!("list.lua"),
        lua!("batch.lua"),
    ];
    Source::new(parts.concat())
}

/// Activates a node.
pub(super) static ACTIVATION: LazyLock<Source> =
    LazyLock::new(|| Source::new([lua!("time.lua"), lua!("activate.lua")].concat()));

/// Writes what replicas are to confirm.
pub(super) static CONFIRMATION: LazyLock<Source> =
    LazyLock::new(|| Source::new(lua!("confirm.lua").into_owned()));

/// Takes a server's report.
pub(super) fn report(clock: Clock, key_prefix: &str) -> Source {
    Source::new([time(clock, key_prefix), lua!("report.lua")].concat())
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
    fn new(code: String) -> Self {
        let script = Script::new(&code);
        Self { code, script }
    }

    /// Loads the script, so that the first call finds it.
    pub(super) async fn load(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        self.script.load_async(connection).await.map(drop)
    }

    /// Runs the script. When Redis has forgotten it, nothing was done, and it is sent whole.
    pub(super) async fn run(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &[&[u8]],
        arguments: &[&[u8]],
    ) -> RedisResult<Value> {
        let call = |command: &str, script: &str| {
            let mut call = cmd(command);
            call.arg(script).arg(keys.len()).arg(keys).arg(arguments);
            call
        };
        let reply = call("EVALSHA", self.script.get_hash())
            .query_async(connection)
            .await;
        match reply {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                call("EVAL", &self.code).query_async(connection).await
            }
            reply => reply,
        }
    }
}
