//! A TCP proxy on its own host, between clients and servers. It delays bytes or resets connections in the middle of an
//! answer, because many machines lack netem.
//!
//! Lines on standard input set its mode: `pass`, `delay MILLISECONDS`, `reset BYTES`.

use std::io::{self, BufRead as _, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Default)]
struct Mode {
    delay_ms: AtomicU64,
    /// The number of answer bytes after which the proxy resets the connection; 0 for never.
    reset_after: AtomicU64,
}

/// Runs the proxy: it serves `targets` on the ports from `first_port` on, and ends with standard input.
pub(crate) fn run(first_port: u16, targets: &[String]) {
    let mode = Arc::new(Mode::default());
    for (port, target) in (first_port..).zip(targets) {
        let listener = TcpListener::bind(("0.0.0.0", port)).expect("a port of this host is free");
        let (mode, target) = (Arc::clone(&mode), target.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (mode, target) = (Arc::clone(&mode), target.clone());
                thread::spawn(move || link(&client, &target, &mode));
            }
        });
    }
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let (name, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let number = number.parse().expect("a number");
        let (delay, reset) = match name {
            "delay" => (number, 0),
            "reset" => (0, number),
            _ => (0, 0),
        };
        mode.delay_ms.store(delay, Ordering::SeqCst);
        mode.reset_after.store(reset, Ordering::SeqCst);
    }
}

/// Forwards one connection until it ends.
fn link(client: &TcpStream, target: &str, mode: &Arc<Mode>) {
    let address = target.parse().expect("the address of a server");
    let Ok(server) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return;
    };
    let streams = (client.try_clone(), server.try_clone());
    let (Ok(client_copy), Ok(server_copy)) = streams else {
        return;
    };
    for stream in [client, &server] {
        // The first read detects a connection that has already ended.
        let _ = stream.set_nodelay(true);
    }
    let there = Arc::clone(mode);
    thread::spawn(move || carry(client_copy, &server_copy, &there, false));
    carry(server, client, mode, true);
}

/// Forwards bytes in one direction, delayed and in order of arrival.
fn carry(mut from: TcpStream, to: &TcpStream, mode: &Mode, answers: bool) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    let Ok(mut sink) = to.try_clone() else {
        return;
    };
    let writer = thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if sink.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = sink.shutdown(Shutdown::Write);
    });
    let mut passed = 0;
    let mut buffer = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        let mut bytes = buffer[..count].to_vec();
        passed += count as u64;
        let limit = mode.reset_after.load(Ordering::SeqCst);
        let reset = answers && limit > 0 && passed > limit;
        if reset {
            let over = usize::try_from(passed - limit).unwrap_or(count);
            bytes.truncate(count.saturating_sub(over));
        }
        let delay = Duration::from_millis(mode.delay_ms.load(Ordering::SeqCst));
        if sender.send((Instant::now() + delay, bytes)).is_err() || reset {
            break;
        }
    }
    drop(sender);
    let _ = writer.join();
    if answers {
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
