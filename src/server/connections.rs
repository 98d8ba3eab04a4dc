//! The open connections: their limit, which one to close at the limit, and their common end.
//!
//! At the limit, a new connection replaces the one that is longest without a request. So idle clients and slow heads
//! keep no other client out. The server refuses a new connection only when each of the others has a request under way.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Client;

/// How many of the longest idle connections one search finds. With a search for each new connection, a flood of
/// connections would cost the square of its size.
const CANDIDATES: usize = 64;

/// A set of connections that end together. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections {
    max: usize,
    open: Arc<Mutex<Open>>,
    /// Its cancellation makes all connections end.
    pub(super) closing: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Open {
    connections: HashMap<u64, Entry>,
    next_id: u64,
    /// The longest idle connections with the start of their idle time, the longest idle first. An entry is stale when
    /// its connection has had a request since. All other connections are idle for a shorter time.
    candidates: VecDeque<(Instant, u64)>,
}

struct Entry {
    client: Client,
    task: AbortHandle,
}

/// The result of admitting a connection.
pub(super) enum Admission {
    /// The number of connections is below the limit.
    Admitted,
    /// The connection replaces an idle one.
    Replaced,
    /// All other connections have a request under way.
    Refused(TcpStream),
}

impl Connections {
    /// A set of at most `max` connections at once.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            open: Arc::default(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// The number of open connections.
    pub(super) fn count(&self) -> usize {
        self.open().connections.len()
    }

    /// Spawns `serve` for a new connection unless all others have a request under way at the limit.
    pub(super) fn admit<F>(
        &self,
        stream: TcpStream,
        serve: impl FnOnce(TcpStream) -> (Client, F),
    ) -> Admission
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut open = self.open();
        let mut admission = Admission::Admitted;
        if open.connections.len() >= self.max {
            if !open.close_longest_idle() {
                return Admission::Refused(stream);
            }
            admission = Admission::Replaced;
        }
        let id = open.next_id;
        open.next_id += 1;
        let (client, served) = serve(stream);
        let leave = Leave {
            open: Arc::clone(&self.open),
            id,
        };
        // `open` stays locked until the entry exists: a connection that ends at once must not leave a stale entry.
        let task = self.tasks.spawn(async move {
            let _leave = leave;
            served.await;
        });
        let task = task.abort_handle();
        open.connections.insert(id, Entry { client, task });
        admission
    }

    /// Closes the longest idle connection. Returns false if every connection has a request under way.
    pub(super) fn close_longest_idle(&self) -> bool {
        self.open().close_longest_idle()
    }

    /// Ends all connections after the answers to their requests under way.
    pub(super) async fn end(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open
            .lock()
            .expect("nothing panics while it holds the connections")
    }
}

impl Open {
    fn close_longest_idle(&mut self) -> bool {
        if self.close_candidate() {
            return true;
        }
        self.find_candidates();
        self.close_candidate()
    }

    fn close_candidate(&mut self) -> bool {
        while let Some((since, id)) = self.candidates.pop_front() {
            let unchanged = |entry: &Entry| {
                entry.client.idle_since() == Some(since) && entry.client.close_if_idle()
            };
            if self.connections.get(&id).is_some_and(unchanged)
                && let Some(entry) = self.connections.remove(&id)
            {
                entry.task.abort();
                return true;
            }
        }
        false
    }

    fn find_candidates(&mut self) {
        let idle_since = |(id, entry): (&u64, &Entry)| Some((entry.client.idle_since()?, *id));
        let mut idle: Vec<_> = self.connections.iter().filter_map(idle_since).collect();
        if idle.len() > CANDIDATES {
            idle.select_nth_unstable(CANDIDATES);
            idle.truncate(CANDIDATES);
        }
        idle.sort_unstable();
        self.candidates = idle.into();
    }
}

/// Removes a connection from the set when its task ends, also by an abort or a panic.
struct Leave {
    open: Arc<Mutex<Open>>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Ok(mut open) = self.open.lock() {
            // The socket closes after the unlock, because closing takes time.
            let entry = open.connections.remove(&self.id);
            drop(open);
            drop(entry);
        }
    }
}
