//! Reaching other tiers: which endpoint, by which protocol, whether now, and what is learned of it.
//!
//! Called by the executor, for requests that may leave the node and for no others. [`Upstream`] is one a process;
//! a [`Reach`] belongs to one model under one policy and holds on to the [`Endpoint`](endpoint::Endpoint)s that it shares with
//! others. What is skipped, and when it is tried again, `tiering` decides.

mod body;
mod credentials;
pub mod endpoint;
mod error;
mod flight;
mod grpc;
mod hedging;
mod http;
mod outgoing;
mod reach;
mod relayed;
mod route;
mod trouble;
mod watch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use hyper::body::Incoming;
use terrace_crds::Tier;
use terrace_egress::{Egress, Established, Link, Said, TierClient, Tiers, is_stream_reset};
use terrace_tiering::{BreakerState, Fate, Policy, RemoteTier, Unheard, Word};
use url::Url;

use crate::pieces::Pieces;
use crate::rest::body::Limits;

pub use error::UpstreamError;
pub use outgoing::{Original, Outgoing};
pub use reach::{Reach, TierReach};
pub use relayed::{Decoded, GrpcAnswer, Relayed};
pub use route::Route;
pub use trouble::{DOES_NOT_FIT, Trouble};

use credentials::CredentialsDir;
use endpoint::{Clock, Endpoint, EndpointKey, Told, ToldModel, lock};
use hedging::Hedging;

/// Says that a request was forwarded once and must be answered where it arrives.
pub const HOP: HeaderName = HeaderName::from_static("terrace-hop");
/// The time that is left of a request's deadline, in milliseconds.
const MAX_LATENCY: HeaderName = HeaderName::from_static("terrace-max-latency-ms");
/// What every request says of its sender.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("terrace/", env!("CARGO_PKG_VERSION")));

const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
/// More of a trace is not passed on.
const MAX_TRACE_BYTES: usize = 1024;

/// For how long a connection that several requests share may bring nobody an answer, until no more of them are sent by it: who
/// is there may be gone without a word.
const SILENCE: Duration = Duration::from_secs(3);

/// How often credentials are looked at.
const CREDENTIALS_EVERY: Duration = Duration::from_secs(1);

/// Reaches other tiers.
#[derive(Debug)]
pub struct Upstream {
    tiers: Tiers,
    credentials: CredentialsDir,
    /// The largest answer that is read, and where it finds room.
    limits: Limits,
    clock: Clock,
    known: Mutex<Known>,
}

/// What is in use, by what it is asked for.
#[derive(Debug, Default)]
struct Known {
    endpoints: HashMap<EndpointKey, Weak<Endpoint>>,
    routes: HashMap<(Arc<str>, EndpointKey), Weak<Route>>,
    hedging: HashMap<(Arc<str>, Tier), Weak<Hedging>>,
}

/// What is asked of a tier.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The tier that asks.
    pub from: Tier,
    /// The model's name there.
    pub model: &'a str,
    /// The request.
    pub outgoing: &'a Outgoing,
    /// How long the attempt may take.
    pub limit: Duration,
    /// How much of that the deadline leaves, if there is one: what cannot answer in this time is not asked.
    pub allowed: Option<Duration>,
    /// When the answer is due at the caller, if ever.
    pub deadline: Option<Instant>,
    /// The trace that the caller is part of.
    pub trace: Option<&'a Trace>,
    /// Set once a second request is made because the first answer is late: known also where nobody waits for the end.
    pub hedged: &'a AtomicBool,
}

impl Ask<'_> {
    /// The time before the answer is due.
    fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// The trace that a request is part of, as its headers say; passed on as it came.
#[derive(Clone, Debug)]
pub struct Trace {
    parent: HeaderValue,
    state: Option<HeaderValue>,
}

impl Trace {
    /// What headers say.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let of =
            |name| headers.get(name).filter(|value: &&HeaderValue| value.len() <= MAX_TRACE_BYTES).cloned();
        Some(Self { parent: of(TRACE_PARENT)?, state: of(TRACE_STATE) })
    }
}

impl Upstream {
    /// Takes answers within these limits; finds credentials below a folder.
    pub fn new(egress: &Egress, credentials: Option<PathBuf>, limits: Limits) -> Self {
        Self {
            tiers: egress.tiers(),
            credentials: CredentialsDir::new(credentials),
            limits,
            clock: Clock::start(),
            known: Mutex::default(),
        }
    }

    /// How the tiers of a model's policy are reached. What was learned of those that are in use already stays, and so does
    /// what may be asked twice.
    pub fn reach(&self, namespace: &str, model: &Arc<str>, policy: &Policy) -> Reach {
        let mut known = lock(&self.known);
        known.endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
        known.routes.retain(|_, route| route.strong_count() > 0);
        known.hedging.retain(|_, hedging| hedging.strong_count() > 0);
        drop(known);
        let route = |url: &Url, remote: &RemoteTier| {
            let key = EndpointKey::new(url, remote, namespace);
            let place = (Arc::clone(model), key.clone());
            let known = lock(&self.known).routes.get(&place).and_then(Weak::upgrade);
            if let Some(route) = known {
                route.under_another_policy();
                return route;
            }
            let route = Arc::new(Route::new(self.endpoint(key), Arc::clone(model)));
            lock(&self.known).routes.insert(place, Arc::downgrade(&route));
            route
        };
        let hedging = |tier| {
            let mut known = lock(&self.known);
            let kept = known.hedging.entry((Arc::clone(model), tier)).or_default();
            kept.upgrade().unwrap_or_else(|| {
                let hedging = Arc::default();
                *kept = Arc::downgrade(&hedging);
                hedging
            })
        };
        Reach::new(policy, route, hedging)
    }

    /// The endpoint that is asked so. A new one reads its credentials, which may take its time, while nobody is kept waiting
    /// who asks for another one.
    fn endpoint(&self, key: EndpointKey) -> Arc<Endpoint> {
        let known = lock(&self.known).endpoints.get(&key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let new = Arc::new(Endpoint::new(key.clone(), &self.tiers, &self.credentials));
            let mut known = lock(&self.known);
            let kept = known.endpoints.entry(key).or_default();
            // Somebody else may have been faster.
            kept.upgrade().unwrap_or_else(|| {
                *kept = Arc::downgrade(&new);
                new
            })
        })
    }

    /// Reads credentials again and again, as long as the agent lives: they are exchanged before they expire.
    pub async fn follow_credentials(&self) -> Result<(), tokio::task::JoinError> {
        loop {
            tokio::time::sleep(CREDENTIALS_EVERY).await;
            let endpoints: Vec<_> =
                self.endpoints().into_iter().filter(|endpoint| endpoint.has_credentials()).collect();
            if !endpoints.is_empty() {
                let credentials = self.credentials.clone();
                let read =
                    move || endpoints.iter().for_each(|endpoint| endpoint.read_credentials(&credentials));
                tokio::task::spawn_blocking(read).await?;
            }
        }
    }

    /// Every endpoint in use, and what there is to tell of it.
    pub fn told(&self) -> Vec<(Arc<str>, Told)> {
        let now = self.clock.now();
        let (endpoints, routes) = {
            let known = lock(&self.known);
            let endpoints: Vec<_> = known.endpoints.values().filter_map(Weak::upgrade).collect();
            let routes: Vec<_> = known.routes.values().filter_map(Weak::upgrade).collect();
            (endpoints, routes)
        };
        let mut told: Vec<_> = endpoints
            .into_iter()
            .map(|endpoint| {
                let here = routes.iter().filter(|route| Arc::ptr_eq(&route.endpoint, &endpoint));
                let mut models: Vec<ToldModel> = here
                    .map(|route| ToldModel {
                        model: Arc::clone(route.model()),
                        breaker: route.own_state(now),
                        trouble: route.trouble(),
                    })
                    .filter(|told| told.breaker != BreakerState::Closed || told.trouble.is_some())
                    .collect();
                models.sort_by(|one, other| one.model.cmp(&other.model));
                (Arc::clone(&endpoint.label), endpoint.told(now, models))
            })
            .collect();
        told.sort_by(|(one, _), (other, _)| one.cmp(other));
        told
    }

    /// Connections to tiers that are open now.
    pub fn open_connections(&self) -> usize {
        self.tiers.open_connections()
    }

    /// Time as estimates count it.
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        lock(&self.known).endpoints.values().filter_map(Weak::upgrade).collect()
    }
}

/// A request to a tier: a body of a type, and what every request says beside it.
fn post(to: Uri, ask: &Ask<'_>, kind: HeaderValue, body: Pieces) -> Request<Pieces> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = to;
    let fields = request.headers_mut();
    fields.insert(header::CONTENT_TYPE, kind);
    fields.insert(HOP, HeaderValue::from_static(ask.from.as_str()));
    fields.insert(header::USER_AGENT, USER_AGENT);
    fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(left) = ask.left() {
        let text = format!("{:.3}", left.as_secs_f64() * 1e3);
        fields.extend(HeaderValue::try_from(text).ok().map(|value| (MAX_LATENCY, value)));
    }
    if let Some(Trace { parent, state }) = ask.trace {
        fields.insert(TRACE_PARENT, parent.clone());
        fields.extend(state.clone().map(|state| (TRACE_STATE, state)));
    }
    request
}

/// Sends one request, and knows by which connection.
struct Sender {
    client: TierClient<Pieces>,
    endpoint: Arc<Endpoint>,
    link: OnceLock<Link>,
    /// How it ended, where its connection broke before there was an answer.
    fate: OnceLock<Fate>,
}

impl Sender {
    const fn new(client: TierClient<Pieces>, endpoint: Arc<Endpoint>) -> Self {
        Self { client, endpoint, link: OnceLock::new(), fate: OnceLock::new() }
    }

    async fn send(&self, request: Request<Pieces>) -> Result<Response<Incoming>, UpstreamError> {
        let (link, answer) = self.client.send(request);
        let link = self.link.get_or_init(|| link);
        let answer = answer.await;
        let connection = link.established();
        match answer {
            Ok(answer) => {
                if let Some(connection) = connection {
                    self.endpoint.connected(&connection);
                    connection.answered();
                }
                Ok(answer)
            }
            Err(error) => {
                let Some(connection) = connection else { return Err(UpstreamError::unsent(error)) };
                let fate = *self.fate.get_or_init(|| unheard(&connection, link.sent(), &error).fate());
                Err(if fate == Fate::Read && connection.is_cut() {
                    UpstreamError::CutShort(Box::new(error))
                } else {
                    UpstreamError::unsent(error)
                })
            }
        }
    }

    fn is_connected(&self) -> bool {
        self.link.get().is_some_and(|link| link.established().is_some())
    }

    /// Nobody did anything for it, as far as can be told.
    fn lost(&self) -> Option<Fate> {
        self.fate.get().copied().filter(|fate| fate.is_lost())
    }

    /// Whether its connection, by which others go too, has brought nobody an answer for long. To be asked once its own is
    /// not waited for any more.
    fn is_silent(&self) -> bool {
        let known = self.link.get().and_then(|link| Some((link.established()?, link.sent()?)));
        known.is_some_and(|(connection, sent)| connection.is_shared() && connection.missed(sent) >= SILENCE)
    }
}

/// What is known of a request that ended without an answer.
fn unheard(
    connection: &Established,
    sent: Option<Instant>,
    error: &(dyn std::error::Error + 'static),
) -> Unheard {
    let sent = sent.unwrap_or_else(Instant::now);
    Unheard {
        word: match Said::of(error) {
            Some(said) if said.is_refused() => Word::NotBegun,
            // Those that a connection begins with before it ends, it goes on with: they end in another way.
            Some(Said::GoAway(_)) => Word::NotBegun,
            _ if is_stream_reset(error) => Word::Reset,
            _ => Word::None,
        },
        reused: connection.is_reused(sent),
        shared: connection.is_shared(),
        after: sent.elapsed(),
        connect: connection.took,
    }
}

#[cfg(test)]
mod tests;
