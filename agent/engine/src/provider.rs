//! Execution providers: what a model asks for, and what became of it. Pure: [`choose`] is told what the library offers and
//! what each attempt gave, and says what to try next, what runs the model, or why nothing may.
//!
//! ```text
//! asked for → not in the library: passed over → open those that are left, in order
//!     → one does not register, or the model does not load: passed over, open again without it
//!     → loaded: who runs how many nodes? → enough for what is required → this is it
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::LoadError;

/// What runs all that nothing else does.
pub const CPU: &str = "CPUExecutionProvider";

/// What AUTO is here, first choice first. OpenVINO's own AUTO does not tell what it chose.
const AUTO: [&str; 3] = ["GPU", "NPU", "CPU"];

/// The most that is told of a provider's words.
const MOST_CHARS: usize = 256;

/// A provider that can be asked for; the CPU is always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProviderKind {
    /// Intel's CPUs, GPUs and NPUs.
    OpenVino,
    /// NVIDIA's GPUs.
    Cuda,
    /// NVIDIA's GPUs, by engines built for each model.
    TensorRt,
    /// Qualcomm's NPUs.
    Qnn,
}

impl ProviderKind {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::OpenVino, Self::Cuda, Self::TensorRt, Self::Qnn];

    /// ONNX Runtime's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenVino => "OpenVINOExecutionProvider",
            Self::Cuda => "CUDAExecutionProvider",
            Self::TensorRt => "TensorrtExecutionProvider",
            Self::Qnn => "QNNExecutionProvider",
        }
    }
}

/// What a model asks to be run by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionProvider {
    /// Which.
    pub kind: ProviderKind,
    /// ONNX Runtime's names of options, and their values. Checked by whoever asks.
    pub options: BTreeMap<String, String>,
    /// It and those before it must run the whole model.
    pub required: bool,
}

/// Where a loaded model runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Who runs how much of it.
    pub placed: Vec<Placed>,
    /// Who was asked for and runs nothing.
    pub passed_over: Vec<PassedOver>,
}

/// A provider and what it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// ONNX Runtime's name of it.
    pub provider: String,
    /// The device, where it is known.
    pub device: Option<String>,
    /// Nodes of the graph.
    pub nodes: usize,
}

/// A provider that runs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// ONNX Runtime's name of it.
    pub provider: String,
    /// The device that was asked for.
    pub device: Option<String>,
    /// Why, as one word.
    pub reason: Reason,
    /// Why, for a person.
    pub message: String,
}

/// Why a provider does not run a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The library was built without it.
    NotInThisVariant,
    /// It does not start: no device, no driver.
    ProviderUnavailable,
    /// The model does not load with it.
    ProviderFailed,
    /// It runs a part of the model alone, and all is required.
    ProviderIncomplete,
    /// It takes no node of the model.
    NoNodes,
}

impl Reason {
    /// For a status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotInThisVariant => "NotInThisVariant",
            Self::ProviderUnavailable => "ProviderUnavailable",
            Self::ProviderFailed => "ProviderFailed",
            Self::ProviderIncomplete => "ProviderIncomplete",
            Self::NoNodes => "NoNodes",
        }
    }

    /// Whether the same may go otherwise later: a device that is plugged in, a driver that is loaded, memory that is free.
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::ProviderUnavailable | Self::ProviderFailed)
    }
}

impl Placement {
    /// Where one provider runs everything, and nothing else was asked for.
    pub fn whole(provider: &str) -> Self {
        let placed = Placed { provider: provider.to_owned(), device: None, nodes: 0 };
        Self { placed: vec![placed], passed_over: Vec::new() }
    }

    /// Who runs most of the model; of equals, the one with the model's first node.
    pub fn provider(&self) -> &str {
        let most = self.placed.iter().rev().max_by_key(|placed| placed.nodes);
        most.map_or(CPU, |placed| &placed.provider)
    }

    /// Whether the CPU provider runs all of it.
    pub fn is_cpu_alone(&self) -> bool {
        self.placed.iter().all(|placed| placed.provider == CPU)
    }

    /// Whether the same model would be placed like this another time, as far as can be known.
    pub fn lasts(&self) -> bool {
        !self.passed_over.iter().any(|passed| passed.reason.may_pass())
    }
}

/// One way in which a provider is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub kind: ProviderKind,
    /// Options, with those that Terrace sets itself.
    pub options: BTreeMap<String, String>,
    /// The device that it runs on, or it does not register.
    pub device: Option<String>,
    required: bool,
}

impl Candidate {
    /// Whether it would have another device run the model without a word, unless whatever it cannot run is refused:
    /// OpenVINO compiles for the CPU what it cannot compile for an NPU.
    pub fn falls_back_unseen(&self) -> bool {
        self.kind == ProviderKind::OpenVino && self.device.as_deref() == Some("NPU")
    }

    fn is_of(&self, provider: &str) -> bool {
        self.kind.name() == provider
    }

    fn passed_over(&self, reason: Reason, words: &str) -> PassedOver {
        let (provider, device) = (self.kind.name().to_owned(), self.device.clone());
        PassedOver { provider, device, reason, message: words.chars().take(MOST_CHARS).collect() }
    }
}

/// What a model asks for, one way at a time: AUTO becomes its devices, and options that are left out and that decide on
/// the device are written out.
fn candidates(asked: &[ExecutionProvider], threads: usize) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for provider in asked {
        let mut add = |mut options: BTreeMap<String, String>, device: Option<&str>, required| {
            let mut set = |name: &str, value: String| options.insert(name.to_owned(), value);
            if provider.kind == ProviderKind::OpenVino && device == Some("CPU") {
                set("num_of_threads", threads.to_string());
            }
            if let Some(device) = device {
                set("device_type", device.to_owned());
            }
            let device = device.map(str::to_owned);
            candidates.push(Candidate { kind: provider.kind, options, device, required });
        };
        let options = provider.options.clone();
        match provider.kind {
            ProviderKind::OpenVino => match provider.options.get("device_type").map(String::as_str) {
                Some("AUTO") => {
                    for device in AUTO {
                        // It is enough that one of them runs it: the last, or one before it.
                        let is_last = Some(&device) == AUTO.last();
                        add(options.clone(), Some(device), provider.required && is_last);
                    }
                }
                device => add(options, Some(device.unwrap_or("CPU")), provider.required),
            },
            ProviderKind::Qnn => {
                let mut options = options;
                options.entry("backend_type".to_owned()).or_insert_with(|| "htp".to_owned());
                add(options, None, provider.required);
            }
            ProviderKind::Cuda | ProviderKind::TensorRt => add(options, None, provider.required),
        }
    }
    candidates
}

/// What became of an attempt.
pub enum Attempt<S> {
    /// The model is loaded, and this runs it.
    Loaded(S, Vec<(String, usize)>),
    /// The provider at this place does not register.
    NotRegistered(usize, String),
    /// All registered, and the model does not load.
    NotLoaded(String),
}

/// Has a model loaded by what it asks for. `open` registers the candidates that it is given, in this order, and loads.
pub fn choose<S>(
    asked: &[ExecutionProvider],
    threads: usize,
    is_offered: impl Fn(ProviderKind) -> bool,
    mut open: impl FnMut(&[Candidate]) -> Result<Attempt<S>, LoadError>,
) -> Result<(S, Placement), LoadError> {
    let mut left = candidates(asked, threads);
    let mut passed_over: Vec<PassedOver> = Vec::new();
    let mut pass_over = |candidate: &Candidate, reason, words: &str| {
        let passed = candidate.passed_over(reason, words);
        if candidate.required {
            return Err(refused(&passed));
        }
        // Told once where a library has none of a provider's devices.
        if reason != Reason::NotInThisVariant
            || !passed_over.iter().any(|known| known.provider == passed.provider)
        {
            passed_over.push(passed);
        }
        Ok(())
    };
    for candidate in &left {
        if !is_offered(candidate.kind) {
            let words = "this agent's ONNX Runtime was built without it: give the agent a library that has it (--onnxruntime)";
            pass_over(candidate, Reason::NotInThisVariant, words)?;
        }
    }
    left.retain(|candidate| is_offered(candidate.kind));
    loop {
        let together = first_of_each(&left);
        let drop_one = |left: &mut Vec<Candidate>, gone: &Candidate| {
            if let Some(place) = left.iter().position(|candidate| candidate == gone) {
                left.remove(place);
            }
        };
        match open(&together)? {
            Attempt::NotRegistered(place, words) => {
                let gone = together.get(place).ok_or(LoadError::Refused(words.clone()))?;
                pass_over(gone, Reason::ProviderUnavailable, &words)?;
                drop_one(&mut left, gone);
            }
            Attempt::NotLoaded(words) => {
                // Which of them failed is not told; the first has the first choice of nodes.
                let gone = together.first().ok_or(LoadError::Refused(words.clone()))?;
                pass_over(gone, Reason::ProviderFailed, &words)?;
                drop_one(&mut left, gone);
            }
            Attempt::Loaded(session, assigned) => {
                let idle = together.iter().find(|candidate| {
                    !assigned.iter().any(|(provider, nodes)| candidate.is_of(provider) && *nodes > 0)
                });
                if let Some(gone) = idle {
                    // Without it the model may be loaded otherwise, and another device of the same provider be tried.
                    drop(session);
                    pass_over(gone, Reason::NoNodes, "it takes no node of this model")?;
                    drop_one(&mut left, gone);
                    continue;
                }
                if let Some((gone, words)) = incomplete(&left, &together, &assigned) {
                    drop(session);
                    pass_over(&gone, Reason::ProviderIncomplete, &words)?;
                    drop_one(&mut left, &gone);
                    continue;
                }
                let placed = assigned.into_iter().map(|(provider, nodes)| {
                    let candidate = together.iter().find(|candidate| candidate.is_of(&provider));
                    let device = candidate.and_then(|candidate| candidate.device.clone());
                    Placed { provider, device, nodes }
                });
                return Ok((session, Placement { placed: placed.collect(), passed_over }));
            }
        }
    }
}

/// Of each provider the first way: a session takes each once.
fn first_of_each(left: &[Candidate]) -> Vec<Candidate> {
    let mut together: Vec<Candidate> = Vec::new();
    for candidate in left {
        if !together.iter().any(|other| other.kind == candidate.kind) {
            together.push(candidate.clone());
        }
    }
    together
}

/// Who is to be passed over, because what is required and those before it do not run the whole model.
fn incomplete(
    left: &[Candidate],
    together: &[Candidate],
    assigned: &[(String, usize)],
) -> Option<(Candidate, String)> {
    let required = left.iter().position(|candidate| candidate.required)?;
    let may = &left[..=required];
    let is_allowed = |provider: &str| {
        together.iter().any(|candidate| candidate.is_of(provider) && may.contains(candidate))
    };
    let count =
        |nodes: &mut dyn Iterator<Item = &(String, usize)>| nodes.map(|(_, nodes)| nodes).sum::<usize>();
    let total = count(&mut assigned.iter());
    let inside = count(&mut assigned.iter().filter(|(provider, _)| is_allowed(provider)));
    if inside == total {
        return None;
    }
    // The last of those that take part: where it has other devices, they come next, and at last what is required itself.
    let gone = together.iter().rev().find(|candidate| may.contains(candidate))?.clone();
    let others: Vec<String> = assigned
        .iter()
        .filter(|(provider, _)| !is_allowed(provider))
        .map(|(provider, nodes)| format!("{nodes} on {provider}"))
        .collect();
    let words = format!("it would run {inside} of the model's {total} nodes, with {}", others.join(", "));
    Some((gone, words))
}

fn refused(passed: &PassedOver) -> LoadError {
    let device = passed.device.as_ref().map(|device| format!(" on {device}")).unwrap_or_default();
    LoadError::Provider {
        reason: passed.reason,
        message: format!("{}{device} is required: {}", passed.provider, passed.message),
    }
}

#[cfg(test)]
mod tests;
