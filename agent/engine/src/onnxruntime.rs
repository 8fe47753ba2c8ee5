//! ONNX Runtime, loaded from a shared library at run time.

mod providers;

use std::borrow::Cow;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use half::{bf16, f16};
use ort::LoadDynamicError;
use ort::environment::Environment;
use ort::ep::CPU;
use ort::logging::{LogLevel, LoggerFunction};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{RunOptions, SessionInputValue, SessionInputs};
use ort::value::{DynValue, Outlet, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType};
use terrace_oip::{Datatype, Tensor, TensorData};
use tracing::{error, warn};

use crate::provider::{Attempt, Candidate, Placement, ProviderKind, choose};
use crate::validate::{check_inputs, check_outputs};
use crate::{Engine, LoadError, RunError, RuntimeInfo, Session, SessionOptions, Signature, Stop, TensorSpec};

/// Where a model's external data is looked for: below a device there are no files. Without this a model could have any
/// file below the working directory in its outputs, and that directory is `/` under systemd and in containers.
const NOWHERE: &str = "/dev/null";

/// The one environment that a process may have, and the library that it came from.
static OPENED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// ONNX Runtime.
pub struct OnnxRuntime {
    environment: Environment,
    info: RuntimeInfo,
    library: PathBuf,
}

/// Why ONNX Runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The library is missing, is something else, or is too old.
    #[error("ONNX Runtime cannot be loaded from {}: {message}; give the path of libonnxruntime.so 1.24 or newer with --onnxruntime (`tools/onnxruntime` fetches one)", path.display())]
    Library {
        /// The path that was tried.
        path: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// The library was loaded and does not start.
    #[error("ONNX Runtime from {} does not start: {message}", path.display())]
    Environment {
        /// The library.
        path: PathBuf,
        /// What it says.
        message: String,
    },
    /// Another library is in use: a process has one.
    #[error("this process runs ONNX Runtime from {} already", path.display())]
    Another {
        /// The library in use.
        path: PathBuf,
    },
}

impl OnnxRuntime {
    /// Loads the library at `path`. A process has one; asking for the same again gives the same.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        // What it logs of a run repeats values of the request. What it says of a model comes as an error anyway.
        Self::open_logging(path, LogLevel::Fatal, Arc::new(|_, _, _, _, _| ()))
    }

    /// The same for a process that only tries a model: the runtime's errors go to standard error, where its last words
    /// may be all that is known of its end.
    pub(crate) fn open_to_probe(path: &Path) -> Result<Self, OpenError> {
        let log = |level: LogLevel, _: &str, _: &str, _: &str, message: &str| {
            if level >= LogLevel::Error {
                let _nobody_listens = writeln!(io::stderr(), "{}", message.trim_end());
            }
        };
        Self::open_logging(path, LogLevel::Error, Arc::new(log))
    }

    fn open_logging(path: &Path, level: LogLevel, log: LoggerFunction) -> Result<Self, OpenError> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, environment)) = &*opened {
            if !is_same_file(known, path) {
                return Err(OpenError::Another { path: known.clone() });
            }
            return Ok(Self::new(environment.clone(), path));
        }
        let builder = ort::init_from(path)
            .map_err(|error| OpenError::Library { path: path.to_owned(), message: cause(&error, path) })?;
        let environment =
            builder.with_name("terrace").with_telemetry(false).with_logger(log).build().map_err(|error| {
                OpenError::Environment { path: path.to_owned(), message: one_line(&error.to_string()) }
            })?;
        // For a logger that is not its own, it prepares every word down to the verbose ones, unless it is told not to.
        environment.set_log_level(level);
        *opened = Some((path.to_owned(), environment.clone()));
        Ok(Self::new(environment, path))
    }

    fn new(environment: Environment, path: &Path) -> Self {
        let library = loaded_from(path);
        Self { environment, info: info(&library), library }
    }

    /// The file that was loaded. A bare name was looked up by the dynamic linker, as the environment of this process
    /// says; another process might find another one, or none.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The execution providers that the library was built with, of those that can be asked for, and the CPU's.
    pub fn providers(&self) -> Vec<&'static str> {
        let offered = ProviderKind::ALL.into_iter().filter(|kind| providers::is_offered(*kind));
        offered.map(ProviderKind::name).chain([crate::provider::CPU]).collect()
    }

    /// One attempt to load a model with these providers, and the CPU's after them.
    fn attempt(
        &self,
        model: &[u8],
        options: SessionOptions<'_>,
        candidates: &[Candidate],
    ) -> ort::Result<Attempt<ort::session::Session>> {
        let (record, on) = terrace_assignment::RECORD;
        let mut builder = self.builder(options)?.with_config_entry(record, on)?;
        for (place, candidate) in candidates.iter().enumerate() {
            if let Err(error) = providers::register(&mut builder, candidate) {
                let words = one_line(error.message());
                let words = format!("{words}; is there such a device on this machine, and its driver?");
                return Ok(Attempt::NotRegistered(place, words));
            }
        }
        if candidates.iter().any(Candidate::falls_back_unseen) {
            builder = builder.with_disable_cpu_fallback()?;
        } else {
            builder = builder.with_execution_providers([CPU::default().build().error_on_failure()])?;
        }
        match builder.commit_from_memory(model) {
            Ok(session) => {
                let assigned = terrace_assignment::assigned(&session)?;
                let assigned = assigned.into_iter().map(|part| (part.provider, part.nodes)).collect();
                Ok(Attempt::Loaded(session, assigned))
            }
            Err(error) => Ok(Attempt::NotLoaded(one_line(&error.to_string()))),
        }
    }

    fn builder(&self, options: SessionOptions<'_>) -> ort::Result<SessionBuilder> {
        let folder = options.weights.map_or(NOWHERE.into(), Path::to_string_lossy);
        let builder = ort::session::Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(options.threads)?
            .with_inter_threads(1)?
            // Spinning burns a core for tens of milliseconds after every single request.
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            .with_prepacking(options.weights.is_none())?
            .with_config_entry("session.model_external_initializers_file_folder_path", folder)?;
        Ok(builder)
    }
}

impl std::fmt::Debug for OnnxRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxRuntime").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Engine for OnnxRuntime {
    fn runtime(&self) -> &RuntimeInfo {
        &self.info
    }

    fn load(&self, model: &[u8], options: SessionOptions<'_>) -> Result<Box<dyn Session>, LoadError> {
        let refused = |error: ort::Error| LoadError::Refused(one_line(&error.to_string()));
        let open = |candidates: &[Candidate]| self.attempt(model, options, candidates).map_err(refused);
        let (session, placement) = choose(options.providers, options.threads, providers::is_offered, open)?;
        let signature = Signature {
            inputs: specs("input", session.inputs().iter().map(named))?,
            optional: specs(
                "input",
                session.overridable_initializers().iter().map(|input| (input.name(), input.dtype())),
            )?,
            outputs: specs("output", session.outputs().iter().map(named))?,
            provider: placement.provider().to_owned(),
        };
        let options = Arc::new(RunOptions::new().map_err(refused)?);
        Ok(Box::new(OrtSession { session, signature, placement, options }))
    }
}

/// A model that ONNX Runtime loaded.
struct OrtSession {
    session: ort::session::Session,
    signature: Signature,
    placement: Placement,
    /// Of all its runs.
    options: Arc<RunOptions>,
}

impl Stop for RunOptions {
    fn stop(&self) {
        if let Err(error) = self.terminate() {
            warn!(%error, "a run cannot be stopped");
        }
    }

    fn rearm(&self) {
        if let Err(error) = self.unterminate() {
            error!(%error, "a session stays stopped");
        }
    }
}

impl Session for OrtSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn placement(&self) -> Placement {
        self.placement.clone()
    }

    fn run(&mut self, inputs: &[Tensor], outputs: Option<&[String]>) -> Result<Vec<Tensor>, RunError> {
        check_inputs(&self.signature, inputs)?;
        check_outputs(&self.signature, outputs)?;
        let failed = |error: ort::Error| RunError::Failed(one_line(&error.to_string()));
        let values = inputs
            .iter()
            .map(|tensor| Ok((Cow::Borrowed(tensor.name()), input_value(tensor)?)))
            .collect::<ort::Result<Vec<(Cow<'_, str>, SessionInputValue<'_>)>>>()
            .map_err(failed)?;
        let inputs = SessionInputs::<0>::ValueMap(values);
        let ran = self.session.run_with_options(inputs, &self.options).map_err(failed)?;
        let output = |name: &str| output_tensor(name, ran.get(name));
        match outputs {
            Some(wanted) => wanted.iter().map(|name| output(name)).collect(),
            None => self.signature.outputs.iter().map(|spec| output(&spec.name)).collect(),
        }
    }

    fn stopper(&self) -> Arc<dyn Stop> {
        Arc::<RunOptions>::clone(&self.options)
    }
}

/// Where a library that is loaded as `path` lies, if that can be told.
fn loaded_from(path: &Path) -> PathBuf {
    if let Ok(file) = path.canonicalize() {
        return file;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut files = maps.lines().filter_map(|line| line.find('/').map(|start| Path::new(&line[start..])));
    let is_it = |file: &&Path| {
        file.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name)) && !name.is_empty()
    };
    files.find(is_it).map_or_else(|| path.to_owned(), Path::to_owned)
}

/// What is known of a library: the version in its file's name (`libonnxruntime.so.1.32.0`), where it has one, and the
/// build that it says it is.
fn info(path: &Path) -> RuntimeInfo {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let version = name.split_once(".so.").map_or("", |(_, version)| version);
    let build = ort::info().split([' ', ',']).find_map(|word| word.strip_prefix("git-commit-id="));
    let version = format!("{version} build {}", build.unwrap_or("unknown"));
    RuntimeInfo { name: "onnxruntime", version: version.trim().to_owned() }
}

/// Why a library cannot be loaded, without the path: in the loader's own words, which the error keeps to itself.
fn cause(error: &LoadDynamicError, path: &Path) -> String {
    match error {
        LoadDynamicError::Dlopen { error, .. } => {
            let words =
                std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
            let path = format!("{}: ", path.display());
            one_line(words.strip_prefix(&path).unwrap_or(&words))
        }
        LoadDynamicError::MissingApi { .. } => "it is another library".to_owned(),
        LoadDynamicError::InvalidVersionString => "it does not tell its version".to_owned(),
        LoadDynamicError::BadVersion { version_str, .. } => format!("it is version {version_str:?}"),
    }
}

/// Whether two paths lead to one file; where one leads to none, whether they are the same.
fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn named(outlet: &Outlet) -> (&str, &ValueType) {
    (outlet.name(), outlet.dtype())
}

/// Names, types and shapes of inputs or outputs, copied out of the session.
fn specs<'a>(
    what: &'static str,
    outlets: impl Iterator<Item = (&'a str, &'a ValueType)>,
) -> Result<Vec<TensorSpec>, LoadError> {
    outlets.map(|(name, kind)| spec(what, name, kind)).collect()
}

fn spec(what: &'static str, name: &str, kind: &ValueType) -> Result<TensorSpec, LoadError> {
    let unsupported = |kind: String| LoadError::Unsupported { what, name: name.to_owned(), kind };
    match kind {
        ValueType::Tensor { ty, shape, .. } => {
            let datatype = datatype(*ty).ok_or_else(|| unsupported(format!("a tensor of {ty}")))?;
            Ok(TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec() })
        }
        ValueType::Sequence(_) => Err(unsupported("a sequence".to_owned())),
        ValueType::Map { .. } => Err(unsupported("a map".to_owned())),
        ValueType::Optional(_) => Err(unsupported("optional".to_owned())),
    }
}

const fn datatype(element: TensorElementType) -> Option<Datatype> {
    Some(match element {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}

/// The tensor as ONNX Runtime takes it, over the same memory. Strings are copied: it has its own.
fn input_value(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    fn view<'a, T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
        shape: &[usize],
        data: &'a [T],
    ) -> ort::Result<SessionInputValue<'a>> {
        Ok(TensorRef::from_array_view((shape.to_vec(), data))?.into())
    }
    let shape = tensor.shape();
    match tensor.data() {
        TensorData::Bool(data) => view(shape, data),
        TensorData::Uint8(data) => view(shape, data),
        TensorData::Uint16(data) => view(shape, data),
        TensorData::Uint32(data) => view(shape, data),
        TensorData::Uint64(data) => view(shape, data),
        TensorData::Int8(data) => view(shape, data),
        TensorData::Int16(data) => view(shape, data),
        TensorData::Int32(data) => view(shape, data),
        TensorData::Int64(data) => view(shape, data),
        TensorData::Fp16(data) => view(shape, data),
        TensorData::Bf16(data) => view(shape, data),
        TensorData::Fp32(data) => view(shape, data),
        TensorData::Fp64(data) => view(shape, data),
        TensorData::Bytes(data) => {
            let texts: Vec<String> =
                data.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
            Ok(ort::value::Tensor::from_string_array((shape.to_vec(), &*texts))?.into())
        }
    }
}

/// What ONNX Runtime gave, copied out of its memory.
fn output_tensor(name: &str, value: Option<&DynValue>) -> Result<Tensor, RunError> {
    fn copy<T: PrimitiveTensorElementType + Clone, V: From<Vec<T>>>(value: &DynValue) -> ort::Result<V> {
        value.try_extract_tensor::<T>().map(|(_, data)| data.to_vec().into())
    }
    let failed = |error: ort::Error| RunError::Failed(one_line(&error.to_string()));
    let value = value.ok_or_else(|| RunError::Failed(format!("no output {name:?}")))?;
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(RunError::Failed(format!("output {name:?} is no tensor")));
    };
    let data = match datatype(*ty) {
        None => return Err(RunError::Failed(format!("output {name:?} has a type that cannot be carried"))),
        Some(Datatype::Bool) => TensorData::Bool(copy(value).map_err(failed)?),
        Some(Datatype::Uint8) => TensorData::Uint8(copy(value).map_err(failed)?),
        Some(Datatype::Uint16) => TensorData::Uint16(copy(value).map_err(failed)?),
        Some(Datatype::Uint32) => TensorData::Uint32(copy(value).map_err(failed)?),
        Some(Datatype::Uint64) => TensorData::Uint64(copy(value).map_err(failed)?),
        Some(Datatype::Int8) => TensorData::Int8(copy(value).map_err(failed)?),
        Some(Datatype::Int16) => TensorData::Int16(copy(value).map_err(failed)?),
        Some(Datatype::Int32) => TensorData::Int32(copy(value).map_err(failed)?),
        Some(Datatype::Int64) => TensorData::Int64(copy(value).map_err(failed)?),
        Some(Datatype::Fp16) => TensorData::Fp16(copy::<f16, _>(value).map_err(failed)?),
        Some(Datatype::Bf16) => TensorData::Bf16(copy::<bf16, _>(value).map_err(failed)?),
        Some(Datatype::Fp32) => TensorData::Fp32(copy(value).map_err(failed)?),
        Some(Datatype::Fp64) => TensorData::Fp64(copy(value).map_err(failed)?),
        Some(Datatype::Bytes) => {
            let (_, texts) = value.try_extract_strings().map_err(failed)?;
            TensorData::Bytes(texts.into_iter().map(String::into_bytes).collect())
        }
    };
    let shape = shape.iter().map(|dimension| usize::try_from(*dimension)).collect::<Result<_, _>>();
    let shape = shape.map_err(|_| RunError::Failed(format!("output {name:?} has a negative dimension")))?;
    Tensor::new(name, shape, data).map_err(|error| RunError::Failed(error.to_string()))
}
