//! The cluster as a fault sees it, and the record of its phases.

use std::io::Write as _;
use std::process::ChildStdin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::campaign::note;
use crate::clock::now_us;
use crate::cluster::Cluster;
use crate::crowd::Crowd;
use crate::history::{Log, Phase};
use crate::rng::Rng;
use crate::support::process::Process;
use crate::wait::poll;

/// How long the effect of a fault may take to show.
const EFFECT_LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) proxy: Arc<ProxyControl>,
    pub(crate) log: Arc<Log>,
    pub(crate) rng: Rng,
    name: &'static str,
    injected_at: u64,
    healed_at: u64,
}

impl World {
    pub(crate) fn new(
        cluster: &Arc<Cluster>,
        crowd: &Arc<Crowd>,
        proxy: &Arc<ProxyControl>,
        log: &Arc<Log>,
    ) -> Self {
        Self {
            cluster: Arc::clone(cluster),
            crowd: Arc::clone(crowd),
            proxy: Arc::clone(proxy),
            log: Arc::clone(log),
            rng: Rng::new(0),
            name: "",
            injected_at: 0,
            healed_at: 0,
        }
    }

    /// The same world for one fault.
    pub(crate) fn for_nemesis(&self, name: &'static str, seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            name,
            ..Self::new(&self.cluster, &self.crowd, &self.proxy, &self.log)
        }
    }

    /// The same world and name, for one part of a combined fault.
    pub(crate) fn part(&mut self) -> Self {
        let seed = self.rng.next();
        self.for_nemesis(self.name, seed)
    }

    /// Starts the fault's window; call it just before the injection.
    pub(crate) fn inject(&mut self, what: &str) {
        note(&self.log, self.name, Phase::Inject, what);
        self.injected_at = now_us();
    }

    pub(crate) fn injected_at(&self) -> u64 {
        self.injected_at
    }

    /// Waits for the effect and records it; a fault without its effect proves nothing.
    pub(crate) fn expect(
        &mut self,
        effect: &str,
        mut shows: impl FnMut(&Self) -> bool,
    ) -> Result<(), String> {
        let seen = poll(EFFECT_LIMIT, || shows(self).then_some(()));
        seen.ok_or_else(|| format!("not seen: {effect}"))?;
        self.saw(effect);
        Ok(())
    }

    pub(crate) fn saw(&self, effect: &str) {
        note(&self.log, self.name, Phase::Effect, effect);
    }

    /// Ends the fault's window; call it after the repair.
    pub(crate) fn heal(&mut self) {
        self.healed_at = now_us();
        note(&self.log, self.name, Phase::Heal, "");
    }

    /// When the fault was repaired; now, if it failed earlier.
    pub(crate) fn healed(&mut self) -> u64 {
        if self.healed_at == 0 {
            self.heal();
        }
        self.healed_at
    }
}

/// The campaign's handle on the proxy process.
pub(crate) struct ProxyControl {
    first_port: u16,
    stdin: Mutex<ChildStdin>,
    _process: Process,
}

impl ProxyControl {
    pub(crate) fn new(process: Process, first_port: u16) -> Self {
        let stdin = process
            .child()
            .as_mut()
            .and_then(|child| child.stdin.take());
        let stdin = stdin.expect("stdin is piped");
        Self {
            first_port,
            stdin: Mutex::new(stdin),
            _process: process,
        }
    }

    /// Sets the mode of the proxy.
    pub(crate) fn say(&self, mode: &str) {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(stdin, "{mode}").expect("the proxy lives as long as the campaign");
    }

    /// Whether this address of a server leads through the proxy.
    pub(crate) fn is_on_the_way_to(&self, server: &str) -> bool {
        let port = server
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        port.is_some_and(|port: u16| port >= self.first_port)
    }
}
