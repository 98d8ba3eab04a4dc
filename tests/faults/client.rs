//! A client process: its calls, its conclusions from the answers, and its pipes to the campaign.

use std::io::{self, BufRead as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::clock::now_us;
use crate::history::{ABANDONED, Arm, Call, GrantedLease, Op, Outcome, Seen};
use crate::http::{self, Failure};
use crate::protocol::{ClientConfig, FromClient, ToClient};
use crate::support::http::Reply;

pub(crate) struct Client {
    pub(crate) config: ClientConfig,
    accessed: Receiver<(bool, u64)>,
    stopped: Arc<AtomicBool>,
}

impl Client {
    /// A client on the pipes of this process; it ends with the campaign.
    pub(crate) fn new(config: ClientConfig) -> Self {
        let (sender, accessed) = channel();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        thread::spawn(move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(ToClient::Accessed { accepted, value }) => {
                        let _ended = sender.send((accepted, value));
                    }
                    Ok(ToClient::Stop) => stop.store(true, Ordering::SeqCst),
                    Err(error) => panic!("{error}: {line}"),
                }
            }
            // The campaign has ended, and further calls would stay unrecorded.
            std::process::exit(0);
        });
        say(&FromClient::Hello { at: now_us() });
        Self {
            config,
            accessed,
            stopped,
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Reads (`base` is `None`) or writes the resource; `None` if the resource rejects the token.
    pub(crate) fn access(&self, key: &str, arm: Arm, token: u64, base: Option<u64>) -> Option<u64> {
        say(&FromClient::Access {
            key: key.to_owned(),
            arm,
            token,
            base,
        });
        let (accepted, value) = self
            .accessed
            .recv()
            .unwrap_or_else(|_| std::process::exit(0));
        accepted.then_some(value)
    }

    /// A call that is about to be made.
    pub(crate) fn prepare(&self, attempt: &str, key: &str, op: Op, server: usize) -> Call {
        Call {
            client: self.config.client,
            attempt: attempt.to_owned(),
            key: key.to_owned(),
            op,
            server: self.config.servers[server % self.config.servers.len()].clone(),
            sent_at: 0,
            answered_at: None,
            idempotent: false,
            lease_id: None,
            break_token: None,
            ttl_ms: None,
            wait_ms: 0,
            outcome: Outcome::Unknown,
            status: None,
            problem: None,
            reason: None,
            lease: None,
            seen: None,
        }
    }

    /// Makes the call and records it; `patience` is the client's time limit for the answer.
    pub(crate) fn make(mut call: Call, patience: Duration) -> Call {
        let (method, path) = match call.op {
            Op::Acquire => ("POST", format!("/locks/{}", call.key)),
            Op::Renew => ("PUT", format!("/locks/{}/lease", call.key)),
            Op::Release => ("DELETE", format!("/locks/{}", call.key)),
            Op::Break => {
                let token = call.break_token.unwrap_or_default();
                let query = format!("force=true&fencing_token={token}");
                ("DELETE", format!("/locks/{}?{query}", call.key))
            }
            Op::Inspect => ("GET", format!("/locks/{}", call.key)),
        };
        let idempotency_key = format!("attempt-{}-of-the-campaign", call.attempt);
        let mut headers = Vec::new();
        if call.idempotent {
            headers.push(("Idempotency-Key", idempotency_key.as_str()));
        }
        let lease_id = call.lease_id.clone().unwrap_or_default();
        if !lease_id.is_empty() {
            headers.push(("Lease-Id", lease_id.as_str()));
        }
        let body = body_of(&call);
        if body.is_some() {
            headers.push(("Content-Type", "application/json"));
        }
        call.sent_at = now_us();
        say(&FromClient::Sent(Box::new(call.clone())));
        let answer = http::call(
            &call.server,
            method,
            &path,
            &headers,
            body.as_deref(),
            patience,
        );
        call.answered_at = Some(now_us());
        match answer {
            Ok(reply) => understand(&mut call, &reply),
            Err(Failure::NotSent(error)) => {
                call.outcome = Outcome::NotDone;
                call.problem = Some(format!("not sent: {}", error.kind()));
            }
            Err(Failure::Abandoned) => call.problem = Some(ABANDONED.to_owned()),
            Err(Failure::Unknown(error)) => {
                call.problem = Some(format!("no answer: {}", error.kind()));
            }
        }
        say(&FromClient::Answered(Box::new(call.clone())));
        call
    }
}

fn body_of(call: &Call) -> Option<String> {
    let body = match call.op {
        Op::Acquire => serde_json::json!({
            "ttl_ms": call.ttl_ms, "wait_ms": call.wait_ms, "holder": call.attempt,
        }),
        Op::Renew => serde_json::json!({}),
        Op::Release | Op::Break | Op::Inspect => return None,
    };
    Some(body.to_string())
}

/// The conclusion that the answer allows the client.
fn understand(call: &mut Call, reply: &Reply) {
    let body: Value = serde_json::from_str(&reply.body).unwrap_or(Value::Null);
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    call.status = Some(reply.status);
    call.problem = text("type").map(|kind| kind.replace("urn:leasehold:problem:", ""));
    call.reason = text("reason");
    call.outcome = match reply.status {
        200..=299 if reply.header("Idempotency-Replayed").is_some() => Outcome::Replayed,
        200..=299 => Outcome::Done,
        409 => Outcome::Lost,
        400..=499 => Outcome::Refused,
        _ if body["outcome"] == "none" => Outcome::NotDone,
        _ => Outcome::Unknown,
    };
    if let Some(lease_id) = text("lease_id") {
        call.lease = Some(GrantedLease {
            lease_id,
            token: body["fencing_token"].as_u64().unwrap_or_default(),
            expires_in_ms: body["expires_in_ms"].as_u64().unwrap_or_default(),
            waited_ms: body["waited_ms"].as_u64().unwrap_or_default(),
        });
    } else if let Some(token) = body["fencing_token"].as_u64() {
        call.seen = Some(Seen {
            holder: text("holder"),
            token,
            held_for_ms: body["held_for_ms"].as_u64().unwrap_or_default(),
            expires_in_ms: body["expires_in_ms"].as_u64(),
        });
    }
}

fn say(what: &FromClient) {
    let line = serde_json::to_string(what).expect("a message is plain data") + "\n";
    // A client without its campaign has no purpose.
    if io::stdout().lock().write_all(line.as_bytes()).is_err() {
        std::process::exit(0);
    }
}
