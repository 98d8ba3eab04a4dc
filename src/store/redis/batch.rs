//! A batch: operations that go to Redis as one script call.

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};

use super::options::RedisOptions;
use super::script::Source;
use super::topology::{DATA_FORMAT, Generation};
use crate::lock::lease::Timestamp;
use crate::store::contract::StoreError;

/// How long after the last moment that matters Redis may drop a lock's key. Wide, because it is
/// each node's own clock that counts it.
const GARBAGE_MARGIN_US: u64 = 30_000_000;

/// One operation on one key.
pub(super) struct Operation {
    pub(super) verb: &'static str,
    pub(super) key: Vec<u8>,
    pub(super) arguments: Vec<Vec<u8>>,
}

/// What a script replied to one operation, and when.
pub(super) struct Reply {
    pub(super) value: Value,
    pub(super) at: Timestamp,
}

pub(super) type Answer = Result<Reply, StoreError>;

/// Sends operations as one script call.
pub(super) async fn call(
    connection: &mut MultiplexedConnection,
    script: &Source,
    options: &RedisOptions,
    generation: &Generation,
    operations: &[&Operation],
) -> Result<Value, RedisError> {
    let meta = options.meta_key();
    let margin = GARBAGE_MARGIN_US.to_string();
    let counts: Vec<_> = operations
        .iter()
        .map(|operation| operation.arguments.len().to_string())
        .collect();
    let mut keys = vec![meta.as_bytes()];
    let mut arguments = vec![
        DATA_FORMAT.as_bytes(),
        generation.activation.as_bytes(),
        margin.as_bytes(),
    ];
    for (operation, count) in operations.iter().zip(&counts) {
        keys.push(&operation.key);
        arguments.extend([operation.verb.as_bytes(), count.as_bytes()]);
        arguments.extend(operation.arguments.iter().map(Vec::as_slice));
    }
    script.run(connection, &keys, &arguments).await
}
