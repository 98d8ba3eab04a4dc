//! Network faults: a TCP proxy between a client and a server under test.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the proxy checks for new connections.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(2);
/// The ports for tests. They lie below the range of outgoing connections, so a killed server gets its port again.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A free loopback port that no other test of this process has received.
///
/// Another program can still take the port first, so a server that finds it in use asks again.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Parallel test processes start at different ports.
    let offset = process::id().wrapping_mul(997);
    for _ in PORTS {
        let number = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let index = offset.wrapping_add(number) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(index).expect("an index in a range of u16");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// A proxy on a loopback port with behaviour that a test can change at run time. Stops on drop.
pub(crate) struct TcpProxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl TcpProxy {
    /// Forwards each connection to `target` (`host:port`).
    pub(crate) fn start(target: &str) -> Self {
        let (port, listener) = loop {
            let port = free_port();
            if let Ok(listener) = listen(port) {
                break (port, listener);
            }
        };
        let state = State {
            listener: Some(listener),
            targets: vec![target.to_owned()],
            mark: String::new(),
            forwarded: 0,
            links: Vec::new(),
            stopped: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            blackhole: AtomicBool::new(false),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept_all(&shared))
        };
        Self {
            port,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Forwards new connections to `target`, also after `refuse` and `blackhole`. Existing connections keep their
    /// target; those that lost bytes in a black hole are closed.
    pub(crate) fn set_target(&self, target: &str) {
        self.round_robin(&[target]);
    }

    /// As `set_target`, with a round robin over the targets, like a Kubernetes Service over its pods.
    pub(crate) fn round_robin(&self, targets: &[&str]) {
        let mut state = self.shared.state();
        state.targets = targets.iter().map(ToString::to_string).collect();
        state.forwarded = 0;
        self.reopen(&mut state);
    }

    /// Refuses new connections and closes the existing ones: a dead server.
    pub(crate) fn refuse(&self) {
        let mut state = self.shared.state();
        state.listener = None;
        state.cut(|_| true);
    }

    /// Accepts connections and drops all bytes in both directions, also on existing connections: a partition.
    pub(crate) fn blackhole(&self) {
        let mut state = self.shared.state();
        self.reopen(&mut state);
        self.shared.blackhole.store(true, Ordering::SeqCst);
    }

    /// Resumes forwarding after `refuse` or `blackhole`.
    pub(crate) fn heal(&self) {
        self.reopen(&mut self.shared.state());
    }

    /// Holds back the bytes from clients on existing connections until `forward`; new connections work normally.
    pub(crate) fn hold(&self) {
        self.shared
            .state()
            .for_each(|link| link.held.store(true, Ordering::SeqCst));
    }

    /// Holds back a connection's bytes, from the piece of data that contains `mark`, until `forward`. Other connections
    /// work normally; an empty mark turns this off.
    pub(crate) fn hold_connections_that_send(&self, mark: &str) {
        mark.clone_into(&mut self.shared.state().mark);
    }

    /// How many connections are held back.
    pub(crate) fn held(&self) -> usize {
        let mut held = 0;
        self.shared
            .state()
            .for_each(|link| held += usize::from(link.held.load(Ordering::SeqCst)));
        held
    }

    /// Forwards the bytes that `hold` held back, even for clients that have closed their connection since.
    pub(crate) fn forward(&self) {
        self.shared
            .state()
            .for_each(|link| link.held.store(false, Ordering::SeqCst));
    }

    /// Drops all further bytes of the connections that the target sees from `peers` (`host:port`); these connections
    /// stay open. Returns their number; all other connections work normally.
    pub(crate) fn swallow(&self, peers: &[&str]) -> usize {
        let mut found = 0;
        for link in self
            .shared
            .state()
            .links
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|link| link.comes_from(peers))
        {
            link.torn.store(true, Ordering::SeqCst);
            found += 1;
        }
        found
    }

    /// Closes the existing connections; new ones work normally.
    pub(crate) fn cut(&self) {
        self.shared.state().cut(|_| true);
    }

    /// Listens again if necessary, and ends a black hole.
    fn reopen(&self, state: &mut State) {
        if state.listener.is_none() {
            state.listener = Some(listen(self.port).expect("the proxy's port is its own"));
        }
        self.shared.blackhole.store(false, Ordering::SeqCst);
        state.cut(|link| link.torn.load(Ordering::SeqCst));
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        // This happens after the last accept, so that no connection remains.
        self.shared.state().cut(|_| true);
    }
}

/// The state that the handle shares with its threads.
struct Shared {
    state: Mutex<State>,
    /// Whether the proxy drops bytes; an atomic outside of the state, because every piece of data checks it.
    blackhole: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_blackhole(&self) -> bool {
        self.blackhole.load(Ordering::SeqCst)
    }
}

/// How the proxy treats the next connection.
struct State {
    /// `None` while the proxy refuses connections.
    listener: Option<TcpListener>,
    targets: Vec<String>,
    /// A connection with this text in its data is held back from then on; empty means off.
    mark: String,
    /// How many connections the proxy has forwarded since the last change of targets.
    forwarded: usize,
    links: Vec<Weak<Link>>,
    stopped: bool,
}

impl State {
    fn for_each(&self, mut change: impl FnMut(&Link)) {
        for link in self.links.iter().filter_map(Weak::upgrade) {
            change(&link);
        }
    }

    /// Whether the data contain the mark that holds their connection back.
    fn marks(&self, said: &[u8]) -> bool {
        let mark = self.mark.as_bytes();
        !mark.is_empty() && said.windows(mark.len()).any(|part| part == mark)
    }

    /// Closes the links that `chosen` selects and drops the links that have ended.
    fn cut(&mut self, chosen: impl Fn(&Link) -> bool) {
        self.links.retain(|link| link.strong_count() > 0);
        for link in self
            .links
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|link| chosen(link))
        {
            link.cut();
        }
    }
}

/// One proxied connection.
struct Link {
    client: TcpStream,
    /// `None` if the proxy accepted it during a black hole.
    target: Option<TcpStream>,
    /// Whether the link lost bytes: neither side can make sense of later bytes.
    torn: AtomicBool,
    /// Whether the client's bytes are held back.
    held: AtomicBool,
}

impl Link {
    /// Whether the target sees this link come from one of these addresses.
    fn comes_from(&self, peers: &[&str]) -> bool {
        let address = self
            .target
            .as_ref()
            .and_then(|target| target.local_addr().ok());
        address.is_some_and(|address| peers.contains(&address.to_string().as_str()))
    }

    fn cut(&self) {
        // The peer may have closed its side already.
        let _ = self.client.shutdown(Shutdown::Both);
        if let Some(target) = &self.target {
            let _ = target.shutdown(Shutdown::Both);
        }
    }
}

/// A non-blocking listener: the accept loop must also notice a stop.
fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves new connections until the proxy is dropped.
fn accept_all(shared: &Arc<Shared>) {
    loop {
        let mut state = shared.state();
        if state.stopped {
            return;
        }
        let accepted = state
            .listener
            .as_ref()
            .and_then(|listener| listener.accept().ok());
        let Some((client, _)) = accepted else {
            drop(state);
            thread::sleep(ACCEPT_INTERVAL);
            continue;
        };
        let target = if shared.is_blackhole() {
            None
        } else {
            let address = &state.targets[state.forwarded % state.targets.len()];
            let target = TcpStream::connect(address);
            state.forwarded += 1;
            match target {
                Ok(target) => Some(target),
                // Dropping the client closes the connection, because the target does not answer.
                Err(_) => continue,
            }
        };
        state.links.retain(|link| link.strong_count() > 0);
        state
            .links
            .push(Arc::downgrade(&link(client, target, shared)));
    }
}

/// Starts the threads that forward the bytes of one connection.
fn link(client: TcpStream, target: Option<TcpStream>, shared: &Arc<Shared>) -> Arc<Link> {
    for stream in [Some(&client), target.as_ref()].into_iter().flatten() {
        // The first read detects a connection that has already ended.
        let _ = stream.set_nodelay(true);
    }
    let torn = AtomicBool::new(target.is_none());
    let link = Arc::new(Link {
        client,
        target,
        torn,
        held: AtomicBool::new(false),
    });
    let (there, back) = (Arc::clone(&link), Arc::clone(&link));
    let (one, other) = (Arc::clone(shared), Arc::clone(shared));
    thread::spawn(move || {
        let held = |said: &[u8]| {
            if one.state().marks(said) {
                there.held.store(true, Ordering::SeqCst);
            }
            there.held.load(Ordering::SeqCst)
        };
        pump(
            &there,
            Some(&there.client),
            there.target.as_ref(),
            &one,
            held,
        );
    });
    thread::spawn(move || {
        pump(
            &back,
            back.target.as_ref(),
            Some(&back.client),
            &other,
            |_| false,
        );
    });
    link
}

/// Forwards bytes in one direction until that direction ends; waits with each piece while the link is `held`.
fn pump(
    link: &Link,
    from: Option<&TcpStream>,
    to: Option<&TcpStream>,
    shared: &Shared,
    held: impl Fn(&[u8]) -> bool,
) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer);
        if shared.is_blackhole() || link.torn.load(Ordering::SeqCst) {
            link.torn.store(true, Ordering::SeqCst);
            // A black hole also drops the end of a connection.
            if read.is_ok_and(|count| count > 0) {
                continue;
            }
            return;
        }
        let Some(mut to) = to else { return };
        if held(read.as_ref().map_or(&[], |count| &buffer[..*count])) {
            while link.held.load(Ordering::SeqCst) && !shared.state().stopped {
                thread::sleep(ACCEPT_INTERVAL);
            }
        }
        match read {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) if to.write_all(&buffer[..count]).is_ok() => {}
            _ => return link.cut(),
        }
    }
}
