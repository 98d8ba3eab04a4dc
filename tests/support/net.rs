//! Faults of the network: a TCP proxy that a test turns against what stands behind it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the proxy looks for new connections.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(2);
/// The ports that tests use: below those that the system gives to outgoing connections, so that a server which was
/// killed gets its port again.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A loopback port that is free now and that no other test of this process was given.
///
/// Another program can still take it before its user does, so a server that finds it taken asks again.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run side by side start at different places.
    let offset = process::id().wrapping_mul(997);
    for _ in PORTS {
        let turn = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let place = offset.wrapping_add(turn) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(place).expect("a place in a range of u16");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// A proxy on a loopback port, whose behaviour can be changed while it runs. Stops on drop.
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
            turn: 0,
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

    /// Forwards new connections to `target`, also after `refuse` and `blackhole`. Connections that exist stay where
    /// they are, except those that lost bytes to a black hole: they are cut.
    pub(crate) fn set_target(&self, target: &str) {
        self.round_robin(&[target]);
    }

    /// As `set_target`, with the targets in turn: a Service that leads to any of its pods.
    pub(crate) fn round_robin(&self, targets: &[&str]) {
        let mut state = self.shared.state();
        state.targets = targets.iter().map(ToString::to_string).collect();
        state.turn = 0;
        self.reopen(&mut state);
    }

    /// Refuses connections and cuts those that exist: nobody lives here any more.
    pub(crate) fn refuse(&self) {
        let mut state = self.shared.state();
        state.listener = None;
        state.cut(|_| true);
    }

    /// Accepts connections and swallows all bytes in both directions, also on connections that exist: a partition.
    pub(crate) fn blackhole(&self) {
        let mut state = self.shared.state();
        self.reopen(&mut state);
        self.shared.blackhole.store(true, Ordering::SeqCst);
    }

    /// Goes back to forwarding after `refuse` or `blackhole`.
    pub(crate) fn heal(&self) {
        self.reopen(&mut self.shared.state());
    }

    /// Holds back what clients send on the connections that exist, until `let_go`; new ones are served as before.
    pub(crate) fn hold(&self) {
        self.shared
            .state()
            .for_each(|link| link.held.store(true, Ordering::SeqCst));
    }

    /// Holds back, until `let_go`, what each connection sends from the moment on at which its client says `mark`; gives
    /// the others their way. An empty mark ends that.
    pub(crate) fn hold_who_says(&self, mark: &str) {
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

    /// Carries on what `hold` held back, also for clients that have closed their connection since.
    pub(crate) fn let_go(&self) {
        self.shared
            .state()
            .for_each(|link| link.held.store(false, Ordering::SeqCst));
    }

    /// Swallows from now on all bytes of the connections that the target sees come from `peers` (`host:port`): they stay
    /// up and carry nothing. Gives how many there are; all others are served as before.
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

    /// Cuts the connections that exist; new ones are served as before.
    pub(crate) fn cut(&self) {
        self.shared.state().cut(|_| true);
    }

    /// Listens again if it did not, and ends a black hole.
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
        // After the last accept, so that no connection stays behind.
        self.shared.state().cut(|_| true);
    }
}

/// What the handle shares with its threads.
struct Shared {
    state: Mutex<State>,
    /// Whether bytes are swallowed; apart from the state, as each piece of data asks.
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

/// What the proxy does with the next connection.
struct State {
    /// None while connections are refused.
    listener: Option<TcpListener>,
    targets: Vec<String>,
    /// Who says this is held back from then on; nobody if it is empty.
    mark: String,
    /// How many connections were forwarded since the targets were set.
    turn: usize,
    links: Vec<Weak<Link>>,
    stopped: bool,
}

impl State {
    fn for_each(&self, mut change: impl FnMut(&Link)) {
        for link in self.links.iter().filter_map(Weak::upgrade) {
            change(&link);
        }
    }

    /// Whether this says what its connection is to be held back for.
    fn marks(&self, said: &[u8]) -> bool {
        let mark = self.mark.as_bytes();
        !mark.is_empty() && said.windows(mark.len()).any(|part| part == mark)
    }

    /// Cuts the links that `chosen` picks and forgets those that have ended.
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
    /// None when it was accepted in a black hole.
    target: Option<TcpStream>,
    /// Whether bytes were swallowed: what would follow them makes no sense to either side.
    torn: AtomicBool,
    /// Whether what the client sends is held back.
    held: AtomicBool,
}

impl Link {
    /// Whether it is one of these to the target.
    fn comes_from(&self, peers: &[&str]) -> bool {
        let address = self
            .target
            .as_ref()
            .and_then(|target| target.local_addr().ok());
        address.is_some_and(|address| peers.contains(&address.to_string().as_str()))
    }

    fn cut(&self) {
        // A side that has closed already is as wanted.
        let _ = self.client.shutdown(Shutdown::Both);
        if let Some(target) = &self.target {
            let _ = target.shutdown(Shutdown::Both);
        }
    }
}

/// A listener for the accept loop, which also has to notice that it was stopped.
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
            let address = &state.targets[state.turn % state.targets.len()];
            let target = TcpStream::connect(address);
            state.turn += 1;
            match target {
                Ok(target) => Some(target),
                // Dropping the client closes it: nobody answers there.
                Err(_) => continue,
            }
        };
        state.links.retain(|link| link.strong_count() > 0);
        state
            .links
            .push(Arc::downgrade(&link(client, target, shared)));
    }
}

/// Starts the threads that carry the bytes of one connection.
fn link(client: TcpStream, target: Option<TcpStream>, shared: &Arc<Shared>) -> Arc<Link> {
    for stream in [Some(&client), target.as_ref()].into_iter().flatten() {
        // A connection that has ended already is found out by the first read.
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

/// Carries bytes one way until that way ends, and waits with each piece that is `held`, until the link is not any more.
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
            // The end of a connection is lost in a black hole as well.
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
