//! One server of a tier, as this node knows it: its connections, its breaker, what it has to do now. Shared by every model
//! and policy that reaches it in the same way.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use terrace_crds::policy::Protocol;
use terrace_egress::{Established, HttpVersion, TierClient, Tiers, causes};
use terrace_tiering::{Breaker, BreakerSettings, BreakerState, Failure, Pass, RemoteTier};
use tracing::{info, warn};
use url::Url;

use super::credentials::{CredentialsDir, Secrets, Wanted};
use super::error::UpstreamError;
use crate::pieces::Pieces;

/// What tells endpoints apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    url: Url,
    protocol: Protocol,
    wanted: Option<Wanted>,
}

impl EndpointKey {
    /// Of one of a tier's URLs, under a policy of `namespace`.
    pub fn new(url: &Url, remote: &RemoteTier, namespace: &str) -> Self {
        Self { url: url.clone(), protocol: remote.protocol, wanted: Wanted::of(remote, namespace) }
    }
}

/// One server of a tier.
pub struct Endpoint {
    key: EndpointKey,
    /// As metrics and the status name it.
    pub label: Arc<str>,
    tiers: Tiers,
    /// None where it cannot be asked, and `complaint` says why.
    access: ArcSwap<Option<Access>>,
    complaint: Mutex<Option<String>>,
    breaker: Mutex<Breaker>,
    /// Why it failed last, in one word.
    last_failure: Mutex<Option<&'static str>>,
    in_flight: AtomicUsize,
    /// How long connecting took last, in microseconds; 0 before the first.
    connect_micros: AtomicU64,
    /// How often its breaker was opened.
    opened: AtomicU64,
    /// How often it came back.
    lives: AtomicU64,
    /// Varies the waits of this process.
    seed: RandomState,
}

/// What it is asked with.
#[derive(Debug)]
struct Access {
    secrets: Secrets,
    client: TierClient<Pieces>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint {}", self.label)
    }
}

/// What there is to tell of it.
#[derive(Clone, Debug)]
pub struct Told {
    /// What its breaker says.
    pub breaker: BreakerState,
    /// How often it was opened.
    pub opened: u64,
    /// Requests that it has now.
    pub in_flight: usize,
    /// How long connecting took last.
    pub connect: Option<Duration>,
    /// Why it failed last, if it did not answer since.
    pub last_failure: Option<&'static str>,
    /// What is wrong with its credentials.
    pub credentials: Option<String>,
}

impl Endpoint {
    /// An endpoint that was not asked yet.
    pub fn new(key: EndpointKey, tiers: &Tiers, credentials: &CredentialsDir) -> Self {
        let label = key.url.as_str().trim_end_matches('/').into();
        let endpoint = Self {
            label,
            tiers: tiers.clone(),
            access: ArcSwap::from_pointee(None),
            complaint: Mutex::default(),
            breaker: Mutex::default(),
            last_failure: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            connect_micros: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            lives: AtomicU64::new(0),
            seed: RandomState::new(),
            key,
        };
        endpoint.read_credentials(credentials);
        endpoint
    }

    /// Whether it is asked with anything from files.
    pub const fn has_credentials(&self) -> bool {
        self.key.wanted.is_some()
    }

    /// Reads its credentials; where they changed, new connections are made with them, and requests carry them. Where they
    /// cannot be used, as while a folder is exchanged file by file, what was read last goes on.
    pub fn read_credentials(&self, credentials: &CredentialsDir) {
        let wanted = self.key.wanted.as_ref();
        let read = wanted.map_or_else(|| Ok(Secrets::default()), |wanted| credentials.read(wanted));
        let loaded = self.access.load();
        let known = Option::<Access>::as_ref(&loaded);
        let access = read.map_err(|error| error.to_string()).and_then(|secrets| {
            if known.is_some_and(|known| known.secrets == secrets) {
                return Ok(None);
            }
            let client = self.client(&secrets, known)?;
            Ok(Some(Access { secrets, client }))
        });
        let complaint = access.as_ref().err().cloned();
        if let Ok(Some(access)) = access {
            if known.is_some() {
                info!(endpoint = %self.label, "credentials changed");
            }
            self.access.store(Arc::new(Some(access)));
        }
        let mut said = lock(&self.complaint);
        if let Some(why) = complaint.as_ref().filter(|_| *said != complaint) {
            let goes_on = known.is_some();
            warn!(endpoint = %self.label, why, goes_on, "credentials of a tier cannot be used");
        }
        *said = complaint;
    }

    /// A client; the one that there is where TLS stays as it is.
    fn client(&self, secrets: &Secrets, known: Option<&Access>) -> Result<TierClient<Pieces>, String> {
        if let Some(known) = known.filter(|known| known.secrets.tls == secrets.tls) {
            return Ok(known.client.clone());
        }
        let version = match self.key.protocol {
            Protocol::HTTP => HttpVersion::Any,
            Protocol::GRPC => HttpVersion::Two,
        };
        let tls = (self.key.url.scheme() == "https").then_some(&secrets.tls);
        self.tiers.client(version, tls).map_err(|error| causes(&error))
    }

    /// Its client, and what each request carries.
    pub fn access(&self) -> Result<(TierClient<Pieces>, Option<HeaderValue>), UpstreamError> {
        // Each time: an address in a URL asks no resolver, and where the API server is may have been learned since.
        self.tiers.check_url(&self.key.url)?;
        let loaded = self.access.load();
        let access = Option::<Access>::as_ref(&loaded).ok_or(UpstreamError::CredentialsUnavailable)?;
        Ok((access.client.clone(), access.secrets.authorization.clone()))
    }

    /// Its base URL.
    pub const fn url(&self) -> &Url {
        &self.key.url
    }

    /// How it is asked.
    pub const fn protocol(&self) -> Protocol {
        self.key.protocol
    }

    /// Requests that it has now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How long connecting took last.
    pub fn connect_time(&self) -> Option<Duration> {
        let micros = self.connect_micros.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// It was connected to.
    pub fn connected(&self, connection: &Established) {
        let micros = u64::try_from(connection.took.as_micros()).unwrap_or(u64::MAX).max(1);
        self.connect_micros.store(micros, Ordering::Relaxed);
    }

    /// What its breaker says.
    pub fn breaker_state(&self, now: Duration) -> BreakerState {
        self.breaker().state(now)
    }

    /// Whether its breaker is open.
    pub fn is_left_alone(&self, now: Duration) -> bool {
        self.breaker_state(now) == BreakerState::Open
    }

    /// Has its breaker let a request through.
    pub fn pass(&self, now: Duration, settings: &BreakerSettings) -> Option<Pass> {
        self.breaker().pass(now, settings)
    }

    /// Whether nobody was there last time.
    pub fn was_away(&self) -> bool {
        matches!(*lock(&self.last_failure), Some("ConnectFailed"))
    }

    /// It answered. One that had been left alone begins a new life: what was learned of the old one says little of it.
    pub fn answered(&self, now: Duration) {
        let mut breaker = self.breaker();
        if breaker.state(now) != BreakerState::Closed {
            self.lives.fetch_add(1, Ordering::Relaxed);
            info!(endpoint = %self.label, "a tier's endpoint answers again");
        }
        breaker.answered();
        drop(breaker);
        *lock(&self.last_failure) = None;
    }

    /// Somebody is there again, who is asked next.
    pub fn is_there(&self, now: Duration) {
        self.lives.fetch_add(1, Ordering::Relaxed);
        *lock(&self.last_failure) = None;
        self.breaker().abandoned(now, Pass::Probe);
    }

    /// Which of its lives this is.
    pub fn life(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// It did not answer.
    pub fn failed(&self, now: Duration, pass: Pass, error: &UpstreamError, settings: &BreakerSettings) {
        let Some(weight) = error.weight() else { return self.abandoned(now, pass) };
        let word = if error.is_unconnected() { "ConnectFailed" } else { error.outcome() };
        *lock(&self.last_failure) = Some(word);
        let seed = self.seed.hash_one(now);
        if self.breaker().failed(now, Failure { pass, weight, seed }, settings) {
            let opened = self.opened.fetch_add(1, Ordering::Relaxed);
            if opened == 0 || pass == Pass::Normal {
                warn!(endpoint = %self.label, outcome = word, "a tier's endpoint does not answer; it is left alone for a while");
            }
        }
    }

    /// A request ended that says nothing of it.
    pub fn abandoned(&self, now: Duration, pass: Pass) {
        self.breaker().abandoned(now, pass);
    }

    /// What there is to tell of it.
    pub fn told(&self, now: Duration) -> Told {
        Told {
            breaker: self.breaker_state(now),
            opened: self.opened.load(Ordering::Relaxed),
            in_flight: self.in_flight(),
            connect: self.connect_time(),
            last_failure: *lock(&self.last_failure),
            credentials: lock(&self.complaint).clone(),
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        lock(&self.breaker)
    }
}

/// A request that an endpoint has.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    /// One more, if it may have it.
    pub fn begin(endpoint: &Arc<Endpoint>, most: u32) -> Option<Self> {
        let before = endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        let begun = Self(Arc::clone(endpoint));
        (before < most as usize).then_some(begun)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What holds a value for less than it takes to panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time as breakers and estimates count it.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// From now on.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since then.
    pub fn now(self) -> Duration {
        self.0.elapsed()
    }
}
