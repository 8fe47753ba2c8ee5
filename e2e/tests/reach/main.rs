//! Reaching other tiers: by which protocol, as whom, when they are left alone, and that nothing is left behind.

mod bounds;
mod breaker;
mod credentials;
mod protocols;

use terrace_e2e::agent::Agent;
use terrace_e2e::digits;
use terrace_e2e::infer::Ask;

fn image() -> &'static [f32] {
    &digits::test_set().images[0]
}

/// What the default rules give to the cloud.
fn cloudy() -> Ask {
    Ask::image(image()).complexity(0.9)
}

fn grpc(agent: &Agent) -> String {
    format!("http://{}", agent.grpc)
}
