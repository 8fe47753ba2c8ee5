//! ONNX Runtime's execution providers: which a library offers, and how one is registered.

use ort::ep::{
    ArbitrarilyConfigurableExecutionProvider, CUDA, ExecutionProvider as _, ExecutionProviderDispatch,
    OpenVINO, QNN, TensorRT,
};
use ort::session::builder::SessionBuilder;

use crate::provider::{Candidate, ProviderKind};

/// Whether the library that is loaded was built with a provider.
pub(super) fn is_offered(kind: ProviderKind) -> bool {
    let found = match kind {
        ProviderKind::OpenVino => OpenVINO::is_available(),
        ProviderKind::Cuda => CUDA::is_available(),
        ProviderKind::TensorRt => TensorRT::is_available(),
        ProviderKind::Qnn => QNN::is_available(),
    };
    found.unwrap_or(false)
}

/// Has a session try this provider after those that are registered already.
pub(super) fn register(builder: &mut SessionBuilder, candidate: &Candidate) -> ort::Result<()> {
    let provider = match candidate.kind {
        ProviderKind::OpenVino => configured(OpenVINO::default(), candidate),
        ProviderKind::Cuda => configured(CUDA::default(), candidate),
        ProviderKind::TensorRt => configured(TensorRT::default(), candidate),
        ProviderKind::Qnn => configured(QNN::default(), candidate),
    };
    provider.register(builder)
}

fn configured<P>(provider: P, candidate: &Candidate) -> ExecutionProviderDispatch
where
    P: ArbitrarilyConfigurableExecutionProvider + Into<ExecutionProviderDispatch>,
{
    let with = |provider: P, (name, value)| provider.with_arbitrary_config(name, value);
    candidate.options.iter().fold(provider, with).into()
}
