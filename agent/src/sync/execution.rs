//! Execution providers between the API and the engine: what a model asks for, and what a status says of it.

use terrace_crds::model::{ProviderName, Runtime};
use terrace_crds::node::{CpuComparison, ExecutionStatus, PassedOver, PlacedNodes};
use terrace_engine::{Comparison, ExecutionProvider, Placement, ProviderKind, provider};
use terrace_fleet::Fault;

/// What a model asks to be run by; or why that makes no sense to this agent, whatever it made to whoever asks it.
pub fn asked(runtime: &Runtime) -> Result<Vec<ExecutionProvider>, String> {
    let checked = terrace_fleet::execution_providers(runtime);
    let checked =
        checked.map_err(|faults| faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; "))?;
    let provider = |asked: terrace_crds::model::ExecutionProvider| {
        let kind = kind(asked.name)?;
        Some(ExecutionProvider { kind, options: asked.options, required: asked.required })
    };
    Ok(checked.into_iter().filter_map(provider).collect())
}

/// None for what needs not be asked for.
const fn kind(name: ProviderName) -> Option<ProviderKind> {
    match name {
        ProviderName::CPU => None,
        ProviderName::OpenVINO => Some(ProviderKind::OpenVino),
        ProviderName::CUDA => Some(ProviderKind::Cuda),
        ProviderName::TensorRT => Some(ProviderKind::TensorRt),
        ProviderName::QNN => Some(ProviderKind::Qnn),
    }
}

/// The providers without which a model may be tried, after one of them ended the process that tried it: which, of several,
/// is not known, so the first goes. None where there is nothing to go.
pub fn without_first(asked: &[ExecutionProvider]) -> Option<(provider::PassedOver, Vec<ExecutionProvider>)> {
    let (first, rest) = asked.split_first().filter(|(first, _)| !first.required)?;
    let passed = provider::PassedOver {
        provider: first.kind.name().to_owned(),
        device: first.options.get("device_type").cloned(),
        reason: provider::Reason::ProviderFailed,
        message: String::new(),
    };
    Some((passed, rest.to_vec()))
}

/// What a status says of a model that asks for providers.
pub fn status(placement: &Placement, comparison: Option<Comparison>) -> ExecutionStatus {
    ExecutionStatus {
        placed: placement.placed.iter().map(placed).collect(),
        passed_over: placement.passed_over.iter().map(passed_over).collect(),
        compared_with_cpu: comparison.map(|comparison| CpuComparison {
            median_latency: comparison.median.into(),
            cpu_median_latency: comparison.cpu_median.into(),
            max_difference: comparison.max_difference,
        }),
    }
}

fn placed(placed: &provider::Placed) -> PlacedNodes {
    PlacedNodes {
        provider: placed.provider.clone(),
        device: placed.device.clone(),
        nodes: u32::try_from(placed.nodes).unwrap_or(u32::MAX),
    }
}

fn passed_over(passed: &provider::PassedOver) -> PassedOver {
    PassedOver {
        provider: passed.provider.clone(),
        device: passed.device.clone(),
        reason: passed.reason.as_str().to_owned(),
        message: passed.message.clone(),
    }
}
