//! Which options an execution provider may be given. They reach native code of drivers: no paths, no libraries, no
//! folders to write to, and every value is one of a few or a number within bounds.

use terrace_crds::model::{ExecutionProvider, ProviderName, Runtime};
use terrace_tiering::Fault;

/// As in the CRD's schema.
const MOST: usize = 4;

/// What an option may be.
enum Accepts {
    OneOf(&'static [&'static str]),
    From(u64, u64),
    /// A device as OpenVINO calls it.
    Device,
}

use Accepts::{Device, From, OneOf};

const SWITCH: Accepts = OneOf(&["0", "1"]);
const TRUTH: Accepts = OneOf(&["false", "true"]);
/// GPUs of one machine.
const GPU: Accepts = From(0, 63);
/// A tebibyte.
const MEMORY: Accepts = From(1 << 20, 1 << 40);

const OPENVINO: &[(&str, Accepts)] = &[
    ("device_type", Device),
    ("disable_dynamic_shapes", TRUTH),
    ("enable_opencl_throttling", TRUTH),
    ("num_streams", From(1, 64)),
    ("precision", OneOf(&["ACCURACY", "FP16", "FP32"])),
];
const CUDA: &[(&str, Accepts)] = &[
    ("arena_extend_strategy", OneOf(&["kNextPowerOfTwo", "kSameAsRequested"])),
    ("cudnn_conv_algo_search", OneOf(&["DEFAULT", "EXHAUSTIVE", "HEURISTIC"])),
    ("device_id", GPU),
    ("gpu_mem_limit", MEMORY),
    ("use_tf32", SWITCH),
];
const TENSORRT: &[(&str, Accepts)] = &[
    ("device_id", GPU),
    ("trt_builder_optimization_level", From(0, 5)),
    ("trt_fp16_enable", SWITCH),
    ("trt_max_workspace_size", MEMORY),
];
const QNN: &[(&str, Accepts)] = &[
    ("backend_type", OneOf(&["gpu", "htp"])),
    ("enable_htp_fp16_precision", SWITCH),
    (
        "htp_performance_mode",
        OneOf(&[
            "balanced",
            "burst",
            "default",
            "high_performance",
            "power_saver",
            "sustained_high_performance",
        ]),
    ),
];

/// What a model asks to be run by, without the CPU, which is always the last; and everything that is wrong with it.
pub fn execution_providers(runtime: &Runtime) -> Result<Vec<ExecutionProvider>, Vec<Fault>> {
    const FIELD: &str = "spec.runtime.executionProviders";
    let asked = &runtime.execution_providers;
    let mut faults = Vec::new();
    if asked.len() > MOST {
        faults.push(Fault::new(FIELD, format!("must have at most {MOST} items")));
    }
    if asked.iter().filter(|provider| provider.required).count() > 1 {
        faults.push(Fault::new(
            FIELD,
            "must hold one that is required at most: it and those before it run the whole model",
        ));
    }
    for (number, provider) in asked.iter().enumerate() {
        let field = format!("{FIELD}[{number}]");
        if provider.name == ProviderName::CPU {
            if number + 1 < asked.len() {
                faults.push(Fault::new(
                    format!("{field}.name"),
                    "CPU must be the last: it leaves nothing to those after it",
                ));
            }
            if provider.required || !provider.options.is_empty() {
                faults.push(Fault::new(
                    field,
                    "CPU has no options and need not be required: it is always there, and runtime.threads is for it",
                ));
            }
            continue;
        }
        let known = options(provider.name);
        for (name, value) in &provider.options {
            let field = format!("{field}.options.{name}");
            match known.iter().find(|(known, _)| known == name) {
                None => {
                    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                    faults.push(Fault::new(field, format!("is not known: expected {}", names.join(", "))));
                }
                Some((_, accepts)) => faults.extend(accepts.refuse(value).map(|why| Fault::new(field, why))),
            }
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(asked.iter().filter(|provider| provider.name != ProviderName::CPU).cloned().collect())
}

const fn options(name: ProviderName) -> &'static [(&'static str, Accepts)] {
    match name {
        ProviderName::CPU => &[],
        ProviderName::OpenVINO => OPENVINO,
        ProviderName::CUDA => CUDA,
        ProviderName::TensorRT => TENSORRT,
        ProviderName::QNN => QNN,
    }
}

impl Accepts {
    /// Why a value is not taken.
    fn refuse(&self, value: &str) -> Option<String> {
        match self {
            OneOf(values) => {
                (!values.contains(&value)).then(|| format!("must be one of {}", values.join(", ")))
            }
            From(least, most) => {
                let digits = value.len() <= 20 && value.bytes().all(|byte| byte.is_ascii_digit());
                let number = value.parse::<u64>().ok().filter(|_| digits);
                let fits = number.is_some_and(|number| (*least..=*most).contains(&number));
                (!fits).then(|| format!("must be a whole number from {least} to {most}"))
            }
            Device => (!is_device(value)).then(|| {
                "must be CPU, GPU, GPU.0 to GPU.15, NPU or AUTO (GPU, else NPU, else CPU)".to_owned()
            }),
        }
    }
}

fn is_device(value: &str) -> bool {
    matches!(value, "AUTO" | "CPU" | "GPU" | "NPU")
        || value
            .strip_prefix("GPU.")
            .is_some_and(|number| (0..16_u8).any(|known| known.to_string() == number))
}
