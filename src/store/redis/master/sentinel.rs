//! Asks all Sentinels at once for the address of the master.
//!
//! A Sentinel that was cut off still names a deposed master, so the address needs a majority of all *known* Sentinels.
//! The server identifies each Sentinel by its id: a load-balanced name may lead to the same Sentinel twice, or to
//! another one each time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, cmd};
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::topology::Topology;
use crate::store::redis::connection::Connector;
use crate::store::redis::errors::diagnosis::Diagnosis;
use crate::store::redis::errors::target::Target;
use crate::store::redis::options::{Address, Endpoint};

/// How long one Sentinel may take to answer. The resolver does not wait for the others after a majority has answered.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the other Sentinels may still answer after a majority has: one of them may consider the master unhealthy.
const AFTER_MAJORITY: Duration = Duration::from_millis(20);

/// How long a subscription may be silent before a ping: a dead connection is silent too.
const SUBSCRIPTION_PING: Duration = Duration::from_secs(5);

/// How long to wait before subscribing again.
const RESUBSCRIBE_AFTER: Duration = Duration::from_secs(1);

/// The most Sentinels that the server asks; a set has three or five.
const MAX_SENTINELS: usize = 32;

/// The flags with which a Sentinel marks a master as unhealthy, or as being replaced.
const UNHEALTHY_FLAGS: [&str; 5] = [
    "s_down",
    "o_down",
    "failover_in_progress",
    "disconnected",
    "force_failover",
];

/// The Sentinels of one master set.
pub(crate) struct Sentinels {
    configured: Vec<Address>,
    master: Arc<str>,
    endpoint: Arc<Endpoint>,
    target: Target,
    /// The addresses that Sentinels give for the other Sentinels.
    discovered: BTreeSet<Address>,
    connections: HashMap<Address, Arc<Peer>>,
    /// How many Sentinels were known when a majority last agreed.
    last_known: usize,
    /// The tasks that wake the resolver when the Sentinels switch the master.
    subscriptions: JoinSet<()>,
    subscribed: HashMap<Address, AbortHandle>,
    topology: Topology,
    stop: CancellationToken,
}

/// One Sentinel.
struct Peer {
    connector: Connector,
    cached: Mutex<Option<MultiplexedConnection>>,
}

/// The master that a majority of the Sentinels names.
pub(crate) struct NamedMaster {
    pub(crate) address: Address,
    /// No Sentinel that answered considers the master unhealthy, or is replacing it.
    pub(crate) healthy: bool,
    /// The highest configuration epoch under which a Sentinel names this address.
    pub(crate) epoch: Option<u64>,
}

/// The answer of one Sentinel.
struct Answer {
    id: String,
    /// The Sentinel considers the master unhealthy, or is replacing it.
    unhealthy: bool,
    /// `None` if the Sentinel knows no master set of this name.
    master: Option<Address>,
    /// The configuration epoch of that master.
    epoch: Option<u64>,
    /// The ids and addresses of the other Sentinels of the set.
    peers: Vec<(String, Address)>,
}

impl Sentinels {
    pub(crate) fn new(
        configured: Vec<Address>,
        master: &str,
        endpoint: Endpoint,
        topology: Topology,
        stop: CancellationToken,
    ) -> Self {
        Self {
            configured,
            master: master.into(),
            target: Target::sentinel(&endpoint),
            endpoint: Arc::new(endpoint),
            discovered: BTreeSet::new(),
            connections: HashMap::new(),
            subscriptions: JoinSet::new(),
            last_known: 0,
            subscribed: HashMap::new(),
            topology,
            stop,
        }
    }

    /// The master that a majority of the known Sentinels names. A Sentinel that hangs does not delay a majority. If the
    /// future is dropped, the next call asks all Sentinels again.
    pub(crate) async fn master(&mut self) -> Result<NamedMaster, Diagnosis> {
        let addresses = self.addresses().await;
        let asked = addresses.len();
        let mut questions = JoinSet::new();
        let mut refusals = Vec::new();
        for address in addresses {
            let peer = self.peer(&address);
            let master = Arc::clone(&self.master);
            questions.spawn(async move {
                let answer = timeout(ANSWER_TIMEOUT, peer.ask(&master)).await;
                (address, answer)
            });
        }
        let mut count = Count {
            expected: self.expected(asked),
            ..Count::default()
        };
        let mut answer_deadline = None;
        while let Some(joined) = join_until(&mut questions, answer_deadline).await {
            let Ok((address, answer)) = joined else {
                continue;
            };
            match answer {
                Ok(Ok(answer)) => count.add(answer),
                Ok(Err(error)) => refusals.push(self.target.explain(&address, &error)),
                Err(_) => refusals.push(Diagnosis::passing(format!(
                    "{address} did not answer within {} ms: check that it runs, that the network allows the connection, and \
                     the addresses in LEASEHOLD_SENTINELS",
                    ANSWER_TIMEOUT.as_millis()
                ))),
            }
            if answer_deadline.is_none() && count.majority().is_some() {
                // The address is known, but another Sentinel may consider the master unhealthy.
                answer_deadline = Some(Instant::now() + AFTER_MAJORITY);
            }
        }
        if !count.addresses.is_empty() {
            self.discovered.clone_from(&count.addresses);
        }
        // Each Sentinel has answered or failed. Only now may there be fewer Sentinels than addresses.
        if answer_deadline.is_none() {
            count.expected = self.last_known.max(self.configured.len());
        }
        if let Some(named) = count.majority() {
            self.last_known = count.known.len();
            return Ok(named);
        }
        Err(self.why_none(&count, &refusals))
    }

    /// Ends the subscriptions and waits for their tasks.
    pub(crate) async fn close(mut self) {
        self.subscriptions.shutdown().await;
    }

    /// The addresses to ask. Subscribes to new ones, and drops the subscriptions and connections of the others.
    async fn addresses(&mut self) -> BTreeSet<Address> {
        let mut addresses = BTreeSet::new();
        for configured in &self.configured {
            // A headless Service has an address for each Sentinel.
            let found = timeout(
                ANSWER_TIMEOUT,
                lookup_host((configured.host.as_str(), configured.port)),
            )
            .await;
            match found {
                Ok(Ok(found)) if self.endpoint.tls.is_none() => {
                    addresses.extend(found.map(|a| Address {
                        host: a.ip().to_string(),
                        port: a.port(),
                    }));
                }
                // TLS needs the name itself, because certificates are issued for names.
                _ => {
                    addresses.insert(configured.clone());
                }
            }
        }
        addresses.extend(self.discovered.iter().cloned());
        let addresses: BTreeSet<_> = addresses.into_iter().take(MAX_SENTINELS).collect();
        self.subscribed.retain(|address, subscription| {
            let stays = addresses.contains(address);
            if !stays {
                subscription.abort();
            }
            stays
        });
        for address in addresses
            .iter()
            .filter(|address| !self.subscribed.contains_key(*address))
            .cloned()
            .collect::<Vec<_>>()
        {
            self.subscribe(address);
        }
        // The set keeps each finished task until it is joined.
        while self.subscriptions.try_join_next().is_some() {}
        self.connections
            .retain(|address, _| addresses.contains(address));
        addresses
    }

    fn peer(&mut self, address: &Address) -> Arc<Peer> {
        if let Some(peer) = self.connections.get(address) {
            return Arc::clone(peer);
        }
        let peer = Arc::new(Peer {
            connector: self.connector(address),
            cached: Mutex::new(None),
        });
        self.connections.insert(address.clone(), Arc::clone(&peer));
        peer
    }

    fn connector(&self, address: &Address) -> Connector {
        Connector::new(&self.endpoint, address, 0, ANSWER_TIMEOUT, ANSWER_TIMEOUT)
    }

    fn subscribe(&mut self, address: Address) {
        let connector = self.connector(&address);
        let (topology, target) = (self.topology.clone(), self.target.clone());
        let (at, stop) = (address.clone(), self.stop.clone());
        let subscription = self.subscriptions.spawn(async move {
            let forever = async {
                loop {
                    let ended = subscribe_once(&connector, &topology).await;
                    // A Sentinel that cannot be reached matters when too few answer.
                    if let Err(error) = ended
                        && error.code().is_some()
                    {
                        topology.operations_meet(Diagnosis::passing(format!(
                            "this server may notice a failover a second late: {}",
                            target.explain(&at, &error)
                        )));
                    }
                    tokio::time::sleep(RESUBSCRIBE_AFTER).await;
                }
            };
            stop.run_until_cancelled(forever).await;
        });
        self.subscribed.insert(address, subscription);
    }

    /// The least number of Sentinels of which a majority must agree while some have not answered.
    fn expected(&self, asked: usize) -> usize {
        match self.last_known {
            0 => asked,
            known => known.max(self.configured.len()),
        }
    }

    fn why_none(&self, count: &Count, refusals: &[Diagnosis]) -> Diagnosis {
        let master = &self.master;
        if count.answered > 0 && count.unaware == count.answered {
            return Diagnosis::disqualifying(format!(
                "no Sentinel knows a master set named {master:?}: set LEASEHOLD_SENTINEL_MASTER to the name in the line \
                 `sentinel monitor` of their configuration"
            ));
        }
        let mut text = format!(
            "no majority of the Sentinels names a master for {master:?} ({} of {} Sentinels answered)",
            count.answered,
            count.known.len().max(refusals.len())
        );
        // Always the same one: the log has each text once a minute.
        if let Some(first) = refusals.iter().min_by_key(|d| (!d.disqualifies, &d.text)) {
            text = format!("{text}; {first}");
        }
        // The last known master may be healthy. Its guard decides that, and silent Sentinels prove nothing.
        Diagnosis::passing(text)
    }
}

/// The answers of one poll, with one vote for each Sentinel id.
#[derive(Default)]
struct Count {
    /// The ids of the Sentinels that answered, and of those that they named.
    known: HashSet<String>,
    /// The addresses of the Sentinels that others named.
    addresses: BTreeSet<Address>,
    /// A majority counts against at least this number of Sentinels.
    expected: usize,
    votes: HashMap<String, Option<Address>>,
    /// The highest configuration epoch of each address.
    epochs: HashMap<Address, u64>,
    answered: usize,
    /// How many answers know no master set of this name.
    unaware: usize,
    /// How many answers consider the master unhealthy.
    unhealthy: usize,
}

impl Count {
    fn add(&mut self, answer: Answer) {
        self.answered += 1;
        self.unaware += usize::from(answer.master.is_none());
        self.unhealthy += usize::from(answer.unhealthy);
        self.known.insert(answer.id.clone());
        for (id, address) in answer.peers {
            self.known.insert(id);
            self.addresses.insert(address);
        }
        if let (Some(master), Some(epoch)) = (&answer.master, answer.epoch) {
            let highest = self.epochs.entry(master.clone()).or_default();
            *highest = epoch.max(*highest);
        }
        self.votes.insert(answer.id, answer.master);
    }

    fn majority(&self) -> Option<NamedMaster> {
        let mut tally: HashMap<&Address, usize> = HashMap::new();
        for master in self.votes.values().flatten() {
            *tally.entry(master).or_default() += 1;
        }
        let named_by_most = tally
            .into_iter()
            .find(|(_, votes)| votes * 2 > self.known.len().max(self.expected));
        named_by_most.map(|(master, _)| NamedMaster {
            address: master.clone(),
            healthy: self.unhealthy == 0,
            epoch: self.epochs.get(master).copied(),
        })
    }
}

impl Peer {
    async fn ask(&self, master: &str) -> Result<Answer, RedisError> {
        let mut cached = self.cached.lock().await;
        let mut connection = if let Some(connection) = cached.take() {
            connection
        } else {
            self.connector.open().await?
        };
        let id = cmd("SENTINEL")
            .arg("MYID")
            .query_async(&mut connection)
            .await?;
        let named: Option<(String, u16)> = cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(master)
            .query_async(&mut connection)
            .await?;
        let mut answer = Answer {
            id,
            unhealthy: false,
            master: None,
            epoch: None,
            peers: Vec::new(),
        };
        if let Some((host, port)) = named {
            let peers: Vec<HashMap<String, String>> = cmd("SENTINEL")
                .arg("SENTINELS")
                .arg(master)
                .query_async(&mut connection)
                .await?;
            answer.peers = peers.iter().filter_map(read_peer).collect();
            let state: HashMap<String, String> = cmd("SENTINEL")
                .arg("MASTER")
                .arg(master)
                .query_async(&mut connection)
                .await?;
            let flags = state.get("flags").map_or("", String::as_str);
            answer.unhealthy = flags.split(',').any(|flag| UNHEALTHY_FLAGS.contains(&flag));
            // A Sentinel that leads a failover shows the old address with the new epoch.
            if state.get("ip") == Some(&host) && state.get("port") == Some(&port.to_string()) {
                answer.epoch = state
                    .get("config-epoch")
                    .and_then(|epoch| epoch.parse().ok());
            }
            answer.master = Some(Address { host, port });
        }
        *cached = Some(connection);
        Ok(answer)
    }
}

/// The next answer; `None` after the last one, or at `answer_deadline`.
async fn join_until<T: 'static>(
    questions: &mut JoinSet<T>,
    answer_deadline: Option<Instant>,
) -> Option<Result<T, JoinError>> {
    match answer_deadline {
        None => questions.join_next().await,
        Some(until) => timeout_at(until, questions.join_next())
            .await
            .ok()
            .flatten(),
    }
}

fn read_peer(fields: &HashMap<String, String>) -> Option<(String, Address)> {
    let address = Address {
        host: fields.get("ip")?.clone(),
        port: fields.get("port")?.parse().ok()?,
    };
    let id = fields.get("runid").filter(|id| !id.is_empty())?;
    Some((id.clone(), address))
}

/// Passes on each switch of the master until the subscription fails.
async fn subscribe_once(connector: &Connector, topology: &Topology) -> Result<(), RedisError> {
    use futures_util::StreamExt;
    let (mut sink, mut stream) = connector.subscriber().await?.split();
    sink.subscribe("+switch-master").await?;
    // A switch before the subscription sends no message, so the resolver asks once.
    topology.request_refresh();
    loop {
        match timeout(SUBSCRIPTION_PING, stream.next()).await {
            Ok(Some(_)) => topology.request_refresh(),
            Ok(None) => return Ok(()),
            Err(_) => match timeout(ANSWER_TIMEOUT, sink.ping::<redis::Value>()).await {
                Ok(pong) => drop(pong?),
                Err(_) => return Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str, master: &str, peers: &[&str]) -> Answer {
        let address = |text| Address {
            host: text,
            port: 1,
        };
        let peers = peers
            .iter()
            .map(|id| ((*id).to_owned(), address((*id).to_owned())))
            .collect();
        Answer {
            id: id.into(),
            unhealthy: false,
            epoch: None,
            master: Some(address(master.to_owned())),
            peers,
        }
    }

    #[test]
    fn one_sentinel_of_three_is_no_majority_however_often_it_answers() {
        let mut count = Count::default();
        count.add(answer("s1", "old", &["s2", "s3"]));
        count.add(answer("s1", "old", &["s2", "s3"]));
        assert_eq!(count.majority().map(|m| m.address), None);
        count.add(answer("s2", "new", &["s1", "s3"]));
        assert_eq!(count.majority().map(|m| m.address), None);
        count.add(answer("s3", "new", &["s1", "s2"]));
        assert_eq!(count.majority().map(|m| m.address.host), Some("new".into()));
    }

    #[test]
    fn sentinel_that_forgot_its_peers_is_no_majority_of_three() {
        let mut count = Count {
            expected: 3,
            ..Count::default()
        };
        count.add(answer("s1", "old", &[]));
        assert_eq!(count.majority().map(|m| m.address), None);
    }

    #[test]
    fn only_sentinel_of_a_set_is_a_majority() {
        let mut count = Count::default();
        count.add(answer("s1", "m", &[]));
        assert_eq!(count.majority().map(|m| m.address.host), Some("m".into()));
    }
}
