//! A campaign from its first namespace to its verdict.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Options;
use crate::check;
use crate::clock::now_us;
use crate::cluster::{self, Cluster};
use crate::crowd::{Crowd, grants_by_server};
use crate::history::{self, Event, Fault, Log, Phase};
use crate::nemesis::{self, Nemesis, ProxyControl, World};
use crate::net::{self, Network};
use crate::protocol::ClientConfig;
use crate::rng::Rng;
use crate::support::host::Host;
use crate::support::process::Process;
use crate::wait::{is_stopped, poll, sleep, stop_with_stdin};

const PROXY_HOST: &str = "proxy";
const PROXY_PORT: u16 = 8081;
const KEYS: [&str; 10] = [
    "hot", "warm/a", "warm/b", "cool/a", "cool/b", "cool/c", "cold/a", "cold/b", "cold/c", "cold/d",
];
/// Locks for the meetings of one group each, so that no request from outside of the group wakes their waiters.
const MEETINGS: [&str; 4] = ["meeting/a", "meeting/b", "meeting/c", "meeting/d"];
/// How long each server may take to grant again after the repair of the last fault.
const BACK_LIMIT: Duration = Duration::from_secs(60);
/// The pause between two faults; in it the service must work as without faults.
const QUIET: Duration = Duration::from_secs(4);
/// A watchdog gap of this length means that the harness itself did not run.
const STALL: Duration = Duration::from_secs(1);

/// Runs a campaign and prints its verdict.
pub(crate) fn run(options: &Options, isolated: bool) -> Result<ExitCode, String> {
    let nemeses = chosen(options)?;
    if let Some(rule) = &options.until
        && !check::RULES.iter().any(|(name, _)| name == rule)
    {
        return Err(format!("no rule has the name {rule}: see --list"));
    }
    if options.clients < 16 || !(2..=3).contains(&options.servers) {
        return Err("at least 16 clients, and 2 or 3 servers".to_owned());
    }
    if !isolated {
        return net::isolate();
    }
    // The campaign starts the server from other hosts and directories, so the path must be absolute.
    let server = options.server.canonicalize();
    let server = server.map_err(|error| format!("{}: {error}", options.server.display()))?;
    stop_with_stdin();
    let dir = tempfile::Builder::new()
        .prefix("leasehold-faults-")
        .tempdir()
        .map_err(|error| format!("a temporary directory: {error}"))?;
    let file = match &options.history {
        Some(file) => file.clone(),
        None => new_history().map_err(|error| format!("a temporary file: {error}"))?,
    };
    let log = Log::create(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let log = Arc::new(log);
    println!("seed {}, history {}", options.seed, log.path().display());
    let ended = record(options, &nemeses, &server, dir.path(), &log);
    log.flush();
    if let Err(error) = ended {
        eprintln!("files of the run: {}", dir.keep().display());
        return Err(error);
    }
    let events =
        history::read(log.path()).map_err(|error| format!("{}: {error}", file.display()))?;
    let verdict = check::check(&events);
    if check::report::status(&verdict) != 0 {
        println!("files of the run: {}", dir.keep().display());
    }
    Ok(check::report::print(&verdict, options.markdown))
}

/// Runs all parts that write the history; all processes and hosts have ended when it returns.
fn record(
    options: &Options,
    nemeses: &[&'static Nemesis],
    server: &Path,
    dir: &Path,
    log: &Arc<Log>,
) -> Result<(), String> {
    let mut rng = Rng::new(options.seed);
    let mut hosts = cluster::hosts(options.servers);
    hosts.push(PROXY_HOST.to_owned());
    hosts.extend((0..options.clients).map(client_host));
    let net = Network::create(hosts)?;
    let proxy_host = net.host(PROXY_HOST);
    let client_hosts: Vec<Host> = (0..options.clients)
        .map(|client| net.host(&client_host(client)))
        .collect();
    let cluster = Arc::new(Cluster::start(net, options.servers, server, dir)?);
    let direct: Vec<String> = cluster.servers.iter().map(cluster::Server::url).collect();
    let proxied: Vec<String> = (PROXY_PORT..)
        .take(direct.len())
        .map(|port| format!("{}:{port}", proxy_host.address))
        .collect();
    let proxy = Arc::new(start_proxy(&proxy_host, &direct)?);
    let keys: Vec<String> = KEYS.map(str::to_owned).to_vec();
    let config = |client: usize| ClientConfig {
        client,
        life: 0,
        seed: options.seed.wrapping_mul(1_000_003) + client as u64,
        servers: if client.is_multiple_of(2) {
            &proxied
        } else {
            &direct
        }
        .clone(),
        keys: keys.clone(),
        meeting: MEETINGS[client % MEETINGS.len()].to_owned(),
        member: (client / MEETINGS.len()) as u64,
        probe: false,
    };
    let clients = client_hosts.iter().cloned().zip((0..).map(config));
    let crowd = Arc::new(Crowd::start(log, clients.collect())?);
    let watchdog = watch(log);
    let world = World::new(&cluster, &crowd, &proxy, log);
    let addresses: Vec<String> = direct.iter().chain(&proxied).cloned().collect();
    wait_until_back(&crowd, &addresses, now_us())?;
    println!("the service is up, {} clients", crowd.count());
    sleep(QUIET);
    let end = Instant::now() + Duration::from_secs(60 * options.minutes);
    let mut queue = Vec::new();
    let mut struck = 0;
    while (Instant::now() < end || struck < nemeses.len()) && !is_stopped() {
        if queue.is_empty() {
            queue = nemeses.to_vec();
            rng.shuffle(&mut queue);
        }
        let fault = queue.pop().expect("it was filled");
        let goes_on = strike(fault, &world, &mut rng, &addresses)?;
        struck += 1;
        if !goes_on {
            break;
        }
        if options.until.as_ref().is_some_and(|rule| breaks(log, rule)) {
            break;
        }
    }
    note(log, "campaign", Phase::Note, "the clients end");
    crowd.stop();
    if is_stopped() {
        return Ok(());
    }
    let all_keys: Vec<String> = [&KEYS[..], &MEETINGS]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    note(log, "campaign", Phase::Probe, &all_keys.join(" "));
    let probe = ClientConfig {
        servers: direct.clone(),
        keys: all_keys,
        ..config(1)
    };
    let all = Crowd::probe(log, &client_hosts[1], probe, Duration::from_secs(30))?;
    note(
        log,
        "campaign",
        Phase::Note,
        if all {
            "every key was probed"
        } else {
            "keys are left"
        },
    );
    watchdog.store(true, Ordering::SeqCst);
    Ok(())
}

/// An empty file that stays.
fn new_history() -> std::io::Result<PathBuf> {
    let file = tempfile::Builder::new()
        .prefix("leasehold-faults-")
        .suffix(".jsonl")
        .tempfile()?;
    Ok(file.into_temp_path().keep()?)
}

/// Whether the history so far violates a rule.
fn breaks(log: &Log, rule: &str) -> bool {
    log.flush();
    // An incomplete last line is left to the next check.
    let events = history::read(log.path());
    events.is_ok_and(|events| {
        let violations = check::check(&events).violations;
        violations.iter().any(|v| v.rule == rule && !v.excused)
    })
}

/// One fault from its injection to the pause after it; returns whether the service works then.
fn strike(
    nemesis: &'static Nemesis,
    world: &World,
    rng: &mut Rng,
    addresses: &[String],
) -> Result<bool, String> {
    let begun = Instant::now();
    let mut at_work = world.for_nemesis(nemesis.name, rng.next());
    let done = (nemesis.run)(&mut at_work);
    world.proxy.say("pass");
    world.crowd.resume_all();
    world.cluster.repair()?;
    let healed = at_work.healed();
    if let Err(error) = &done {
        note(&world.log, nemesis.name, Phase::NoEffect, error);
    }
    let back = wait_until_back(&world.crowd, addresses, healed);
    if is_stopped() {
        return Ok(false);
    }
    if let Err(error) = back {
        println!("{:28} {error}", nemesis.name);
        note(&world.log, nemesis.name, Phase::NotBack, &error);
        for server in &world.cluster.servers {
            server.start()?;
        }
        if wait_until_back(&world.crowd, addresses, now_us()).is_err() {
            return Ok(false);
        }
    }
    note(&world.log, nemesis.name, Phase::Back, "");
    world.cluster.wait_until_whole()?;
    note(&world.log, nemesis.name, Phase::Note, "whole");
    world.log.flush();
    sleep(QUIET);
    println!(
        "{:28} {:5.1} s{}",
        nemesis.name,
        begun.elapsed().as_secs_f32(),
        done.err()
            .map(|error| format!("  {error}"))
            .unwrap_or_default()
    );
    Ok(true)
}

/// Waits until every address of every server has led to a grant.
fn wait_until_back(crowd: &Crowd, addresses: &[String], since: u64) -> Result<(), String> {
    let mut grants = HashMap::new();
    let back = poll(BACK_LIMIT, || {
        grants = grants_by_server(crowd, since);
        addresses
            .iter()
            .all(|address| grants.contains_key(address))
            .then_some(())
    });
    if back.is_none() && !is_stopped() {
        return Err(format!(
            "not every server granted within {BACK_LIMIT:?}: {grants:?}"
        ));
    }
    Ok(())
}

fn chosen(options: &Options) -> Result<Vec<&'static Nemesis>, String> {
    if options.nemesis.is_empty() {
        return Ok(nemesis::ALL.iter().collect());
    }
    let names = options.nemesis.iter().flat_map(|names| names.split(','));
    names
        .map(|name| {
            nemesis::by_name(name)
                .ok_or_else(|| format!("no fault has the name {name}: see --list"))
        })
        .collect()
}

fn start_proxy(host: &Host, targets: &[String]) -> Result<ProxyControl, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = host.command(program);
    command
        .arg("proxy")
        .arg(PROXY_PORT.to_string())
        .args(targets)
        .stdin(Stdio::piped());
    let process = Process::default();
    process.start(&mut command)?;
    Ok(ProxyControl::new(process, PROXY_PORT))
}

/// Records pauses of the harness itself: its measurements in such a pause are meaningless.
fn watch(log: &Arc<Log>) -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let (log, end) = (Arc::clone(log), Arc::clone(&ended));
    thread::spawn(move || {
        let mut last = Instant::now();
        while !end.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(50));
            let gap = last.elapsed();
            last = Instant::now();
            if gap > STALL {
                log.write(&Event::Stall {
                    at: now_us(),
                    gap_us: crate::clock::micros(gap),
                });
            }
        }
    });
    ended
}

pub(crate) fn note(log: &Log, nemesis: &str, phase: Phase, detail: &str) {
    log.write(&Event::Fault(Fault {
        nemesis: nemesis.to_owned(),
        phase,
        at: now_us(),
        detail: detail.to_owned(),
    }));
}

fn client_host(client: usize) -> String {
    format!("client{client}")
}
