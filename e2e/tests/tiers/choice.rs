//! Who is chosen, and how good its answers are.

use anyhow::Result;
use serde_json::json;
use terrace_e2e::agent::Agent;
use terrace_e2e::digits;
use terrace_e2e::infer::{Ask, Route};

use super::{Three, image, in_time};

/// Shannon entropy of the image over 256 equal bins, as a share of its maximum, by the book.
fn entropy(image: &[f32]) -> f64 {
    let (low, high) = image.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let mut bins = [0_usize; 256];
    for &value in image {
        let place = f64::from(value - low) / f64::from(high - low) * 256.0;
        bins[(place as usize).min(255)] += 1;
    }
    let shares = bins.iter().filter(|count| **count > 0).map(|count| *count as f64 / image.len() as f64);
    shares.map(|share| -share * share.log2()).sum::<f64>() / 8.0
}

#[tokio::test]
async fn the_rules_choose_the_tier_whose_outputs_come_back() -> Result<()> {
    let three = Three::start(|policy| policy).await?;
    let ask = Ask::image(image());
    let outputs = |agent: &Agent, name: &str| {
        let (agent, ask) = (agent.http, ask.clone().model(name));
        async move { terrace_e2e::http::send(agent, &ask.request()).await?.answered()?.outputs() }
    };
    let device = outputs(&three.device, "digits").await?; // its policy lets the edge answer
    let edge = outputs(&three.edge, "digits").await?;
    let cloud = outputs(&three.cloud, "digits-large").await?;
    assert_eq!(device, edge, "an ordinary request goes to the edge");
    let device = three.device.infer(&ask.clone().private()).await?.answered()?.outputs()?;
    assert!(device != edge && edge != cloud && device != cloud, "the tiers' models differ");

    let rows = [
        (ask.clone().private(), "device", "PrivacyRequired"),
        (ask.clone().private().complexity(0.9).within(500), "device", "PrivacyRequired"),
        (ask.clone().complexity(0.29).within(49), "device", "LowComplexityTightDeadline"),
        (ask.clone().complexity(0.3).within(49), "edge", "ModerateDeadline"),
        (ask.clone().complexity(0.1).within(50), "edge", "ModerateDeadline"),
        (ask.clone().complexity(0.1), "edge", "ModerateComplexity"),
        (ask.clone().complexity(0.69).within(200), "edge", "ModerateComplexity"),
        (ask.clone().complexity(0.9).within(199), "edge", "ModerateDeadline"),
        (ask.clone().complexity(0.7).within(200), "cloud", "HighComplexity"),
        (ask.clone().complexity(0.7), "cloud", "HighComplexity"),
        (
            ask.clone().header("terrace-complexity", "1").header("terrace-max-latency-ms", "60000"),
            "cloud",
            "HighComplexity",
        ),
        (ask.clone().parameter("tier", "device"), "device", "RequestedTier"),
        (ask.clone().parameter("tier", "edge").complexity(0.9), "edge", "RequestedTier"),
        (ask.clone().header("terrace-tier", "cloud"), "cloud", "RequestedTier"),
    ];
    for (ask, tier, reason) in rows {
        let reply = in_time(&three.device, &ask).await?;
        assert_eq!(reply.route()?, Route::of(tier, "primary", reason), "{}", ask.body()["parameters"]);
        assert_eq!(reply.walk()?, format!("{tier} Answered"));
        let expected = match tier {
            "device" => &device,
            "edge" => &edge,
            _ => &cloud,
        };
        assert_eq!(&reply.outputs()?, expected, "{tier}");
        assert_eq!(reply.json()?["model_name"], "digits", "{tier}");
    }
    Ok(())
}

#[tokio::test]
async fn complexity_is_measured_from_the_inputs_where_the_request_states_none() -> Result<()> {
    let three = Three::start(|policy| policy).await?;
    for image in &digits::test_set().images[..30] {
        let reply = three.device.infer(&Ask::image(image)).await?.answered()?;
        assert_eq!(reply.route()?, Route::of("edge", "primary", "ModerateComplexity"));
        let measured = reply.parameter("complexity")?.as_f64().unwrap_or(-1.0);
        assert!((measured - entropy(image)).abs() < 1e-9, "{measured}, by the book it is {}", entropy(image));
    }
    // 4096 different values: as hard as it gets. The model takes images of 64 pixels, so there are 64 of them.
    let hard: Vec<f32> = (0_u16..4096).map(f32::from).collect();
    let reply = three.device.infer(&Ask::batch(64, &hard)).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("cloud", "primary", "HighComplexity"));
    assert_eq!(reply.parameter("complexity")?, json!(1.0));
    let constant = three.device.infer(&Ask::image(&[7.0; 64]).within(49)).await?.answered()?;
    assert_eq!(constant.route()?.reason, "LowComplexityTightDeadline");
    assert_eq!(constant.parameter("complexity")?, json!(0.0));
    Ok(())
}

#[tokio::test]
async fn each_tier_is_better_than_the_one_below_it() -> Result<()> {
    let three = Three::start(|policy| policy).await?;
    let set = digits::test_set();
    let mut accuracies = Vec::new();
    for tier in ["device", "edge", "cloud"] {
        let ask = Ask::images(&set.images).parameter("tier", tier);
        let labels = three.device.infer(&ask).await?.answered()?.labels()?;
        accuracies.push(labels.iter().zip(&set.labels).filter(|(label, truth)| label == truth).count());
    }
    assert!(accuracies.is_sorted() && accuracies[0] + 5 < accuracies[1], "{accuracies:?}");
    Ok(())
}
