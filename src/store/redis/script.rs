//! The Lua sources, put together and sent by their digest.

use std::sync::LazyLock;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisResult, Script, ServerErrorKind, Value, cmd};

use super::options::Clock;

const TIME: &str = include_str!("time.lua");
const ACTIVATE: &str = include_str!("activate.lua");

/// Parts of the batch script in their order: what verbs share, the verbs, the dispatcher.
const BATCH: [&str; 10] = [
    include_str!("record.lua"),
    include_str!("queue.lua"),
    include_str!("acquire.lua"),
    include_str!("renew.lua"),
    include_str!("release.lua"),
    include_str!("break.lua"),
    include_str!("abandon.lua"),
    include_str!("inspect.lua"),
    include_str!("list.lua"),
    include_str!("batch.lua"),
];

/// A script and its digest.
pub(super) struct Source {
    code: String,
    script: Script,
}

/// Runs a batch of operations.
pub(super) fn batch(clock: Clock, key_prefix: &str) -> Source {
    Source::new(format!("{}{}", time(clock, key_prefix), BATCH.concat()))
}

/// Activates a node.
pub(super) static ACTIVATION: LazyLock<Source> =
    LazyLock::new(|| Source::new(format!("{TIME}{ACTIVATE}")));

/// Writes what replicas are to confirm.
pub(super) static CONFIRMATION: LazyLock<Source> =
    LazyLock::new(|| Source::new(include_str!("confirm.lua").to_owned()));

/// Takes a server's report.
pub(super) fn report(clock: Clock, key_prefix: &str) -> Source {
    let time = time(clock, key_prefix);
    Source::new(format!("{time}{}", include_str!("report.lua")))
}

/// The scripts' clock; only a test asks for another than the server's.
fn time(clock: Clock, key_prefix: &str) -> String {
    let key = format!("{key_prefix}test:clock");
    match clock {
        Clock::Server => TIME.to_owned(),
        Clock::Set => {
            format!("local function time_us() return tonumber(redis.call('GET', '{key}')) end\n")
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
