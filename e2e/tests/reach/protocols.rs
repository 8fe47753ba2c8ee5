//! Over gRPC, and what travels along.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::manifests::Policy;
use terrace_e2e::relay::Relay;
use terrace_e2e::server::find;
use terrace_e2e::{digits, scenes, upstreams, wait};

use super::{cloudy, grpc, image};

#[tokio::test]
async fn a_tier_that_is_asked_over_grpc_answers_as_over_http() -> Result<()> {
    let (_edge_site, edge) = scenes::tier("Edge", "digits-edge", "digits").await?;
    let (_one, over_http) = scenes::device_under(&Policy::named("near").edge(&scenes::url(&edge))).await?;
    let (_other, over_grpc) =
        scenes::device_under(&Policy::named("near").edge(&grpc(&edge)).having("protocol: GRPC")).await?;
    let asks = [
        Ask::image(image()).complexity(0.5),
        Ask::image(image()).complexity(0.5).parameter("binary_data_output", false),
        Ask::image(image()).complexity(0.5).outputs(&["label"]),
        Ask::images(&digits::test_set().images[..40]).complexity(0.5).id("forty"),
    ];
    for ask in asks {
        let (one, other) =
            (over_http.infer(&ask).await?.answered()?, over_grpc.infer(&ask).await?.answered()?);
        assert_eq!(other.route()?, Route::of("edge", "primary", "ModerateComplexity"));
        assert_eq!(other.outputs()?, one.outputs()?, "{}", ask.body());
        assert_eq!(other.model_version()?, one.model_version()?);
        assert_eq!(other.json()?["id"], one.json()?["id"]);
    }
    // What is wrong with a request, the tier says over gRPC too, and nobody else is asked.
    let wrong = Ask::batch(1, &[0.5; 64]).outputs(&["nonsense"]).complexity(0.5);
    let (one, other) = (over_http.infer(&wrong).await?, over_grpc.infer(&wrong).await?);
    assert_eq!((one.status, other.status), (400, 400), "{}", other.text());
    assert_eq!(one.error()?, other.error()?);
    // The model of another name is not there: not the request's fault, nor the endpoint's.
    Ok(())
}

#[tokio::test]
async fn nothing_private_goes_by_a_warm_connection_over_grpc() -> Result<()> {
    let (_edge_site, edge) = scenes::tier("Edge", "digits-edge", "digits").await?;
    let relay = Relay::before(edge.grpc).await?;
    let policy = Policy::named("near").edge(&relay.url()).having("protocol: GRPC");
    let (_site, device) = scenes::device_under(&policy).await?;
    for _ in 0..3 {
        let open = Ask::image(image()).complexity(0.5).id("open-request").header("traceparent", TRACE);
        assert_eq!(device.infer(&open).await?.answered()?.route()?.tier, "edge");
    }
    assert!(find(&relay.bytes(), b"open-request").is_some(), "the relay would notice");
    // What an idle HTTP/2 connection says of itself comes within a moment.
    let settled = settled(&relay).await?;
    let canary = "canary-77aa01";
    for ask in [
        Ask::image(image()).complexity(0.5).id(canary).private(),
        Ask::image(image()).id(canary).private().header("traceparent", TRACE).header("tracestate", canary),
        Ask::image(image()).id(canary).header("terrace-privacy-required", "true").within(100),
    ] {
        let reply = device.infer(&ask).await?.answered()?;
        assert_eq!(reply.route()?.tier, "device");
    }
    let bytes = relay.bytes();
    assert_eq!(find(&bytes, canary.as_bytes()), None);
    assert_eq!((bytes.len(), relay.connections()), settled, "(bytes, connections) at the edge");
    Ok(())
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn settled(relay: &Relay) -> Result<(usize, usize)> {
    let seen = || (relay.bytes().len(), relay.connections());
    let last = std::cell::Cell::new(seen());
    wait::until("the connection to be quiet", || async {
        let before = last.replace(seen());
        tokio::time::sleep(Duration::from_millis(100)).await;
        ensure!(before == seen() && before == last.get(), "still busy");
        Ok(before)
    })
    .await
}

#[tokio::test]
async fn trace_and_time_travel_along_and_no_compressed_answer_is_asked_for() -> Result<()> {
    let cloud = upstreams::answering().await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").cloud(&cloud.url())).await?;
    let ask = cloudy().within(5_000).header("traceparent", TRACE).header("tracestate", "vendor=1");
    let ask = ask.header("authorization", "Bearer of-the-client").header("x-request-id", "7");
    device.infer(&ask).await?.answered()?;
    device.infer(&cloudy()).await?.answered()?;
    let [seen, bare]: [_; 2] = cloud.requests().try_into().ok().context("not two requests")?;
    assert_eq!(seen.header("traceparent"), Some(TRACE));
    assert_eq!(seen.header("tracestate"), Some("vendor=1"));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    assert_eq!(seen.header("terrace-hop"), Some("device"));
    let left: f64 = seen.header("terrace-max-latency-ms").context("no deadline")?.parse()?;
    assert!((1.0..5_000.0).contains(&left), "{left}");
    for name in ["authorization", "x-request-id"] {
        assert_eq!(seen.header(name), None, "{name} is between the client and this node");
    }
    for name in ["traceparent", "tracestate", "terrace-max-latency-ms"] {
        assert_eq!(bare.header(name), None, "{name}");
    }
    Ok(())
}
