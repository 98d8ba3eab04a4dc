//! Makes a node fit to grant, and tells it what this server remembers.
//!
//! A node is activated once in each life of it as a master: its fencing tokens then begin above all that
//! were granted before. Every server reports to each activation before it grants under it, so that a
//! loss is found; see `report.lua`.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::census::KnownLeases;
use super::diagnosis::Diagnosis;
use super::node::{Node, Question};
use super::options::{Address, RedisOptions};
use super::reply::{text, texts};
use super::script::{self, ACTIVATION, Source};
use super::wake::Wake;
use super::witness::{Step, Witness};
use crate::lock::lease::{Timestamp, micros, millis};
use crate::random;
use crate::store::clock::wall_clock;

/// The layout of the data in Redis; a server that meets a higher one writes nothing.
pub(super) const DATA_FORMAT: &str = "1";

/// Between the tokens of one activation and the next: more grants than a failover can lose. Seen as
/// microseconds it is 4.2 s, by which activations in quick succession run ahead of the clock. Only if
/// within that time Redis loses everything and all servers end, does no memory of that remain.
const TOKEN_GAP: u64 = 1 << 22;

/// How far the clocks of Redis and of this server may be apart when tokens are based on them: wide
/// enough for a clock in the wrong time zone, too narrow to burn the range of tokens.
const MAX_ACTIVATION_CLOCK_DIFFERENCE: Duration = Duration::from_secs(24 * 3600);

/// How long after an activation nothing new is granted while servers report; see `batch.lua`.
pub(super) const REPORTING_TIME: Duration = Duration::from_secs(1);

/// How much longer than the longest lease the list of servers is kept when all are silent.
const SERVERS_MEMORY: Duration = Duration::from_secs(60);

/// How often a report is repeated while other servers activate.
const MAX_REPORTS: usize = 5;

/// See the module.
pub(super) struct Activator {
    options: Arc<RedisOptions>,
    witness: Arc<Witness>,
    /// Tells this server from the others.
    server_id: Arc<str>,
    wake: Wake,
    census: Arc<KnownLeases>,
    report: Source,
}

/// A report was heard.
pub(super) struct Heard {
    /// Under which activation.
    pub(super) activation: String,
    /// For how long nothing new is granted.
    pub(super) pause: Duration,
    /// How many writes that this server knows to be confirmed are missing there.
    pub(super) missing: u64,
    /// That its clock has stepped.
    pub(super) step: Option<Step>,
}

/// What became of a report.
enum Reported {
    Heard {
        pause: Duration,
        missing: u64,
        /// The step that its answer shows.
        step: Option<Step>,
    },
    /// The node has another activation, or none.
    NotActive,
}

impl Activator {
    pub(super) fn new(
        options: Arc<RedisOptions>,
        witness: Arc<Witness>,
        server_id: Arc<str>,
        wake: Wake,
        census: Arc<KnownLeases>,
    ) -> Self {
        Self {
            report: script::report(options.clock, &options.key_prefix),
            options,
            witness,
            server_id,
            wake,
            census,
        }
    }

    /// Reports to the node under `activation`, activating it first where that is needed.
    pub(super) async fn report(
        &self,
        node: &Node,
        activation: Option<String>,
        mut stepped: Option<String>,
    ) -> Result<Heard, Diagnosis> {
        let mut activation = match activation {
            Some(activation) if stepped.as_ref() != Some(&activation) => activation,
            _ => self.activate(node, &mut stepped).await?,
        };
        let mut missing = 0;
        let mut step = stepped.as_ref().map(|_| Step::Large);
        for _ in 0..MAX_REPORTS {
            match self.report_once(node, &activation, step).await? {
                Reported::Heard {
                    pause,
                    missing: missed,
                    step: seen,
                } => {
                    missing = missing.max(missed);
                    match seen {
                        None => {
                            return Ok(Heard {
                                activation,
                                pause,
                                missing,
                                step,
                            });
                        }
                        Some(Step::Small) => step = seen,
                        Some(Step::Large) => {
                            stepped = Some(activation);
                            activation = self.activate(node, &mut stepped).await?;
                            step = seen;
                        }
                    }
                }
                Reported::NotActive => {
                    activation = self.activate(node, &mut stepped).await?;
                    step = stepped.as_ref().map(|_| Step::Large);
                }
            }
        }
        Err(Diagnosis::passing(format!(
            "a report to {} failed {MAX_REPORTS} times because its activation or its clock kept changing; the server tries \
             again",
            node.address
        )))
    }

    /// Activates the node, or adopts the activation that it has. A clock that is not the one that this
    /// server knew counts as stepped.
    async fn activate(
        &self,
        node: &Node,
        stepped: &mut Option<String>,
    ) -> Result<String, Diagnosis> {
        let arguments = [
            DATA_FORMAT.to_owned(),
            random::id(),
            self.witness.token().to_string(),
            wall_clock().as_micros().to_string(),
            micros(MAX_ACTIVATION_CLOCK_DIFFERENCE).to_string(),
            TOKEN_GAP.to_string(),
            stepped.clone().unwrap_or_default(),
        ];
        let sent = Instant::now();
        let reply = node
            .ask(&Question::Run(
                &ACTIVATION,
                &[self.options.meta_key(), self.options.servers_key()],
                &arguments,
            ))
            .await?;
        let received = Instant::now();
        match texts(&reply).as_deref() {
            Some(["active", activation, token, now]) => {
                self.witness.saw_token(number(token));
                let now = Timestamp::from_micros(number(now));
                if self.witness.step(now, sent, received) == Some(Step::Large) {
                    stepped.get_or_insert_with(|| (*activation).to_owned());
                }
                self.witness.set_clock(now, sent, received);
                Ok((*activation).to_owned())
            }
            Some(["guard", reason, detail]) => Err(explain_guard(&node.address, reason, detail)),
            _ => Err(misunderstood(node, &reply)),
        }
    }

    async fn report_once(
        &self,
        node: &Node,
        activation: &str,
        step: Option<Step>,
    ) -> Result<Reported, Diagnosis> {
        let memory = self.witness.memory();
        let arguments = [
            self.server_id.to_string(),
            activation.to_owned(),
            memory.activation,
            memory.writes.to_string(),
            memory.token.to_string(),
            micros(memory.counts_on).to_string(),
            match step {
                None => "0",
                Some(Step::Large) => "1",
                Some(Step::Small) => "2",
            }
            .to_owned(),
            micros(self.options.max_recovery).to_string(),
            micros(self.options.max_clock_skew).to_string(),
            DATA_FORMAT.to_owned(),
            millis(self.options.max_ttl + SERVERS_MEMORY).to_string(),
            self.options.wake_channel(&self.server_id),
        ];
        let keys = [
            self.options.meta_key(),
            self.options.servers_key(),
            self.options.turns_key(),
            self.options.leases_key(),
        ];
        let sent = Instant::now();
        let reply = node
            .ask(&Question::Run(&self.report, &keys, &arguments))
            .await?;
        let received = Instant::now();
        match texts(&reply).as_deref() {
            Some(
                [
                    "ok",
                    now,
                    pause,
                    missing,
                    writes,
                    token,
                    counts_on,
                    held,
                    ran_out,
                    places_lost,
                    turns @ ..,
                ],
            ) => {
                self.census.held(number(held), number(ran_out));
                if !places_lost.is_empty() {
                    self.wake.places_lost();
                }
                for turn in turns.chunks_exact(3) {
                    match *turn {
                        [lock, "", left] => {
                            let until = received + Duration::from_micros(number(left));
                            self.wake.reserved(lock, until);
                        }
                        [lock, waiter, _] => self.wake.reservation(lock, waiter),
                        _ => {}
                    }
                }
                self.witness.reported_to(activation);
                self.witness.saw_token(number(token));
                // From when it was asked: a lease is then not counted on for longer by each server that hears of it.
                let counts_on_until = sent + Duration::from_micros(number(counts_on));
                self.witness
                    .confirmed(activation, number(writes), counts_on_until);
                let now = Timestamp::from_micros(number(now));
                if step == Some(Step::Small) {
                    // Leases of before the step are safe from here on.
                    self.witness.set_clock(now, sent, received);
                }
                let seen = self.witness.step(now, sent, received);
                if seen.is_none() {
                    self.witness.saw_time(now, sent, received);
                }
                Ok(Reported::Heard {
                    pause: Duration::from_micros(number(pause)),
                    missing: number(missing),
                    step: seen,
                })
            }
            Some(["guard", "inactive" | "activation", _]) => Ok(Reported::NotActive),
            Some(["guard", reason, detail]) => Err(explain_guard(&node.address, reason, detail)),
            _ => Err(misunderstood(node, &reply)),
        }
    }
}

/// Scripts reply with whole numbers that are not negative.
fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

fn misunderstood(node: &Node, reply: &Value) -> Diagnosis {
    let answer = text(reply).unwrap_or("a list");
    Diagnosis::disqualifying(format!(
        "{} sent an unexpected reply: {answer}",
        node.address
    ))
}

/// A guard's refusal in the operator's words.
pub(super) fn explain_guard(address: &Address, reason: &str, detail: &str) -> Diagnosis {
    Diagnosis::disqualifying(match reason {
        "role" => format!(
            "{address} is a replica now ({detail}) and cannot hold locks: a failover is in progress, or the \
             address is not that of a master"
        ),
        "format" => format!(
            "the data at {address} has format {detail}, newer than this version of Leasehold can read ({DATA_FORMAT}): \
             run a newer version"
        ),
        "clock" => format!(
            "the clocks of {address} and of this server differ by more than {} hours: correct them",
            MAX_ACTIVATION_CLOCK_DIFFERENCE.as_secs() / 3600
        ),
        other => format!("{address} rejected the operation: {other} {detail}"),
    })
}
