//! Leader election, and the copy of the program for other containers.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{LIMIT, begins, exits};
use crate::support::http::{Reply, try_http};
use crate::support::leasehold::Leasehold;
use crate::support::net::{TcpProxy, free_port};
use crate::support::poll;
use crate::support::process::{self, Process};

struct Candidate {
    process: Process,
    addr: String,
}

impl Candidate {
    fn start(server: &str, ttl: &str) -> Self {
        let addr = format!("127.0.0.1:{}", free_port());
        let process = begins(
            server,
            &["elect", "leaders/a", "--listen", &addr, "--ttl", ttl],
        );
        let candidate = Self { process, addr };
        poll(LIMIT, || candidate.role()).expect("it answers");
        candidate
    }

    fn role(&self) -> Option<Reply> {
        try_http(&self.addr, "GET", "/role", &[], None).ok()
    }

    fn leads(&self) -> Option<Value> {
        let role = self.role()?;
        assert!(matches!(role.status, 200 | 503), "{role:?}");
        assert_eq!(role.json()["leader"], role.status == 200, "{role:?}");
        let leads = (role.status == 200).then(|| role.json())?;
        assert!(leads["expires_in_ms"].as_u64() > Some(0), "{leads}");
        Some(leads)
    }

    fn until_it_leads(&self) -> Value {
        poll(LIMIT, || self.leads()).expect("it leads")
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).expect("it runs");
    }
}

fn token(role: &Value) -> u64 {
    role["fencing_token"].as_u64().expect("a token")
}

#[test]
fn one_candidate_leads_and_the_next_one_follows() {
    let server = Leasehold::in_memory();
    let url = server.base_url();
    let first = Candidate::start(&url, "3s");
    let led = first.until_it_leads();
    let second = Candidate::start(&url, "3s");
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        let role = first.leads().expect("it still leads");
        assert_eq!(token(&role), token(&led));
        let left = role["expires_in_ms"].as_u64().expect("a time");
        assert!((1..3000).contains(&left), "{role}");
        assert!(second.leads().is_none(), "two lead");
        std::thread::sleep(Duration::from_millis(50));
    }
    // It hands over.
    first.send(Signal::SIGTERM);
    let asked = Instant::now();
    let next = second.until_it_leads();
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    assert!(token(&next) > token(&led));
    assert_eq!(
        first.process.wait(LIMIT).expect("it ends").code(),
        Some(143)
    );
    // It crashes.
    let third = Candidate::start(&url, "3s");
    second.send(Signal::SIGKILL);
    let last = third.until_it_leads();
    assert!(token(&last) > token(&next));
}

#[test]
fn leader_without_a_server_leads_no_longer() {
    for cut in [TcpProxy::refuse, TcpProxy::blackhole] {
        let server = Leasehold::in_memory();
        let way = TcpProxy::start(server.addr());
        let candidate = Candidate::start(&format!("http://{}", way.addr()), "2s");
        candidate.until_it_leads();
        cut(&way);
        way.cut();
        let begun = Instant::now();
        poll(LIMIT, || candidate.leads().is_none().then_some(())).expect("it leads no longer");
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn candidate_that_may_not_compete_says_so() {
    let server = Leasehold::start([
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_TOKEN", "0123456789abcdef"),
    ]);
    let listen = format!("127.0.0.1:{}", free_port());
    let (code, _, stderr) = exits(&server.base_url(), &["elect", "a", "--listen", &listen]);
    assert_eq!(code, 77, "{stderr}");
    let (code, _, stderr) = exits(
        &server.base_url(),
        &["elect", "a", "--listen", server.addr()],
    );
    assert_eq!(code, 64, "{stderr}");
    assert!(stderr.contains(server.addr()), "{stderr}");
}

#[test]
fn program_installs_itself() {
    let dir = TempDir::new().expect("a folder");
    let folder = dir.path().join("shared");
    let path = folder.to_str().expect("UTF-8");
    for _ in 0..2 {
        let installed = exits("http://127.0.0.1:1", &["install", path]);
        assert_eq!(installed, (0, String::new(), String::new()));
    }
    let mut copy = Command::new(folder.join("leasehold"));
    let (status, stdout, _) = process::run(copy.arg("--version"), "leasehold", LIMIT);
    assert!(
        status.success() && stdout.starts_with("leasehold "),
        "{stdout}"
    );
    let files = std::fs::read_dir(&folder).expect("a folder").count();
    assert_eq!(files, 1);
    let (code, _, stderr) = exits("http://127.0.0.1:1", &["install", "/proc/nowhere"]);
    assert!(code == 126 && stderr.contains("/proc/nowhere"), "{stderr}");
}
