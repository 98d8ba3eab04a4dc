#![doc = include_str!("README.md")]

mod elect;
mod events;
mod group;
mod guardian;
mod schedule;
mod signals;
mod terminal;

use std::ffi::OsString;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{MissedTickBehavior, interval, timeout};

pub use self::elect::elect;
use self::events::{Event, Events};
pub use self::group::{BECOME, become_command};
use self::group::{Change, Group};
use self::guardian::Guardian;
pub use self::guardian::{GUARDIAN, guard};
use self::schedule::Schedule;
use self::signals::{Number, Signals};
use crate::client::{Acquire, Client, Failure, Grant, Moment, exit};

/// How often the wrapper looks at the clock that counts suspensions: timers do not run during one.
const TICK: Duration = Duration::from_millis(100);

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Run {
    /// The lock.
    pub lock: Acquire,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// What to do when the lease is lost.
    pub on_lost: OnLost,
    /// How long the command may take to end after SIGTERM.
    pub kill_after: Duration,
    /// The exit code if the lock is not acquired.
    pub not_acquired: u8,
    /// Whether the command learns the lease id.
    pub export_lease_id: bool,
    /// Whether events go to stderr in JSON.
    pub json: bool,
}

/// What to do when the lease is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnLost {
    /// End the command before the lock can be another client's.
    Kill,
    /// Say so, and let the command go on.
    Warn,
}

/// How far the end of the command has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Runs,
    Terminated { kill_at: Moment },
    Killed,
}

/// A command that runs under a lease.
struct Running<'a> {
    run: &'a Run,
    client: &'a Client,
    events: &'a Events,
    guardian: Option<Guardian>,
    group: Group,
    grant: Grant,
    schedule: Schedule,
    stage: Stage,
    lost: bool,
    /// Why the latest renewal failed.
    trouble: Option<String>,
    /// The lease is another client's, or certainly over: a renewal is useless.
    is_over: bool,
}

/// Runs the command under a lease of the lock. Returns the exit code of the process.
pub async fn run(client: &Client, run: &Run) -> u8 {
    let events = Events::new(&run.lock.key, run.json);
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            events.problem(&format!("cannot handle signals: {error}"));
            return exit::UNAVAILABLE;
        }
    };
    let acquired = {
        let mut waiting = |status: Option<&_>| events.tell(&Event::Waiting(status));
        tokio::select! {
            acquired = client.acquire(&run.lock, &mut waiting) => acquired,
            signal = signals.fatal() => {
                events.end_of_waiting();
                return code_of_signal(signal);
            }
        }
    };
    events.end_of_waiting();
    let grant = match acquired {
        Ok(grant) => grant,
        Err(failure) => {
            events.problem(&failure.to_string());
            return match failure {
                Failure::NotAcquired(_) => run.not_acquired,
                other => other.exit_code(),
            };
        }
    };
    events.tell(&Event::Acquired(&grant));
    let code = under(client, run, &events, &mut signals, &grant).await;
    match timeout(
        Duration::from_secs(10),
        client.release(&grant.key, &grant.lease_id),
    )
    .await
    {
        Ok(Ok(())) => events.tell(&Event::Released),
        // Lost since the latest renewal: what the command did was not protected to its end.
        Ok(Err(Failure::Lost(why))) if code != exit::LOST => {
            events.tell(&Event::Lost(&why));
            return exit::LOST;
        }
        Ok(Err(Failure::Lost(_))) => {}
        Ok(Err(failure)) => events.problem(&format!("the lease was not released: {failure}")),
        Err(_) => events.problem("the lease was not released: no server answers"),
    }
    code
}

/// Runs the command until all of its group has ended, and returns its exit code.
async fn under(
    client: &Client,
    run: &Run,
    events: &Events,
    signals: &mut Signals,
    grant: &Grant,
) -> u8 {
    let schedule = Schedule::new(grant, run.kill_after);
    if schedule.term_at.left().is_zero() {
        events.tell(&Event::Lost("its answer came too late to begin"));
        return exit::LOST;
    }
    let guardian = match run.on_lost {
        OnLost::Warn => None,
        OnLost::Kill => match Guardian::start(None) {
            Ok(guardian) => Some(guardian),
            Err(error) => {
                events.problem(&format!("cannot start the guardian process: {error}"));
                return exit::NOT_EXECUTABLE;
            }
        },
    };
    let group = match Group::new(&run.command, &environment(run, grant)) {
        Ok(group) => group,
        Err(error) => {
            events.problem(&format!("cannot start a process: {error}"));
            return exit::NOT_EXECUTABLE;
        }
    };
    let running = Running {
        run,
        client,
        events,
        guardian,
        group,
        grant: grant.clone(),
        schedule,
        stage: Stage::Runs,
        lost: false,
        trouble: None,
        is_over: false,
    };
    running.until_its_end(signals).await
}

fn environment(run: &Run, grant: &Grant) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("LEASEHOLD_KEY", grant.key.clone()),
        ("LEASEHOLD_FENCING_TOKEN", grant.fencing_token.to_string()),
        ("LEASEHOLD_EXPIRES_AT", grant.expires_at.clone()),
    ];
    if run.export_lease_id {
        variables.push(("LEASEHOLD_LEASE_ID", grant.lease_id.clone()));
    }
    variables
}

impl Running<'_> {
    async fn until_its_end(mut self, signals: &mut Signals) -> u8 {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.tell_guardian();
        self.group.begin();
        let client = self.client.clone();
        let mut renewal = None;
        while !self.group.has_ended() {
            if renewal.is_none() && !self.is_over && self.schedule.renew_at.left().is_zero() {
                let (client, grant) = (client.clone(), self.grant.clone());
                let limit = self.schedule.renewal_timeout(client.servers());
                renewal = Some(Box::pin(async move {
                    client.renew(&grant.key, &grant.lease_id, None, limit).await
                }));
            }
            tokio::select! {
                biased;
                _ = ticks.tick() => self.look_at_the_clock(),
                signal = signals.next() => self.signalled(signal),
                renewed = async { renewal.as_mut().expect("checked").await }, if renewal.is_some() => {
                    renewal = None;
                    self.renewed(renewed);
                }
            }
        }
        if let Some(guardian) = self.guardian.take() {
            guardian.dismiss();
        }
        // The guardian may have been first.
        let over_at = match self.run.on_lost {
            OnLost::Kill => self.schedule.kill_at,
            OnLost::Warn => self.grant.deadline,
        };
        if over_at.left().is_zero() {
            self.lose_in_time();
        }
        self.group.pass_on_interrupt();
        if self.lost {
            exit::LOST
        } else {
            self.group.exit_code()
        }
    }

    /// Ends what must end now.
    fn look_at_the_clock(&mut self) {
        self.reap();
        self.group.pass_on_foreground();
        let over = |at: Moment| at.left().is_zero();
        if self.run.on_lost == OnLost::Warn {
            if over(self.grant.deadline) {
                self.lose_in_time();
            }
        } else if over(self.schedule.kill_at) {
            self.kill();
            self.lose_in_time();
        } else if over(self.schedule.term_at) && self.stage == Stage::Runs {
            self.terminate(self.schedule.kill_at);
            self.lose_in_time();
        }
        if let Stage::Terminated { kill_at } = self.stage
            && over(kill_at)
        {
            self.kill();
        }
        // The command is over, but not all that it started.
        if self.stage == Stage::Runs && self.group.leader_has_ended() && !self.group.has_ended() {
            self.terminate(Moment::now() + self.schedule.kill_after);
        }
    }

    fn lose_in_time(&mut self) {
        let why = match self.trouble.take() {
            Some(trouble) => format!("it was not renewed in time: {trouble}"),
            None => "it was not renewed in time".to_owned(),
        };
        self.lose(&why);
    }

    fn lose(&mut self, why: &str) {
        if !self.lost {
            self.lost = true;
            self.events.tell(&Event::Lost(why));
        }
    }

    fn terminate(&mut self, kill_at: Moment) {
        self.stage = Stage::Terminated { kill_at };
        self.group.signal(Signal::SIGTERM);
        // A stopped process takes the signal when it continues.
        self.group.signal(Signal::SIGCONT);
    }

    fn kill(&mut self) {
        self.group.signal(Signal::SIGKILL);
        if self.stage != Stage::Killed {
            self.stage = Stage::Killed;
            self.events.tell(&Event::Killed);
        }
    }

    fn renewed(&mut self, renewed: Result<Grant, Failure>) {
        // An answer that comes too late revives nothing.
        self.look_at_the_clock();
        match renewed {
            Ok(_) if self.lost => {}
            Ok(grant) => {
                self.schedule = Schedule::new(&grant, self.run.kill_after);
                self.grant = grant;
                self.trouble = None;
                self.tell_guardian();
                self.events.tell(&Event::Renewed(&self.grant));
            }
            Err(Failure::Lost(why)) => {
                self.is_over = true;
                if self.run.on_lost == OnLost::Kill {
                    self.kill();
                }
                self.lose(&why);
            }
            Err(failure) => {
                self.trouble = Some(failure.to_string());
                self.schedule.renew_at = Moment::now() + self.schedule.pause();
            }
        }
    }

    fn signalled(&mut self, number: Number) {
        match Signal::try_from(number) {
            Ok(Signal::SIGCHLD) => self.reap(),
            Ok(Signal::SIGCONT) => {
                // After a stop the lease may be nearly over.
                self.look_at_the_clock();
                self.schedule.renew_at = Moment::now();
                self.group.resume();
            }
            _ => self.group.forward(number),
        }
    }

    fn reap(&mut self) {
        for change in self.group.reap() {
            match change {
                Change::Stopped { by_terminal } => {
                    self.group.stop_with_it();
                    self.look_at_the_clock();
                    self.schedule.renew_at = Moment::now();
                    // In the background it would be stopped again at once.
                    if !by_terminal || self.group.has_terminal() {
                        self.group.resume();
                    }
                }
                Change::OtherEnded(pid) => {
                    if self
                        .guardian
                        .as_ref()
                        .is_some_and(|guardian| guardian.pid() == pid)
                    {
                        let order = self.order();
                        self.guardian = Guardian::start(Some(&order)).ok();
                        if self.guardian.is_none() {
                            self.terminate(Moment::now() + self.schedule.kill_after);
                            self.lose("its guardian process has ended");
                        }
                    }
                }
            }
        }
    }

    fn tell_guardian(&mut self) {
        let order = self.order();
        if let Some(guardian) = &mut self.guardian {
            guardian.watch(&order);
        }
    }

    fn order(&self) -> String {
        let schedule = &self.schedule;
        guardian::order(self.group.id(), schedule.kill_at, schedule.kill_after)
    }
}

/// The exit code of a process that a signal ended.
fn code_of_signal(number: Number) -> u8 {
    u8::try_from(128 + number).unwrap_or(128)
}
