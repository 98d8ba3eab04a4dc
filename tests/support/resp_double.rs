//! A scripted server with a minimal Redis protocol. It stands for a Redis that a test cannot install: too old, another
//! implementation, or broken.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A listening test double; stops on drop.
pub(crate) struct RespDouble {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

/// The state that the handle shares with its threads.
struct Shared {
    /// Raw replies by command, such as `INFO` or `CLIENT SETINFO`.
    script: HashMap<String, String>,
    /// All commands so far, in the order of arrival.
    received: Mutex<Vec<Vec<String>>>,
    /// The connections, to close them on drop.
    streams: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

/// Starts a double that answers each command of `script` with its raw reply. The script names a command by its first or
/// its first two words, in capitals. A healthy Redis's reply answers all others: `PONG` to `PING`, `OK` to the rest.
pub(crate) fn resp_double(script: &[(&str, &str)]) -> RespDouble {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener
        .local_addr()
        .expect("a bound listener has an address");
    let script = script
        .iter()
        .map(|(name, reply)| ((*name).to_owned(), (*reply).to_owned()));
    let shared = Arc::new(Shared {
        script: script.collect(),
        received: Mutex::default(),
        streams: Mutex::default(),
        stopped: AtomicBool::new(false),
    });
    let double = RespDouble {
        addr,
        shared: Arc::clone(&shared),
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if shared.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(clone) = stream.try_clone() else {
                continue;
            };
            lock(&shared.streams).push(clone);
            let shared = Arc::clone(&shared);
            // A connection ends with an error whenever its client disconnects.
            thread::spawn(move || drop(answer_all(stream, &shared)));
        }
    });
    double
}

impl RespDouble {
    /// `127.0.0.1:PORT`.
    pub(crate) fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// All commands so far, in the order of arrival.
    pub(crate) fn received(&self) -> Vec<Vec<String>> {
        lock(&self.shared.received).clone()
    }
}

impl Drop for RespDouble {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept loop, which then notices the stop.
        drop(TcpStream::connect(self.addr));
        for stream in lock(&self.shared.streams).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A text as a bulk string, for the replies of a script.
pub(crate) fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// Answers the commands of one connection until the connection ends.
fn answer_all(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let command = read_command(&mut reader)?;
        let reply = reply(&command, &shared.script);
        lock(&shared.received).push(command);
        stream.write_all(reply.as_bytes())?;
    }
}

/// The scripted reply for two words, then for one word, then the default.
fn reply(command: &[String], script: &HashMap<String, String>) -> String {
    let name = |count: usize| {
        command[..count.min(command.len())]
            .join(" ")
            .to_ascii_uppercase()
    };
    let written = script.get(&name(2)).or_else(|| script.get(&name(1)));
    written.cloned().unwrap_or_else(|| {
        if name(1) == "PING" {
            "+PONG\r\n".to_owned()
        } else {
            "+OK\r\n".to_owned()
        }
    })
}

/// Reads one command: an array of bulk strings.
fn read_command(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<String>> {
    let count = read_length(reader, '*')?;
    (0..count)
        .map(|_| {
            let mut bytes = vec![0; read_length(reader, '$')? + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })
        .collect()
}

/// Reads a line such as `*3` or `$5` and returns its number.
fn read_length(reader: &mut BufReader<TcpStream>, mark: char) -> io::Result<usize> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let length = line
        .trim_end()
        .strip_prefix(mark)
        .and_then(|digits| digits.parse().ok());
    length.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Locks the mutex, ignoring poisoning.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
