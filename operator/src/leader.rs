//! Which replica leads: the holder of a Lease. A replica that loses it ends; what starts it again makes it a standby.
//!
//! Clocks of different machines are never compared. A lease has run out when this replica has not seen it change for
//! as long as it lasts, by its own steady clock; writes carry the version that was read, so two never both succeed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::args::Args;
use crate::metrics::Metrics;

/// The lease's name.
const NAME: &str = "terrace-operator";

/// Tries to lead, and to stay the leader.
#[derive(Debug)]
pub struct Leader {
    api: Api<Lease>,
    identity: String,
    duration: Duration,
    metrics: Arc<Metrics>,
    leads: watch::Sender<bool>,
    released: Arc<tokio::sync::Notify>,
}

/// Tells when this replica leads, and lets it step down.
#[derive(Debug)]
pub struct Leadership {
    api: Api<Lease>,
    identity: String,
    leads: watch::Receiver<bool>,
    released: Arc<tokio::sync::Notify>,
}

/// What is to be done about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is ours, free or has run out: write that we hold it.
    Take,
    /// Somebody holds it.
    Wait,
}

/// The lease as it was seen, and since when it looks like this.
#[derive(Clone, Debug, Default)]
struct Seen {
    version: Option<String>,
    since: Option<Instant>,
}

impl Seen {
    /// Remembers when a version was seen first.
    fn look(&mut self, version: Option<&str>, now: Instant) -> Duration {
        if self.version.as_deref() != version || self.since.is_none() {
            self.version = version.map(str::to_owned);
            self.since = Some(now);
        }
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// Pure: what to do about a lease that has looked like this for `unchanged`.
fn step(spec: Option<&LeaseSpec>, identity: &str, unchanged: Duration, ours: Duration) -> Step {
    let Some(holder) =
        spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty())
    else {
        return Step::Take;
    };
    // The holder says how long it may be silent; where it does not, it is given what we would take.
    let seconds =
        spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    let lasts = seconds.map_or(ours, Duration::from_secs);
    if holder == identity || unchanged >= lasts { Step::Take } else { Step::Wait }
}

impl Leader {
    /// Both halves.
    pub fn new(client: Client, args: &Args, metrics: Arc<Metrics>) -> (Self, Leadership) {
        let api = Api::namespaced(client, &args.lease_namespace);
        let (leads, hears) = watch::channel(false);
        let released = Arc::new(tokio::sync::Notify::new());
        let leadership = Leadership {
            api: api.clone(),
            identity: args.identity.clone(),
            leads: hears,
            released: Arc::clone(&released),
        };
        let identity = args.identity.clone();
        let leader = Self { api, identity, duration: args.lease_duration, metrics, leads, released };
        (leader, leadership)
    }

    /// Ends with an error once a lease that was held is lost, or could not be renewed for as long as it lasts.
    pub async fn run(self) -> anyhow::Result<()> {
        let rest = self.duration / 3;
        let mut seen = Seen::default();
        let mut renewed: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            let held = match timeout(rest, self.attempt(&mut seen)).await {
                Ok(Ok(held)) => Ok(held),
                Ok(Err(error)) => Err(format!("{error:#}")),
                Err(_) => Err("the API server does not answer".to_owned()),
            };
            let pause = pause(rest, held.is_ok(), renewed.is_some());
            match (held, renewed) {
                (Ok(true), _) => {
                    if renewed.is_none() {
                        info!(identity = self.identity, "this replica leads");
                        self.metrics.leads(true);
                        self.leads.send_replace(true);
                    }
                    // From before the write was sent: whoever waits counts from after it arrived.
                    renewed = Some(begun);
                }
                (Ok(false), Some(_)) => {
                    bail!("another replica holds the lease; this one ends, to start as a standby")
                }
                (Ok(false), None) => debug!("another replica leads"),
                (Err(error), Some(renewed)) if renewed.elapsed() + rest >= self.duration => {
                    bail!("the lease could not be renewed in time, so another replica may lead: {error}")
                }
                (Err(error), _) => warn!(error, "the lease cannot be read or written; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.released.notified() => std::future::pending().await,
            }
        }
    }

    /// Reads the lease, and takes it where it may be taken. Whether it is held.
    async fn attempt(&self, seen: &mut Seen) -> anyhow::Result<bool> {
        let Some(mut lease) = self.api.get_opt(NAME).await.context("reading the lease")? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
                spec: Some(self.spec(None)),
            };
            return Ok(written(self.api.create(&PostParams::default(), &lease).await)?.is_some());
        };
        let unchanged = seen.look(lease.metadata.resource_version.as_deref(), Instant::now());
        if step(lease.spec.as_ref(), &self.identity, unchanged, self.duration) == Step::Wait {
            return Ok(false);
        }
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        lease.metadata.managed_fields = None;
        Ok(written(self.api.replace(NAME, &PostParams::default(), &lease).await)?.is_some())
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let is_ours = before.is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs().max(1)).ok(),
            acquire_time: if is_ours {
                before.and_then(|spec| spec.acquire_time.clone())
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(if is_ours { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}

/// How long until the lease is looked at again. Whoever holds it has few tries left once one failed.
fn pause(rest: Duration, answered: bool, holds: bool) -> Duration {
    match (answered, holds) {
        (true, true) => rest,
        (_, false) => rest / 2,
        (false, true) => rest / 5,
    }
}

/// None where another replica was faster.
fn written(answer: kube::Result<Lease>) -> anyhow::Result<Option<Lease>> {
    match answer {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(None),
        Err(error) => Err(error).context("writing the lease"),
    }
}

impl Leadership {
    /// Resolves once this replica leads.
    pub async fn acquired(&self) {
        let mut leads = self.leads.clone();
        // The sender lives as long as the task that ends the process with it.
        let _ = leads.wait_for(|leads| *leads).await;
    }

    /// Gives the lease up, so that a standby need not wait for it to run out.
    pub async fn release(&self) {
        self.released.notify_one();
        if !*self.leads.borrow() {
            return;
        }
        let given_up = async {
            let mut lease = self.api.get(NAME).await?;
            let is_ours = lease
                .spec
                .as_ref()
                .is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
            if let (Some(spec), true) = (&mut lease.spec, is_ours) {
                spec.holder_identity = None;
                spec.acquire_time = None;
                spec.renew_time = None;
                lease.metadata.managed_fields = None;
                self.api.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(Duration::from_secs(2), given_up).await {
            Ok(Ok(())) => info!("the lease was given up"),
            Ok(Err(error)) => warn!(%error, "the lease could not be given up; it runs out"),
            Err(_) => warn!("the lease could not be given up in time; it runs out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Duration = Duration::from_secs(15);

    fn held(holder: &str, seconds: i32, renewed: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(MicroTime(renewed.parse().unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_ours_free_or_has_not_changed_for_as_long_as_it_lasts() {
        let seconds = Duration::from_secs;
        let other = held("b", 10, "2030-01-01T00:00:00Z");
        for (spec, unchanged, expected) in [
            (None, 0, Step::Take),
            (Some(LeaseSpec::default()), 0, Step::Take),
            (Some(held("", 10, "2030-01-01T00:00:00Z")), 0, Step::Take),
            (Some(held("a", 10, "2030-01-01T00:00:00Z")), 0, Step::Take),
            (Some(other.clone()), 0, Step::Wait),
            (Some(other.clone()), 9, Step::Wait),
            (Some(other), 10, Step::Take),
            // What its holder's clock says is of no account, be it years behind or ahead.
            (Some(held("b", 10, "1970-01-01T00:00:00Z")), 9, Step::Wait),
            (Some(held("b", 10, "2999-01-01T00:00:00Z")), 10, Step::Take),
            (
                Some(LeaseSpec { lease_duration_seconds: None, ..held("b", 1, "1970-01-01T00:00:00Z") }),
                14,
                Step::Wait,
            ),
        ] {
            assert_eq!(
                step(spec.as_ref(), "a", seconds(unchanged), OURS),
                expected,
                "{spec:?} for {unchanged} s"
            );
        }
    }

    #[test]
    fn a_change_of_any_sort_starts_the_wait_anew() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::default();
        assert_eq!(seen.look(Some("1"), start), Duration::ZERO);
        assert_eq!(seen.look(Some("1"), after(7)), Duration::from_secs(7));
        assert_eq!(seen.look(Some("2"), after(9)), Duration::ZERO);
        assert_eq!(seen.look(Some("2"), after(10)), Duration::from_secs(1));
    }
}
