//! Activates nodes, and reports the high-water mark of this server to them.
//!
//! Servers activate a node once in each of its lives as a master. The activation sets its token counter above every
//! token that was granted before. Each server reports to an activation before it grants under it, because a report can
//! show a loss; see `report.lua`.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::clock::{ClockJump, Distance, MasterClock, Spread};
use super::high_water_mark::HighWaterMark;
use super::node::{Node, Question};
use crate::lock::lease::{Timestamp, micros};
use crate::random;
use crate::store::clock::wall_clock;
use crate::store::redis::errors::diagnosis::Diagnosis;
use crate::store::redis::events::EventSender;
use crate::store::redis::options::{Address, RedisOptions};
use crate::store::redis::scripts::reply::{text, texts};
use crate::store::redis::scripts::{DATA_FORMAT, Scripts};

/// The gap between the tokens of two activations: more grants than a failover can lose. As microseconds it is 4.2 s, so
/// each activation in quick succession puts the tokens up to 4.2 s further ahead of the clock. If Redis loses all data
/// and all servers end within that time, the next activation knows of none of these tokens.
const TOKEN_GAP: u64 = 1 << 22;

/// The largest difference between the clocks of the node and of this server at an activation. It allows for a clock in
/// the wrong time zone. A larger limit would let a wrong clock use up the range of tokens.
const MAX_ACTIVATION_CLOCK_DIFFERENCE: Duration = Duration::from_secs(24 * 3600);

/// How often one heartbeat may send its report while the activation or the clock of the node keeps changing.
const MAX_REPORTS: usize = 5;

/// See the module.
pub(crate) struct Activator {
    options: Arc<RedisOptions>,
    scripts: Arc<Scripts>,
    clock: Arc<MasterClock>,
    mark: Arc<HighWaterMark>,
    /// The id of this server in the list of servers.
    server_id: Arc<str>,
    events: EventSender,
}

/// A node's reply to a report.
pub(crate) struct ReportReply {
    /// The activation that has the report.
    pub(crate) activation: String,
    /// For how long the node grants nothing new.
    pub(crate) pause: Duration,
    /// How many replicas are online.
    pub(crate) online: usize,
    /// How many writes the node lacks although this server saw them confirmed.
    pub(crate) missing: u64,
    /// The largest step that the node's clock has shown.
    pub(crate) clock_jump: Option<ClockJump>,
}

/// The result of one attempt to report.
enum ReportResult {
    Accepted {
        pause: Duration,
        online: usize,
        missing: u64,
        /// The step that the reply shows.
        clock_jump: Option<ClockJump>,
    },
    /// The node has another activation, or none.
    NotActive,
}

impl Activator {
    pub(crate) const fn new(
        options: Arc<RedisOptions>,
        scripts: Arc<Scripts>,
        clock: Arc<MasterClock>,
        mark: Arc<HighWaterMark>,
        server_id: Arc<str>,
        events: EventSender,
    ) -> Self {
        Self {
            options,
            scripts,
            clock,
            mark,
            server_id,
            events,
        }
    }

    /// Reports to the node under `activation`. Activates the node first if `activation` is absent, or if
    /// it equals `stepped`: the activation whose clock has stepped.
    pub(crate) async fn report(
        &self,
        node: &Node,
        activation: Option<String>,
        mut stepped: Option<String>,
    ) -> Result<ReportReply, Diagnosis> {
        let mut activation = match activation {
            Some(activation) if stepped.as_ref() != Some(&activation) => activation,
            _ => self.activate(node, &mut stepped).await?,
        };
        let (mut missing, mut largest_jump) = (0, None);
        for _ in 0..MAX_REPORTS {
            let lost_time = stepped.is_some();
            match self.report_once(node, &activation, lost_time).await? {
                ReportResult::Accepted {
                    pause,
                    online,
                    missing: missed,
                    clock_jump,
                } => {
                    missing = missing.max(missed);
                    largest_jump = largest_jump.max(clock_jump);
                    if clock_jump == Some(ClockJump::BeyondSkew) {
                        stepped = Some(activation);
                        activation = self.activate(node, &mut stepped).await?;
                        continue;
                    }
                    if lost_time {
                        largest_jump = Some(ClockJump::BeyondSkew);
                    }
                    if clock_jump.is_some() {
                        // The next report tells the other servers of the step.
                        stepped = None;
                        continue;
                    }
                    return Ok(ReportReply {
                        activation,
                        pause,
                        online,
                        missing,
                        clock_jump: largest_jump,
                    });
                }
                ReportResult::NotActive => activation = self.activate(node, &mut stepped).await?,
            }
        }
        Err(Diagnosis::passing(format!(
            "a report to {} failed {MAX_REPORTS} times because its activation or its clock kept changing; the server tries \
             again",
            node.address
        )))
    }

    /// Activates the node, or adopts the activation that it has. If its clock has stepped beyond the skew,
    /// `stepped` is set to this activation.
    async fn activate(
        &self,
        node: &Node,
        stepped: &mut Option<String>,
    ) -> Result<String, Diagnosis> {
        let arguments = [
            random::id(),
            self.mark.token().to_string(),
            wall_clock().as_micros().to_string(),
            micros(MAX_ACTIVATION_CLOCK_DIFFERENCE).to_string(),
            TOKEN_GAP.to_string(),
            stepped.clone().unwrap_or_default(),
        ];
        let sent = Instant::now();
        let reply = node
            .ask(&Question::Run(
                &self.scripts.activate,
                &[
                    self.options.locks_key(),
                    self.options.servers_key(),
                    self.options.older_record_key(),
                ],
                &arguments,
            ))
            .await?;
        let received = Instant::now();
        match texts(&reply).as_deref() {
            Some(["active", activation, token, now]) => {
                self.mark.saw_token(number(token));
                let now = Timestamp::from_micros(number(now));
                if self.saw_time(now, sent, received) == Some(ClockJump::BeyondSkew) {
                    stepped.get_or_insert_with(|| (*activation).to_owned());
                }
                Ok((*activation).to_owned())
            }
            Some(["guard", reason, detail]) => Err(explain_guard(&node.address, reason, detail)),
            _ => Err(unexpected_reply(node, &reply)),
        }
    }

    fn saw_time(&self, now: Timestamp, sent: Instant, received: Instant) -> Option<ClockJump> {
        self.clock
            .saw(now, sent, received, self.mark.counts_until())
    }

    async fn report_once(
        &self,
        node: &Node,
        activation: &str,
        lost_time: bool,
    ) -> Result<ReportResult, Diagnosis> {
        let known = self.mark.snapshot();
        if lost_time {
            // New grants pause until the leases of before the step are over.
            self.clock.forget_earlier_offsets();
        }
        let spread = self.clock.spread();
        let arguments = [
            self.server_id.to_string(),
            activation.to_owned(),
            known.activation,
            known.writes.to_string(),
            known.token.to_string(),
            micros(known.counts_on).to_string(),
            u8::from(lost_time).to_string(),
            micros(spread.behind.by).to_string(),
            micros(spread.behind.counts_for).to_string(),
            micros(spread.ahead.by).to_string(),
            micros(spread.ahead.counts_for).to_string(),
            micros(self.clock.steady_for()).to_string(),
            micros(self.options.max_recovery).to_string(),
            micros(self.options.max_clock_skew).to_string(),
            self.options.wake_channel(&self.server_id),
        ];
        let keys = [
            self.options.locks_key(),
            self.options.servers_key(),
            self.options.reservations_key(),
        ];
        let sent = Instant::now();
        let reply = node
            .ask(&Question::Run(&self.scripts.report, &keys, &arguments))
            .await?;
        let received = Instant::now();
        match texts(&reply).as_deref() {
            Some(
                [
                    "ok",
                    now,
                    pause,
                    online,
                    missing,
                    writes,
                    token,
                    counts_on,
                    behind,
                    behind_for,
                    ahead,
                    ahead_for,
                    entries_lost,
                    reservations @ ..,
                ],
            ) => {
                if !entries_lost.is_empty() {
                    self.events.queues_lost();
                }
                for reservation in reservations.chunks_exact(3) {
                    match *reservation {
                        [lock, "", left] => {
                            let until = received + Duration::from_micros(number(left));
                            self.events.held_until(lock, until);
                        }
                        [lock, waiter, _] => self.events.reserved(lock, waiter),
                        _ => {}
                    }
                }
                self.mark.reported_to(activation);
                self.mark.saw_token(number(token));
                // The time counts from the moment of sending. From the moment of receiving, each exchange between
                // servers would prolong it.
                let counts_until = sent + Duration::from_micros(number(counts_on));
                self.mark
                    .confirmed(activation, number(writes), counts_until);
                let now = Timestamp::from_micros(number(now));
                let clock_jump = self.saw_time(now, sent, received);
                let distance = |by: &str, counts_for: &str| Distance {
                    by: Duration::from_micros(number(by)),
                    counts_for: Duration::from_micros(number(counts_for)),
                };
                self.clock.adopt(Spread {
                    behind: distance(behind, behind_for),
                    ahead: distance(ahead, ahead_for),
                });
                Ok(ReportResult::Accepted {
                    pause: Duration::from_micros(number(pause)),
                    online: usize::try_from(number(online)).unwrap_or(usize::MAX),
                    missing: number(missing),
                    clock_jump,
                })
            }
            Some(["guard", "inactive" | "activation", _]) => Ok(ReportResult::NotActive),
            Some(["guard", reason, detail]) => Err(explain_guard(&node.address, reason, detail)),
            _ => Err(unexpected_reply(node, &reply)),
        }
    }
}

/// A number in the reply of a script: all of them are whole and not negative.
fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

fn unexpected_reply(node: &Node, reply: &Value) -> Diagnosis {
    let answer = text(reply).unwrap_or("a list");
    Diagnosis::disqualifying(format!(
        "{} sent an unexpected reply: {answer}",
        node.address
    ))
}

/// Explains the refusal of a script's guard to the operator.
pub(crate) fn explain_guard(address: &Address, reason: &str, detail: &str) -> Diagnosis {
    Diagnosis::disqualifying(match reason {
        "role" => format!(
            "{address} is a replica now ({detail}) and cannot hold locks: a failover is in progress, or the \
             address is not that of a master"
        ),
        "format" => format!(
            "the data at {address} has format {detail}, newer than this version of Leasehold can read ({DATA_FORMAT}): \
             run a newer version"
        ),
        "older_format" => format!(
            "{address} has data of an older version of Leasehold (the key {detail}): stop all servers of that version, wait \
             until its leases have ended, and delete its keys; or set another LEASEHOLD_KEY_PREFIX"
        ),
        "clock" => format!(
            "the clocks of {address} and of this server differ by more than {} hours: correct them",
            MAX_ACTIVATION_CLOCK_DIFFERENCE.as_secs() / 3600
        ),
        other => format!("{address} rejected the operation: {other} {detail}"),
    })
}
