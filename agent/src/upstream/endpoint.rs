//! One server of a tier, as this node knows it: its connections, its breaker, what it has to do now. Shared by every model
//! whose policy is of the same namespace, reaches it in the same way, waits as long for it and leaves it alone in the same
//! way: what one policy says of it takes it away from no other.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
use super::route::SAID_FOR;
use super::trouble::{LeftAlone, Trouble};
use crate::pieces::Pieces;

/// What tells endpoints apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    url: Url,
    protocol: Protocol,
    namespace: String,
    wanted: Option<Wanted>,
    breaker: BreakerSettings,
    timeout: Duration,
}

impl EndpointKey {
    /// Of one of a tier's URLs, under a policy of `namespace`.
    pub fn new(url: &Url, remote: &RemoteTier, namespace: &str) -> Self {
        Self {
            url: url.clone(),
            protocol: remote.protocol,
            namespace: namespace.to_owned(),
            wanted: Wanted::of(remote, namespace),
            breaker: remote.breaker,
            timeout: remote.timeout,
        }
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
    /// Held by whoever exchanges that.
    exchange: Mutex<()>,
    complaint: Mutex<Option<String>>,
    breaker: Mutex<Breaker>,
    /// Why it failed last, if it did not answer since.
    trouble: Mutex<Option<Trouble>>,
    /// Nobody could be connected to last time.
    is_away: AtomicBool,
    /// Somebody looks whether it is back.
    is_watched: AtomicBool,
    in_flight: AtomicUsize,
    /// How long connecting took last, in microseconds; 0 before the first.
    connect_micros: AtomicU64,
    /// How often its breaker was opened.
    opened: AtomicU64,
    /// How often it came back.
    lives: AtomicU64,
    /// How often somebody was there again where nobody had been.
    starts: AtomicU64,
    /// When it was last said that it is not asked rightly.
    said_at: Mutex<Option<Duration>>,
    /// Varies the waits of this process.
    seed: RandomState,
}

/// What it is asked with.
#[derive(Debug)]
struct Access {
    secrets: Secrets,
    client: TierClient<Pieces>,
    /// Which client this is.
    number: u64,
}

/// What one request is made with.
#[derive(Debug)]
pub struct Means {
    /// The client.
    pub client: TierClient<Pieces>,
    /// What the request carries.
    pub authorization: Option<HeaderValue>,
    /// Which client it is.
    pub number: u64,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint {}", self.label)
    }
}

/// What there is to tell of it.
#[derive(Clone, Debug)]
pub struct Told {
    /// What its breaker says to a request.
    pub breaker: BreakerState,
    /// How often it was opened.
    pub opened: u64,
    /// Requests that it has now.
    pub in_flight: usize,
    /// How long connecting took last.
    pub connect: Option<Duration>,
    /// Why it failed last, if it did not answer since; else why a model did there.
    pub trouble: Option<Trouble>,
    /// What is wrong with its credentials.
    pub credentials: Option<String>,
    /// Models that do not answer there.
    pub models: Vec<ToldModel>,
}

/// What there is to tell of a model at an endpoint.
#[derive(Clone, Debug)]
pub struct ToldModel {
    /// As this node names it.
    pub model: Arc<str>,
    /// What its own breaker says.
    pub breaker: BreakerState,
    /// Why it failed last, if no outputs came since.
    pub trouble: Option<Trouble>,
}

impl Endpoint {
    /// An endpoint that was not asked yet.
    pub fn new(key: EndpointKey, tiers: &Tiers, credentials: &CredentialsDir) -> Self {
        let label = key.url.as_str().trim_end_matches('/').into();
        let endpoint = Self {
            label,
            tiers: tiers.clone(),
            access: ArcSwap::from_pointee(None),
            exchange: Mutex::default(),
            complaint: Mutex::default(),
            breaker: Mutex::default(),
            trouble: Mutex::default(),
            is_away: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            connect_micros: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            lives: AtomicU64::new(0),
            starts: AtomicU64::new(0),
            said_at: Mutex::default(),
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
        let _alone = lock(&self.exchange);
        let loaded = self.access.load();
        let known = Option::<Access>::as_ref(&loaded);
        let access = read.map_err(|error| error.to_string()).and_then(|secrets| {
            if known.is_some_and(|known| known.secrets == secrets) {
                return Ok(None);
            }
            let client = self.client(&secrets, known)?;
            let number = known.map_or(0, |known| known.number + 1);
            Ok(Some(Access { secrets, client, number }))
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
        self.tiers.client(version, tls).map_err(|error| {
            let file = self.key.wanted.as_ref().and_then(|wanted| wanted.file_of(&error));
            file.map_or_else(|| causes(&error), |file| format!("credentials {file}: {}", causes(&error)))
        })
    }

    /// Makes no use any more of the connections that client `number` keeps: the other side has closed one, and most likely
    /// all of them. Requests that have one keep it.
    pub fn renew(&self, number: u64) {
        let _alone = lock(&self.exchange);
        let loaded = self.access.load();
        if let Some(access) = Option::<Access>::as_ref(&loaded).filter(|access| access.number == number) {
            let (secrets, client) = (access.secrets.clone(), access.client.renewed());
            self.access.store(Arc::new(Some(Access { secrets, client, number: number + 1 })));
        }
    }

    /// What it is asked with.
    pub fn access(&self) -> Result<Means, UpstreamError> {
        // Each time: an address in a URL asks no resolver, and where the API server is may have been learned since.
        self.tiers.check_url(&self.key.url)?;
        let loaded = self.access.load();
        let access = Option::<Access>::as_ref(&loaded).ok_or(UpstreamError::CredentialsUnavailable)?;
        Ok(Means {
            client: access.client.clone(),
            authorization: access.secrets.authorization.clone(),
            number: access.number,
        })
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

    /// What its breaker says to a request: none shows whether somebody is there again where that is looked for without one,
    /// so that none pays for finding out.
    pub fn usable_state(&self, now: Duration) -> BreakerState {
        match self.breaker_state(now) {
            BreakerState::HalfOpen if self.is_away() && self.is_watched() => BreakerState::Open,
            state => state,
        }
    }

    /// Why nothing is sent to it now; none where something is.
    pub fn left_alone(&self, now: Duration) -> Option<LeftAlone> {
        if self.usable_state(now) != BreakerState::Open {
            return None;
        }
        let (left, times) = {
            let breaker = self.breaker();
            (breaker.left(now).unwrap_or_default(), breaker.times())
        };
        let last = lock(&self.trouble).as_ref().map(|trouble| Arc::clone(&trouble.told));
        Some(LeftAlone { model: None, left, times, last })
    }

    /// Has its breaker let a request through that may take so long.
    pub fn pass(&self, now: Duration, settings: &BreakerSettings, timeout: Duration) -> Option<Pass> {
        self.breaker().pass(now, settings, timeout)
    }

    /// Whether nobody was there last time.
    pub fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// Whether somebody looks if it is back.
    pub fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Acquire)
    }

    /// Says whether somebody looks; what was said before.
    pub fn watched(&self, is_watched: bool) -> bool {
        self.is_watched.swap(is_watched, Ordering::AcqRel)
    }

    /// How long until somebody should look whether it is back; none where nobody need look.
    pub fn looked_for_in(&self, now: Duration) -> Option<Duration> {
        let breaker = self.breaker();
        let is_needed = self.is_away() && breaker.state(now) != BreakerState::Closed;
        is_needed.then(|| breaker.left(now).unwrap_or_default())
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
        if self.is_away.swap(false, Ordering::Relaxed) {
            self.starts.fetch_add(1, Ordering::Relaxed);
        }
        *lock(&self.trouble) = None;
    }

    /// Somebody is there again, who is asked next. Who has answered meanwhile was known to be there: what was learned since
    /// stays.
    pub fn is_there(&self, now: Duration, pass: Pass) {
        if self.is_away.swap(false, Ordering::Relaxed) {
            self.lives.fetch_add(1, Ordering::Relaxed);
            self.starts.fetch_add(1, Ordering::Relaxed);
        }
        self.breaker().abandoned(now, pass);
    }

    /// Whether somebody is there cannot be found out without a request.
    pub fn is_unknown(&self, now: Duration, pass: Pass) {
        self.is_away.store(false, Ordering::Relaxed);
        self.breaker().abandoned(now, pass);
    }

    /// Which of its lives this is.
    pub fn life(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// How often somebody was there again where nobody had been.
    pub fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// Any number that varies.
    pub fn seed(&self, now: Duration) -> u64 {
        self.seed.hash_one(now)
    }

    /// Whether it may be said again that it is not asked rightly.
    pub fn may_say(&self, now: Duration) -> bool {
        let mut said = lock(&self.said_at);
        let may = said.is_none_or(|at| now.saturating_sub(at) >= SAID_FOR);
        if may {
            *said = Some(now);
        }
        may
    }

    /// It did not answer; `is_away`: nobody could be connected to. Whether that was said.
    pub fn failed(
        &self,
        now: Duration,
        failure: Failure,
        (trouble, is_away): (&Trouble, bool),
        settings: &BreakerSettings,
    ) -> bool {
        *lock(&self.trouble) = Some(trouble.clone());
        self.is_away.store(is_away, Ordering::Relaxed);
        let mut breaker = self.breaker();
        let (opened, times) = (breaker.failed(now, failure, settings), breaker.times());
        drop(breaker);
        if opened && (self.opened.fetch_add(1, Ordering::Relaxed) == 0 || failure.pass == Pass::Normal) {
            warn!(
                endpoint = %self.label, outcome = trouble.reason, times, why = %trouble.message,
                "a tier's endpoint does not answer; it is left alone for a while"
            );
        }
        opened
    }

    /// A request ended that says nothing of it.
    pub fn abandoned(&self, now: Duration, pass: Pass) {
        self.breaker().abandoned(now, pass);
    }

    /// What there is to tell of it, with its models.
    pub fn told(&self, now: Duration, models: Vec<ToldModel>) -> Told {
        let own = lock(&self.trouble).clone();
        let of_models = models.iter().filter_map(|told| told.trouble.clone());
        let trouble = own.or_else(|| of_models.max_by_key(|trouble| trouble.at));
        Told {
            breaker: self.usable_state(now),
            opened: self.opened.load(Ordering::Relaxed),
            in_flight: self.in_flight(),
            connect: self.connect_time(),
            trouble,
            credentials: lock(&self.complaint).clone(),
            models,
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
