//! Several endpoints of a tier, and what is shared and kept of them.

use std::net::SocketAddr;

use ::http::header::CONTENT_TYPE;
use axum::Router;
use bytes::Bytes;
use terrace_crds::TierPolicySpec;
use terrace_crds::node::{EdgeAddress, NodeSite};
use terrace_crds::policy::Protocol;
use terrace_crds::policy::{Breaker, EdgeSite, Hedge, RemoteTier as Spec, SITE_LABEL, Tiers as SpecTiers};
use terrace_oip::InferRequest;
use terrace_tiering::{Sites, SkipReason};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::*;
use crate::message::Message;
use crate::room::Room;

const REQUEST: &[u8] = br#"{"inputs":[{"name":"x","datatype":"INT64","shape":[1],"data":[1]}]}"#;
const ANSWER: &str =
    r#"{"model_name":"m","outputs":[{"name":"y","datatype":"INT64","shape":[1],"data":[1]}]}"#;

/// A server that answers.
async fn gateway() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers = Router::new().fallback(|| async { ([(CONTENT_TYPE, "application/json")], ANSWER) });
    tokio::spawn(async move { axum::serve(listener, answers).await });
    address
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn upstream() -> Upstream {
    Upstream::new(
        &Egress::new(vec!["127.0.0.0/8".parse().unwrap()]),
        None,
        Limits { bytes: 1 << 20, room: Room::new(1 << 20) },
    )
}

fn policy(edge: Spec) -> Policy {
    let tiers = SpecTiers { edge: Some(edge), cloud: None };
    Policy::parse(&TierPolicySpec { tiers, ..TierPolicySpec::default() }).unwrap()
}

fn breaker(failures: u32) -> Breaker {
    let period = Some(Duration::from_millis(40).into());
    Breaker { failures: Some(failures), period, max_period: period }
}

fn at(url: &str) -> Spec {
    Spec { url: Some(url.to_owned()), ..Spec::default() }
}

/// A policy of a node whose site has these gateways.
fn site(gateways: &[SocketAddr]) -> Policy {
    let edge = gateways.iter().map(|gateway| EdgeAddress {
        node: "gateway".to_owned(),
        address: gateway.ip(),
        http_port: Some(gateway.port()),
        grpc_port: None,
    });
    let sites: Sites =
        [(SITE_LABEL.to_owned(), NodeSite { name: "oslo".to_owned(), edge: edge.collect() })].into();
    policy(Spec { site: Some(EdgeSite::default()), breaker: Some(breaker(1)), ..Spec::default() }).at(&sites)
}

async fn ask(upstream: &Upstream, reach: &Reach) -> Result<Relayed, UpstreamError> {
    let message = Message { bytes: Bytes::from_static(REQUEST), json_length: None };
    let request = InferRequest::from_http(&message.bytes, None).unwrap();
    let outgoing = Outgoing::new(Original::Http(message), &request, [Protocol::HTTP].into_iter()).unwrap();
    let ask = Ask {
        from: Tier::Device,
        model: "m",
        outgoing: &outgoing,
        limit: Duration::from_secs(5),
        allowed: None,
        deadline: None,
        trace: None,
        hedged: &AtomicBool::new(false),
    };
    reach.to(Tier::Edge).unwrap().ask(upstream, ask).await.map(|(relayed, _)| relayed)
}

#[tokio::test]
async fn a_gateway_that_is_gone_takes_no_request_from_the_one_that_answers() {
    let upstream = upstream();
    let reach = upstream.reach("default", &"default.m".into(), &site(&[nobody().await, gateway().await]));
    let begun = Instant::now();
    // Many times over, the time is over for which the one that is gone is left alone.
    while begun.elapsed() < Duration::from_secs(1) {
        let answer = ask(&upstream, &reach).await;
        assert!(answer.is_ok(), "{answer:?} after {:?}", begun.elapsed());
        sleep(Duration::from_millis(3)).await;
    }
    let opened: u64 = upstream.told().iter().map(|(_, told)| told.opened).sum();
    assert!(opened > 3, "it was looked for {opened} times");
}

#[tokio::test]
async fn who_comes_back_is_found_without_a_request() {
    let (upstream, address) = (upstream(), nobody().await);
    let reach = upstream.reach("default", &"default.m".into(), &site(&[address]));
    assert!(matches!(ask(&upstream, &reach).await, Err(UpstreamError::Connect(_))));
    assert!(matches!(ask(&upstream, &reach).await, Err(UpstreamError::LeftAlone(_))));
    let listener = TcpListener::bind(address).await.unwrap();
    let answers = Router::new().fallback(|| async { ([(CONTENT_TYPE, "application/json")], ANSWER) });
    tokio::spawn(async move { axum::serve(listener, answers).await });
    let begun = Instant::now();
    while upstream.told()[0].1.breaker == BreakerState::Open {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody looked");
        sleep(Duration::from_millis(5)).await;
    }
    let answer = ask(&upstream, &reach).await;
    assert!(answer.is_ok(), "{answer:?}");
}

#[tokio::test]
async fn a_site_that_is_not_known_is_said_to_be_that() {
    let upstream = upstream();
    let nowhere = policy(Spec { site: Some(EdgeSite::default()), ..Spec::default() });
    let reach = upstream.reach("default", &"default.m".into(), &nowhere);
    let answer = ask(&upstream, &reach).await;
    assert!(matches!(answer, Err(UpstreamError::Skipped(SkipReason::SiteUnknown))), "{answer:?}");
}

#[tokio::test]
async fn an_endpoint_is_shared_by_whom_nothing_about_it_parts() {
    let upstream = upstream();
    let url = "http://127.0.0.1:9";
    let [one, other] = ["default.one", "default.other"].map(Arc::<str>::from);
    let stricter = policy(Spec { breaker: Some(breaker(1)), ..at(url) });
    let hastier = policy(Spec { timeout: Some(Duration::from_millis(50).into()), ..at(url) });
    let mut reaches = vec![
        upstream.reach("default", &one, &policy(at(url))),
        upstream.reach("default", &other, &policy(at(url))),
    ];
    assert_eq!(upstream.told().len(), 1);
    // What another policy says of breakers and time-outs, and what happens in another namespace, is nothing to these.
    reaches.push(upstream.reach("default", &other, &stricter));
    assert_eq!(upstream.told().len(), 2);
    reaches.push(upstream.reach("default", &other, &hastier));
    assert_eq!(upstream.told().len(), 3);
    reaches.push(upstream.reach("elsewhere", &"elsewhere.one".into(), &policy(at(url))));
    assert_eq!(upstream.told().len(), 4);
    drop(reaches);
    assert_eq!(upstream.told().len(), 0);
}

#[tokio::test]
async fn what_may_be_asked_twice_stays_when_a_policy_changes() {
    let (upstream, model) = (upstream(), Arc::<str>::from("default.m"));
    let hedged = |timeout: u64| {
        let hedge = Some(Hedge { after: Duration::from_millis(5).into(), max_extra_load: None });
        policy(Spec { hedge, timeout: Some(Duration::from_secs(timeout).into()), ..at("http://127.0.0.1:9") })
    };
    let before = upstream.reach("default", &model, &hedged(5));
    let second = |reach: &Reach| reach.to(Tier::Edge).unwrap().hedging().second(|| Some(()));
    for _ in 0..5 {
        assert!(second(&before).is_some());
    }
    let after = upstream.reach("default", &model, &hedged(6));
    drop(before);
    assert!(second(&after).is_none());
}
