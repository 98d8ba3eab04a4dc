//! The connections of a server: how many there may be, which one goes when there are too many, and their end together.
//!
//! At the limit the server closes the connection that is longest without a request for a new one. So idle clients, slow
//! heads and clients that do not read keep no other client out. The server refuses a new connection only when a request
//! is under way on each of the others.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Client;

/// How many of the connections longest without a request are found at once: looking at all of them for each new one
/// would let a flood of connections cost the square of its size.
const CANDIDATES: usize = 64;

/// Connections that end together. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections {
    max: usize,
    open: Arc<Mutex<Open>>,
    /// Cancelled when they are to end.
    pub(super) ending: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Open {
    connections: HashMap<u64, Entry>,
    next_id: u64,
    /// Those longest without a request, the longest first, and since when. One that has had a request since is not
    /// among them any more; all others are younger than these.
    candidates: VecDeque<(Instant, u64)>,
}

struct Entry {
    client: Client,
    task: AbortHandle,
}

/// What became of a new connection.
pub(super) enum Admission {
    /// There was room.
    Admitted,
    /// Another one was closed for it.
    Replaced,
    /// A request is under way on each of the others.
    Refused(TcpStream),
}

impl Connections {
    /// At most `max` at once.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            open: Arc::default(),
            ending: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.open().connections.len()
    }

    /// Spawns `serve` for a new connection, if there is a place for it.
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
        // The guard is held until the entry is there, so that a connection that ends at once leaves none.
        let task = self.tasks.spawn(async move {
            let _leave = leave;
            served.await;
        });
        let task = task.abort_handle();
        open.connections.insert(id, Entry { client, task });
        admission
    }

    /// Closes the connection that is longest without a request; says whether there was one.
    pub(super) fn close_longest_idle(&self) -> bool {
        self.open().close_longest_idle()
    }

    /// Ends them when what is under way on them has been answered.
    pub(super) async fn end(&self) {
        self.ending.cancel();
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

/// Takes a connection off the list when its task ends, however it ends.
struct Leave {
    open: Arc<Mutex<Open>>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Ok(mut open) = self.open.lock() {
            // Dropped behind the guard: closing a socket takes time.
            let entry = open.connections.remove(&self.id);
            drop(open);
            drop(entry);
        }
    }
}
