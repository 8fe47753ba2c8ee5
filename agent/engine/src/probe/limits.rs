//! What a child may use, and how it limits itself to it.

use std::io;
use std::time::Duration;

use rustix::process::{
    Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use serde::{Deserialize, Serialize};

use crate::provider::{ExecutionProvider, ProviderKind};

const MIB: u64 = 1 << 20;
/// Memory for each byte of a model, beside what any model may use.
const DATA_PER_BYTE: u64 = 4;
/// Memory for each thread: its stack counts as data.
const DATA_PER_THREAD: u64 = 16 * MIB;
/// How much of a model is worth a second more.
const BYTES_PER_SECOND: u64 = 10 * MIB;
/// How many seconds may pass for one of processor time.
const PATIENCE_PER_SECOND: u64 = 3;

/// What a provider may use beside that, for its own libraries and what it compiles: memory, and seconds of processor time.
/// OpenVINO's on the CPU is measured (docs/standalone.md); the others were not run, and are allowed plenty.
const fn for_provider(kind: ProviderKind) -> (u64, u64) {
    match kind {
        ProviderKind::OpenVino => (512 * MIB, 60),
        ProviderKind::Cuda => (4096 * MIB, 60),
        ProviderKind::TensorRt => (8192 * MIB, 600),
        ProviderKind::Qnn => (2048 * MIB, 300),
    }
}

/// What the child of a model without a byte may use. Larger models get more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory.
    pub data_bytes: u64,
    /// Processor time.
    pub cpu_seconds: u64,
    /// How long it may take, whatever it does meanwhile.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { data_bytes: 512 * MIB, cpu_seconds: 30, patience: Duration::from_secs(100) }
    }
}

impl Limits {
    /// What the child of a model of `size` bytes may use. With providers it is loaded twice: the second time on the CPU, to
    /// compare.
    pub(super) fn of_model(&self, size: u64, threads: usize, providers: &[ExecutionProvider]) -> Allowance {
        let mut allowance = self.of_model_on_cpu(size, threads);
        if !providers.is_empty() {
            let cpu = self.of_model_on_cpu(size, threads);
            allowance.add(cpu.data_bytes, cpu.cpu_seconds);
        }
        for provider in providers {
            let (memory, seconds) = for_provider(provider.kind);
            allowance.add(memory, seconds);
        }
        allowance
    }

    fn of_model_on_cpu(&self, size: u64, threads: usize) -> Allowance {
        let for_size = size.saturating_mul(DATA_PER_BYTE);
        let for_threads = DATA_PER_THREAD.saturating_mul(u64::try_from(threads).unwrap_or(u64::MAX));
        let seconds = size / BYTES_PER_SECOND;
        Allowance {
            data_bytes: self.data_bytes.saturating_add(for_size).saturating_add(for_threads),
            cpu_seconds: self.cpu_seconds.saturating_add(seconds),
            patience: self.patience.saturating_add(Duration::from_secs(seconds * PATIENCE_PER_SECOND)),
        }
    }
}

/// What one child may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Allowance {
    pub data_bytes: u64,
    pub cpu_seconds: u64,
    pub patience: Duration,
}

impl std::fmt::Display for Allowance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MiB of memory and {} s of processor time", self.data_bytes / MIB, self.cpu_seconds)
    }
}

impl Allowance {
    fn add(&mut self, memory: u64, cpu_seconds: u64) {
        self.data_bytes = self.data_bytes.saturating_add(memory);
        self.cpu_seconds = self.cpu_seconds.saturating_add(cpu_seconds);
        let patience = Duration::from_secs(cpu_seconds.saturating_mul(PATIENCE_PER_SECOND));
        self.patience = self.patience.saturating_add(patience);
    }

    /// Limits this process, and ties its life to that of `parent`.
    pub(super) fn impose(&self, parent: u32) -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that ended before that is not noticed by it.
        if getppid().map(|pid| pid.as_raw_nonzero().get()) != i32::try_from(parent).ok() {
            return Err(io::Error::other("the agent that asked is gone"));
        }
        limit(Resource::Core, 0, 0)?;
        limit(Resource::Data, self.data_bytes, self.data_bytes)?;
        // At the first it is told by a signal of its own, which says more than the one that nothing survives.
        limit(Resource::Cpu, self.cpu_seconds, self.cpu_seconds.saturating_add(2))
    }
}

/// Lowers a limit, or leaves it where it is lower already: raising one would need a privilege.
fn limit(resource: Resource, current: u64, maximum: u64) -> io::Result<()> {
    let highest = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let to = Rlimit { current: Some(current.min(highest)), maximum: Some(maximum.min(highest)) };
    Ok(setrlimit(resource, to)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_larger_model_and_more_threads_may_use_more() {
        let limits = Limits::default();
        let seconds = Duration::from_secs;
        for (size, threads, data_mib, cpu_seconds, patience) in [
            (0, 0, 512, 30, seconds(100)),
            (100, 1, 528, 30, seconds(100)),
            (10 * MIB, 1, 512 + 40 + 16, 31, seconds(103)),
            (1000 * MIB, 4, 512 + 4000 + 64, 130, seconds(400)),
        ] {
            let allowance = limits.of_model(size, threads, &[]);
            let Allowance { data_bytes, .. } = allowance;
            assert_eq!((data_bytes / MIB, allowance.cpu_seconds), (data_mib, cpu_seconds));
            assert_eq!(allowance.patience, patience);
        }
        assert_eq!(limits.of_model(u64::MAX, usize::MAX, &[]).data_bytes, u64::MAX);
        let text = limits.of_model(0, 0, &[]).to_string();
        assert_eq!(text, "512 MiB of memory and 30 s of processor time");
        let openvino =
            ExecutionProvider { kind: ProviderKind::OpenVino, options: BTreeMap::new(), required: false };
        let text = limits.of_model(0, 0, &[openvino]).to_string();
        assert_eq!(text, "1536 MiB of memory and 120 s of processor time");
    }
}
