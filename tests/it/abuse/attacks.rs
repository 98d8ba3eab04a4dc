//! What neighbours do, some of them without a token. Each goes on until the run is over and counts what it did.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// The target of an attack.
pub(super) struct Target<'t> {
    pub(super) addr: &'t str,
    pub(super) token: &'t str,
    pub(super) over: &'t AtomicBool,
    /// The pause between two attacks of a thread, besides its own pause.
    pub(super) pause: Duration,
}

/// One kind of attacker.
pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) threads: usize,
    pub(super) run: fn(&Target<'_>) -> u64,
}

/// All attacks, which run at the same time.
pub(super) const ATTACKS: [Attack; 15] = [
    attack("waiters that hang up behind unread bytes", 2, ghosts),
    attack("waiters that hang up and may come back", 2, kept_entries),
    attack("listings without a pause", 16, listings),
    attack("clients that do not read", 1, silent_readers),
    attack("paths that fill the log", 2, log_bombs),
    attack("idle connections", 1, idle_connections),
    attack("heads byte by byte", 1, slow_heads),
    attack("bodies byte by byte", 1, slow_bodies),
    attack("bodies that are too large", 1, body_bombs),
    attack("crowds of waiters", 2, waiters),
    attack("ever new keys", 2, keys),
    attack("malformed HTTP", 1, malformed),
    attack("guesses of the token", 2, guesses),
    attack("pages of other origins", 1, pages),
    attack("requests sent ahead", 1, pipelines),
];

const fn attack(name: &'static str, threads: usize, run: fn(&Target<'_>) -> u64) -> Attack {
    Attack { name, threads, run }
}

impl Target<'_> {
    /// Repeats the attack with rising numbers until the run is over.
    fn attack(&self, pause_ms: u64, mut once: impl FnMut(u64)) -> u64 {
        let mut times = 0;
        while !self.over.load(Ordering::Relaxed) {
            once(times);
            times += 1;
            sleep(Duration::from_millis(pause_ms) + self.pause);
        }
        times
    }

    fn connect(&self) -> Option<TcpStream> {
        let stream = TcpStream::connect(self.addr).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .ok()?;
        stream
            .set_write_timeout(Some(Duration::from_millis(300)))
            .ok()?;
        Some(stream)
    }

    /// Sends these bytes on a new connection, which stays open; the rest that the socket rejects is dropped.
    fn send(&self, bytes: &[u8]) -> Option<TcpStream> {
        let mut stream = self.connect()?;
        let _sent = stream.write_all(bytes);
        Some(stream)
    }

    /// As `send`, and reads the answer.
    fn ask(&self, bytes: &[u8]) {
        if let Some(mut stream) = self.send(bytes) {
            let mut answer = Vec::new();
            let _read = stream.read_to_end(&mut answer);
        }
    }

    fn head(&self, method: &str, path: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n",
            self.token
        )
    }

    fn acquire(&self, key: &str, header: &str, body: &str) -> Vec<u8> {
        let head = self.head("POST", &format!("/locks/{key}"));
        let length = body.len();
        let head =
            format!("{head}Content-Type: application/json\r\n{header}Content-Length: {length}\r\n");
        format!("{head}\r\n{body}").into_bytes()
    }
}

fn ghosts(target: &Target<'_>) -> u64 {
    // No client holds this lock for long; a leftover grant would hold it for an hour.
    let body = r#"{"wait_ms":45000,"ttl_ms":3600000}"#;
    let behind = [
        "\n".to_owned(),
        "POST /".to_owned(),
        "x".repeat(16 * 1024),
        "x".repeat(200 * 1024),
    ];
    target.attack(5, |number| {
        let at = usize::try_from(number).unwrap_or(0) % behind.len();
        let request = [&*target.acquire("large/0", "", body), behind[at].as_bytes()].concat();
        drop(target.send(&request));
    })
}

fn kept_entries(target: &Target<'_>) -> u64 {
    let body = r#"{"wait_ms":45000,"ttl_ms":3600000}"#;
    target.attack(5, |number| {
        let key = format!(
            "Idempotency-Key: {number:016}-{:?}\r\n",
            std::thread::current().id()
        );
        let key = key.replace(['(', ')'], "-");
        drop(target.send(&target.acquire("large/1", &key, body)));
    })
}

fn listings(target: &Target<'_>) -> u64 {
    let request = target.head("GET", "/locks?limit=1000") + "Connection: close\r\n\r\n";
    target.attack(0, |_| target.ask(request.as_bytes()))
}

fn silent_readers(target: &Target<'_>) -> u64 {
    let page = target.head("GET", "/locks?limit=1000") + "\r\n";
    let asset = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let addr: SocketAddr = target.addr.parse().expect("an address");
    let mut open = Vec::new();
    target.attack(100, |number| {
        let request = if number % 2 == 0 { &*page } else { asset };
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let small = socket.set_recv_buffer_size(4096);
        if small.is_ok() && socket.connect(&addr.into()).is_ok() {
            let mut stream: TcpStream = socket.into();
            let _sent = stream.write_all(request.repeat(4).as_bytes());
            open.push(stream);
        }
        if open.len() > 200 {
            open.remove(0);
        }
    })
}

fn log_bombs(target: &Target<'_>) -> u64 {
    let request = format!(
        "GET /locks/{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "%00".repeat(5000)
    );
    let many = request.repeat(16);
    target.attack(10, |_| target.ask(many.as_bytes()))
}

fn idle_connections(target: &Target<'_>) -> u64 {
    let mut open = Vec::new();
    target.attack(2, |_| {
        open.extend(target.connect());
        if open.len() > 3000 {
            open.clear();
        }
    })
}

fn slow_heads(target: &Target<'_>) -> u64 {
    let mut open: Vec<TcpStream> = Vec::new();
    target.attack(10, |number| {
        open.extend(target.send(b"GET /livez HTTP/1.1\r\nX: "));
        open.retain_mut(|stream| stream.write_all(b"y").is_ok());
        if number % 1000 == 999 {
            open.clear();
        }
    })
}

fn slow_bodies(target: &Target<'_>) -> u64 {
    let head = target.head("POST", "/locks/slow");
    let head = head + "Content-Type: application/json\r\nContent-Length: 16000\r\n\r\n{";
    let mut open: Vec<TcpStream> = Vec::new();
    target.attack(50, |_| {
        open.extend(target.send(head.as_bytes()));
        open.retain_mut(|stream| stream.write_all(b" ").is_ok());
        if open.len() > 200 {
            open.remove(0);
        }
    })
}

fn body_bombs(target: &Target<'_>) -> u64 {
    let nested = "[".repeat(16_000);
    let endless = "FFFFFFF\r\n".to_owned() + &"x".repeat(100_000);
    let chunked = target.head("POST", "/locks/bomb")
        + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        + &endless;
    target.attack(20, |number| match number % 3 {
        0 => target.ask(&target.acquire("bomb", "", &nested)),
        1 => target.ask(&target.acquire("bomb", "", &"x".repeat(1 << 20))),
        _ => target.ask(chunked.as_bytes()),
    })
}

fn waiters(target: &Target<'_>) -> u64 {
    let body = r#"{"wait_ms":2000,"ttl_ms":200}"#;
    let mut open = Vec::new();
    target.attack(5, |_| {
        open.extend(target.send(&target.acquire("large/2", "", body)));
        if open.len() > 400 {
            open.clear();
        }
    })
}

fn keys(target: &Target<'_>) -> u64 {
    let body = r#"{"ttl_ms":500}"#;
    target.attack(2, |number| {
        let key = format!("flood/{:?}/{number}", std::thread::current().id());
        let key = key.replace(['(', ')'], "-");
        target.ask(&target.acquire(&key, "Connection: close\r\n", body));
    })
}

fn malformed(target: &Target<'_>) -> u64 {
    let endless = "A".repeat(100_000);
    let texts: [&[u8]; 8] = [
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /locks/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /locks/a HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        endless.as_bytes(),
    ];
    target.attack(10, |number| {
        let at = usize::try_from(number).unwrap_or(0) % texts.len();
        target.ask(texts[at]);
    })
}

fn guesses(target: &Target<'_>) -> u64 {
    target.attack(2, |number| {
        let request = format!(
            "GET /locks/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer guess-of-a-token-{number}\r\n\r\n"
        );
        drop(target.send(request.as_bytes()));
    })
}

fn pages(target: &Target<'_>) -> u64 {
    let request = target.acquire(
        "well-behaved/0",
        "Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\nConnection: close\r\n",
        "{}",
    );
    target.attack(10, |_| target.ask(&request))
}

fn pipelines(target: &Target<'_>) -> u64 {
    let request = (target.head("GET", "/locks/well-behaved/0") + "\r\n").repeat(100);
    target.attack(10, |_| target.ask(request.as_bytes()))
}
