//! How one tier is reached over the network: a checked [`RemoteTierSpec`].

use std::time::Duration;

use terrace_crds::Tier;
use terrace_crds::policy::{
    Breaker, Hedge as HedgeSpec, Protocol, RemoteTier as RemoteTierSpec, TierAuth, TierTls,
};
use url::Url;

use crate::breaker::{BreakerSettings, DEFAULT_FAILURES, DEFAULT_MAX_PERIOD, DEFAULT_PERIOD};
use crate::decide::SkipReason;
use crate::place::{Place, Sites};
use crate::policy::Fault;

/// The longest that one attempt at a remote tier may take, unless its policy says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most requests that an endpoint has from a node at once, unless the policy says otherwise.
const DEFAULT_IN_FLIGHT: u32 = 1024;
/// The most of all requests that are sent twice, in percent, unless the policy says otherwise.
const DEFAULT_EXTRA_LOAD: u32 = 5;

/// The longest DNS name.
const MAX_NAME_LENGTH: usize = 253;

/// A tier that is reached over the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteTier {
    /// Where it is, on any node.
    place: Place,
    /// Where it is reached from this node.
    endpoints: Result<Vec<Url>, SkipReason>,
    /// Whether a site's agents are asked over TLS; a URL says so itself.
    is_encrypted: bool,
    /// How they are asked.
    pub protocol: Protocol,
    /// The longest that one attempt may take.
    pub timeout: Duration,
    /// Whom they are trusted by, and as whom they are asked.
    pub tls: TierTls,
    /// As whom they are asked, in each request.
    pub auth: TierAuth,
    /// When one is left alone.
    pub breaker: BreakerSettings,
    /// The most requests that one has from a node at once.
    pub max_in_flight: u32,
    /// When another request follows.
    pub hedge: Option<Hedge>,
}

/// A second request where the first answer is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// How late.
    pub after: Duration,
    /// The most of all requests that are sent twice, in percent.
    pub percent: u32,
}

impl RemoteTier {
    /// Where it is, as the policy says it for every node.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// The base URLs, without `/v2`, of servers that answer alike, at which this node reaches it, in the order in which it was
    /// told of them; never empty. Else why this node does not reach it.
    pub fn endpoints(&self) -> Result<&[Url], SkipReason> {
        self.endpoints.as_deref().map_err(|why| *why)
    }

    /// The same on a node with these sites.
    pub(crate) fn at(self, sites: &Sites) -> Self {
        Self { endpoints: self.place.endpoints(sites, self.protocol, self.is_encrypted), ..self }
    }

    /// The same as a spec, with nothing in it that is so anyway but the time-out: what a policy's hash was before a field
    /// was known, it stays.
    pub(crate) fn to_spec(&self) -> RemoteTierSpec {
        let BreakerSettings { failures, period, max_period } = self.breaker;
        let breaker = Breaker {
            failures: Some(failures).filter(|count| *count != DEFAULT_FAILURES),
            period: Some(period).filter(|period| *period != DEFAULT_PERIOD).map(Into::into),
            max_period: Some(max_period).filter(|period| *period != DEFAULT_MAX_PERIOD).map(Into::into),
        };
        let (url, site) = self.place.to_spec();
        RemoteTierSpec {
            url,
            protocol: Some(self.protocol).filter(|protocol| *protocol != Protocol::default()),
            timeout: Some(self.timeout.into()),
            tls: Some(self.tls.clone())
                .filter(|tls| *tls != TierTls::default() || (site.is_some() && self.is_encrypted)),
            auth: Some(self.auth.clone()).filter(|auth| *auth != TierAuth::default()),
            breaker: Some(breaker).filter(|breaker| *breaker != Breaker::default()),
            max_in_flight: Some(self.max_in_flight).filter(|most| *most != DEFAULT_IN_FLIGHT),
            site,
            hedge: self.hedge.map(|Hedge { after, percent }| HedgeSpec {
                after: after.into(),
                max_extra_load: Some(percent).filter(|percent| *percent != DEFAULT_EXTRA_LOAD),
            }),
        }
    }

    /// Whether anything of it lies in files of the agent.
    pub fn needs_credentials(&self) -> bool {
        let TierTls { authority, server_name: _, client_certificate } = &self.tls;
        authority.is_some() || client_certificate.is_some() || self.auth != TierAuth::default()
    }
}

/// The checked tier, or none; what is wrong joins the faults.
pub(crate) fn remote_tier(
    spec: Option<&RemoteTierSpec>,
    tier: Tier,
    faults: &mut Vec<Fault>,
) -> Option<RemoteTier> {
    let spec = spec?;
    let field = format!("spec.tiers.{tier}");
    let at = |name: &str| format!("{field}.{name}");
    let timeout = positive(spec.timeout, &at("timeout"), faults).unwrap_or(DEFAULT_TIMEOUT);
    let breaker = breaker(spec.breaker.as_ref(), &at("breaker"), faults);
    let max_in_flight =
        within(spec.max_in_flight, 1..=65_536, &at("maxInFlight"), faults).unwrap_or(DEFAULT_IN_FLIGHT);
    let hedge = hedge(spec.hedge.as_ref(), &at("hedge"), faults);
    let tls = spec.tls.clone().unwrap_or_default();
    let auth = spec.auth.clone().unwrap_or_default();
    name(tls.authority.as_ref(), &at("tls.authority"), faults);
    server_name(tls.server_name.as_ref(), &at("tls.serverName"), faults);
    name(tls.client_certificate.as_ref(), &at("tls.clientCertificate"), faults);
    name(auth.bearer.as_ref(), &at("auth.bearer"), faults);
    name(auth.basic.as_ref(), &at("auth.basic"), faults);
    if spec.auth.is_some() && auth.bearer.is_some() == auth.basic.is_some() {
        faults.push(Fault::new(at("auth"), "exactly one of bearer and basic is needed"));
    }
    let protocol = spec.protocol.unwrap_or_default();
    let place = Place::parse(spec, tier, &field, faults)?;
    let url = place.sample();
    if url.as_ref().map_or(spec.tls.is_none(), |url| url.scheme() != "https") {
        if spec.auth.is_some() {
            let why = "needs an https:// url, or tls for a site: credentials are not sent where anyone on the path can read them";
            faults.push(Fault::new(at("auth"), why));
        }
        if spec.tls.is_some() {
            faults.push(Fault::new(at("tls"), "needs an https:// url"));
        }
    }
    if protocol == Protocol::GRPC && url.is_some_and(|url| url.path() != "/") {
        faults.push(Fault::new(at("url"), "must have no path where protocol is GRPC"));
    }
    let is_encrypted = spec.tls.is_some();
    let endpoints = place.endpoints(&Sites::new(), protocol, is_encrypted);
    Some(RemoteTier {
        place,
        endpoints,
        is_encrypted,
        protocol,
        timeout,
        tls,
        auth,
        breaker,
        max_in_flight,
        hedge,
    })
}

fn breaker(spec: Option<&Breaker>, field: &str, faults: &mut Vec<Fault>) -> BreakerSettings {
    let Some(spec) = spec else { return BreakerSettings::default() };
    let period = positive(spec.period, &format!("{field}.period"), faults).unwrap_or(DEFAULT_PERIOD);
    let max_period =
        positive(spec.max_period, &format!("{field}.maxPeriod"), faults).unwrap_or(DEFAULT_MAX_PERIOD);
    let failures = within(spec.failures, 1..=1_000, &format!("{field}.failures"), faults);
    BreakerSettings { failures: failures.unwrap_or(DEFAULT_FAILURES), period, max_period }
}

fn hedge(spec: Option<&HedgeSpec>, field: &str, faults: &mut Vec<Fault>) -> Option<Hedge> {
    let spec = spec?;
    let after = positive(Some(spec.after), &format!("{field}.after"), faults)?;
    let percent = within(spec.max_extra_load, 1..=100, &format!("{field}.maxExtraLoad"), faults);
    Some(Hedge { after, percent: percent.unwrap_or(DEFAULT_EXTRA_LOAD) })
}

/// A DNS name, as in the schema.
fn server_name(name: Option<&String>, field: &str, faults: &mut Vec<Fault>) {
    let is_name = |name: &str| {
        name.len() <= MAX_NAME_LENGTH
            && name.split('.').all(is_label)
            && name.contains(|letter: char| letter.is_ascii_lowercase())
    };
    if name.is_some_and(|name| !is_name(name)) {
        let why = "must be a DNS name in lower case, such as gateway.example, and not an address";
        faults.push(Fault::new(field, why));
    }
}

/// A DNS label in lower case.
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Credentials are folders, so their names must lead nowhere else.
fn name(name: Option<&String>, field: &str, faults: &mut Vec<Fault>) {
    if name.is_some_and(|name| !is_label(name)) {
        let why = "must be a DNS label: at most 63 lower-case letters, digits and hyphens";
        faults.push(Fault::new(field, why));
    }
}

fn within(
    number: Option<u32>,
    range: std::ops::RangeInclusive<u32>,
    field: &str,
    faults: &mut Vec<Fault>,
) -> Option<u32> {
    let number = number?;
    if !range.contains(&number) {
        faults.push(Fault::new(field, format!("must be from {} to {}", range.start(), range.end())));
    }
    Some(number)
}

pub(crate) fn positive(
    duration: Option<terrace_crds::Duration>,
    field: &str,
    faults: &mut Vec<Fault>,
) -> Option<Duration> {
    let duration = Duration::from(duration?);
    if duration.is_zero() {
        faults.push(Fault::new(field, "must be positive"));
    }
    Some(duration)
}

#[cfg(test)]
mod tests {
    use terrace_crds::TierPolicySpec;
    use terrace_crds::policy::Tiers;

    use super::*;
    use crate::policy::Policy;

    fn with_tier(edge: RemoteTierSpec) -> TierPolicySpec {
        TierPolicySpec { tiers: Tiers { edge: Some(edge), cloud: None }, ..TierPolicySpec::default() }
    }

    fn with_edge(url: &str) -> TierPolicySpec {
        with_tier(at(url))
    }

    fn at(url: &str) -> RemoteTierSpec {
        RemoteTierSpec { url: Some(url.to_owned()), ..RemoteTierSpec::default() }
    }

    fn fields(spec: &TierPolicySpec) -> Vec<String> {
        let faults = Policy::parse(spec).err().unwrap_or_default();
        faults.into_iter().map(|fault| fault.field).collect()
    }

    #[allow(clippy::unnecessary_wraps)] // as the field has it
    fn tls(authority: &str, certificate: &str) -> Option<TierTls> {
        let name = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
        Some(TierTls {
            authority: name(authority),
            client_certificate: name(certificate),
            ..TierTls::default()
        })
    }

    #[allow(clippy::unnecessary_wraps)] // as the field has it
    fn named(server_name: &str) -> Option<TierTls> {
        Some(TierTls { server_name: Some(server_name.to_owned()), ..TierTls::default() })
    }

    #[allow(clippy::unnecessary_wraps)] // as the field has it
    fn auth(bearer: Option<&str>, basic: Option<&str>) -> Option<TierAuth> {
        Some(TierAuth { bearer: bearer.map(str::to_owned), basic: basic.map(str::to_owned) })
    }

    #[test]
    fn a_tier_has_five_seconds_unless_it_says_otherwise() {
        let policy = Policy::parse(&with_edge("http://edge:8000")).unwrap();
        let edge = policy.remote(Tier::Edge).unwrap();
        assert_eq!(
            (edge.endpoints().unwrap()[0].as_str(), edge.timeout),
            ("http://edge:8000/", Duration::from_secs(5))
        );
        assert_eq!(policy.remote(Tier::Cloud), None);
    }

    #[test]
    fn urls_are_accepted_and_refused_as_in_the_schema() {
        for url in
            ["http://edge", "https://edge.example:8443/gateway/", "http://[::1]:8000", "http://10.0.0.1"]
        {
            assert_eq!(fields(&with_edge(url)), Vec::<String>::new(), "{url}");
        }
        let long = format!("http://edge/{}", "a".repeat(2048));
        for url in [
            "",
            "edge:8000",
            "ftp://edge",
            "HTTP://edge",
            "http:edge",
            "http://",
            "http:///v2",
            "http://user@edge",
            "http://user:secret@edge",
            "http://@edge",
            "http://edge?key=1",
            "http://edge/?",
            "http://edge#a",
            "http://edge\\@other",
            "http://ed\tge",
            "http://edge /a",
            "http://edge:port",
            &long,
        ] {
            assert_eq!(fields(&with_edge(url)), ["spec.tiers.edge.url"], "{url}");
        }
        assert_eq!(fields(&with_edge("https://gateway.example/a@b")), Vec::<String>::new());
    }

    #[test]
    fn a_fault_does_not_repeat_what_may_be_a_password() {
        let faults = Policy::parse(&with_edge("http://user:hunter2@edge")).unwrap_err();
        assert!(!faults[0].to_string().contains("hunter2"), "{}", faults[0]);
    }

    #[test]
    fn what_a_tier_may_say_is_checked_field_by_field() {
        let https = || at("https://edge");
        let zero = Duration::ZERO.into();
        let breaker = |failures, period, max_period| Some(Breaker { failures, period, max_period });
        for (spec, expected) in [
            (
                RemoteTierSpec { tls: tls("corp", "device"), auth: auth(Some("cloud"), None), ..https() },
                &[][..],
            ),
            (RemoteTierSpec { protocol: Some(Protocol::GRPC), ..at("http://edge:8001") }, &[]),
            (RemoteTierSpec { protocol: Some(Protocol::GRPC), ..at("http://edge/path") }, &["url"]),
            (RemoteTierSpec { tls: tls("corp", ""), ..at("http://edge") }, &["tls"]),
            (RemoteTierSpec { auth: auth(Some("cloud"), None), ..at("http://edge") }, &["auth"]),
            (RemoteTierSpec { auth: auth(None, None), ..https() }, &["auth"]),
            (RemoteTierSpec { auth: auth(Some("a"), Some("b")), ..https() }, &["auth"]),
            (RemoteTierSpec { auth: auth(Some("../../etc"), None), ..https() }, &["auth.bearer"]),
            (RemoteTierSpec { auth: auth(None, Some("A")), ..https() }, &["auth.basic"]),
            (RemoteTierSpec { tls: tls("a/b", "-"), ..https() }, &["tls.authority", "tls.clientCertificate"]),
            (RemoteTierSpec { tls: named("agents.terrace-1.svc"), ..https() }, &[]),
            (RemoteTierSpec { tls: named("gateway"), ..at("http://edge") }, &["tls"]),
            (RemoteTierSpec { tls: named("10.0.0.7"), ..https() }, &["tls.serverName"]),
            (RemoteTierSpec { tls: named("Gateway.example"), ..https() }, &["tls.serverName"]),
            (RemoteTierSpec { tls: named("gateway.example."), ..https() }, &["tls.serverName"]),
            (RemoteTierSpec { tls: named("*.example"), ..https() }, &["tls.serverName"]),
            (RemoteTierSpec { tls: named(""), ..https() }, &["tls.serverName"]),
            (RemoteTierSpec { tls: named(&["a"; 128].join(".")), ..https() }, &["tls.serverName"]),
            (RemoteTierSpec { max_in_flight: Some(0), ..https() }, &["maxInFlight"]),
            (
                RemoteTierSpec { breaker: breaker(Some(0), Some(zero), Some(zero)), ..https() },
                &["breaker.period", "breaker.maxPeriod", "breaker.failures"],
            ),
            (
                RemoteTierSpec {
                    hedge: Some(HedgeSpec { after: zero, max_extra_load: Some(101) }),
                    ..https()
                },
                &["hedge.after", "hedge.maxExtraLoad"],
            ),
        ] {
            let expected: Vec<String> =
                expected.iter().map(|field| format!("spec.tiers.edge.{field}")).collect();
            assert_eq!(fields(&with_tier(spec.clone())), expected, "{spec:?}");
        }
    }

    #[test]
    fn a_tier_at_its_defaults_is_written_as_it_was_before_they_were_known() {
        let explicit = RemoteTierSpec {
            protocol: Some(Protocol::HTTP),
            breaker: Some(Breaker {
                failures: Some(3),
                period: Some(Duration::from_secs(5).into()),
                max_period: Some(Duration::from_secs(60).into()),
            }),
            max_in_flight: Some(1024),
            ..at("https://edge/")
        };
        let written = Policy::parse(&with_tier(explicit)).unwrap().to_spec().tiers.edge.unwrap();
        let timeout = Some(DEFAULT_TIMEOUT.into());
        assert_eq!(written, RemoteTierSpec { timeout, ..at("https://edge/") });
    }

    #[test]
    fn everything_that_a_tier_says_stands_in_its_resolved_spec() {
        let spec = with_tier(RemoteTierSpec {
            protocol: Some(Protocol::GRPC),
            timeout: Some(Duration::from_secs(2).into()),
            tls: tls("corp", "device")
                .map(|tls| TierTls { server_name: Some("gateway.example".to_owned()), ..tls }),
            auth: auth(None, Some("cloud")),
            breaker: Some(Breaker {
                failures: Some(7),
                period: Some(Duration::from_secs(1).into()),
                max_period: None,
            }),
            max_in_flight: Some(9),
            hedge: Some(HedgeSpec { after: Duration::from_millis(20).into(), max_extra_load: Some(10) }),
            ..at("https://edge/")
        });
        let policy = Policy::parse(&spec).unwrap();
        assert_eq!(policy.to_spec().tiers, spec.tiers);
        let edge = policy.remote(Tier::Edge).unwrap();
        assert_eq!((edge.max_in_flight, edge.breaker.failures, edge.needs_credentials()), (9, 7, true));
        assert_eq!(edge.hedge.map(|hedge| hedge.percent), Some(10));
    }

    #[test]
    fn a_servers_name_alone_lies_in_no_file() {
        let policy =
            Policy::parse(&with_tier(RemoteTierSpec { tls: named("gateway"), ..at("https://edge") }));
        let policy = policy.unwrap();
        let edge = policy.remote(Tier::Edge).unwrap();
        assert!(!edge.needs_credentials());
        assert_eq!(edge.tls.server_name.as_deref(), Some("gateway"));
        assert_ne!(policy, Policy::parse(&with_edge("https://edge")).unwrap());
    }
}
