//! What an expression may read: every variable, its type, and how its name is found.

use std::fmt;

use terrace_crds::Tier;

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `true` or `false`
    Bool,
    /// A whole number of 64 bits.
    Int,
    /// A floating-point number of 64 bits.
    Double,
    /// A text.
    Text,
    /// A list of whole numbers.
    Ints,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Double => "double",
            Self::Text => "string",
            Self::Ints => "list(int)",
        })
    }
}

/// What a policy declares for its expressions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declarations<'a> {
    /// The headers that they may read, in lower case.
    pub(crate) headers: &'a [String],
    /// Whether they may read the complexity: not where they say what it is.
    pub(crate) complexity: bool,
}

/// One value that a request, its node, or another tier has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named as in expressions
pub enum Variable {
    PrivacyRequired,
    MaxLatencyMs,
    Complexity,
    Bytes,
    Batch,
    InputCount,
    Input(Box<str>),
    InputShape(Box<str>),
    InputDatatype(Box<str>),
    Header(Box<str>),
    ModelNamespace,
    ModelName,
    ModelLoaded,
    NodeTier,
    Label(Box<str>),
    QueueDepth,
    InFlight,
    PredictedLatencyMs,
    Remote(Tier, RemoteField),
}

/// What is known of another tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named as in expressions
pub enum RemoteField {
    Configured,
    Available,
    RttMs,
    PredictedLatencyMs,
    Breaker,
    InFlight,
}

const REQUEST: [&str; 7] =
    ["privacyRequired", "maxLatencyMs", "complexity", "bytes", "batch", "inputs", "headers"];
const MODEL: [&str; 3] = ["namespace", "name", "loaded"];
const NODE: [&str; 2] = ["tier", "labels"];
const DEVICE: [&str; 3] = ["queueDepth", "inFlight", "predictedLatencyMs"];
const TIERS: [&str; 2] = ["edge", "cloud"];
const REMOTE: [&str; 6] = ["configured", "available", "rttMs", "predictedLatencyMs", "breaker", "inFlight"];
const INPUT: [&str; 2] = ["shape", "datatype"];
/// What an expression begins with.
const ROOTS: [&str; 5] = ["request", "model", "node", "device", "tiers"];

/// A tier, as expressions name it.
const TIER_NAMES: [&str; 3] = ["device", "edge", "cloud"];
const BREAKER_STATES: [&str; 3] = ["closed", "open", "half-open"];
const DATATYPES: [&str; 14] = [
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32",
    "FP64", "BYTES",
];

/// Where a name leads, on the way to a variable.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    Request,
    Model,
    Node,
    Device,
    Tiers,
    Remote(Tier),
    Inputs,
    Headers,
    Labels,
    Input(Box<str>),
    Variable(Variable),
}

impl Place {
    /// What stands at the beginning.
    pub(super) fn root(name: &str) -> Result<Self, String> {
        Ok(match name {
            "request" => Self::Request,
            "model" => Self::Model,
            "node" => Self::Node,
            "device" => Self::Device,
            "tiers" => Self::Tiers,
            _ => return Err(format!("{name} is not known: expected one of {}", ROOTS.join(", "))),
        })
    }

    /// `self.field`
    pub(super) fn field(&self, field: &str, declared: &Declarations<'_>) -> Result<Self, String> {
        if matches!(self, Self::Inputs | Self::Headers | Self::Labels) {
            return self.entry(field, declared);
        }
        let variable = match (self, field) {
            (Self::Request, "privacyRequired") => Variable::PrivacyRequired,
            (Self::Request, "maxLatencyMs") => Variable::MaxLatencyMs,
            (Self::Request, "complexity") if !declared.complexity => {
                return Err("request.complexity is what this expression says; it cannot read it".to_owned());
            }
            (Self::Request, "complexity") => Variable::Complexity,
            (Self::Request, "bytes") => Variable::Bytes,
            (Self::Request, "batch") => Variable::Batch,
            (Self::Request, "inputs") => return Ok(Self::Inputs),
            (Self::Request, "headers") => return Ok(Self::Headers),
            (Self::Model, "namespace") => Variable::ModelNamespace,
            (Self::Model, "name") => Variable::ModelName,
            (Self::Model, "loaded") => Variable::ModelLoaded,
            (Self::Node, "tier") => Variable::NodeTier,
            (Self::Node, "labels") => return Ok(Self::Labels),
            (Self::Device, "queueDepth") => Variable::QueueDepth,
            (Self::Device, "inFlight") => Variable::InFlight,
            (Self::Device, "predictedLatencyMs") => Variable::PredictedLatencyMs,
            (Self::Tiers, "edge") => return Ok(Self::Remote(Tier::Edge)),
            (Self::Tiers, "cloud") => return Ok(Self::Remote(Tier::Cloud)),
            (Self::Remote(tier), _) => match remote_field(field) {
                Some(field) => Variable::Remote(*tier, field),
                None => return Err(self.lacks(field)),
            },
            (Self::Input(name), "shape") => Variable::InputShape(name.clone()),
            (Self::Input(name), "datatype") => Variable::InputDatatype(name.clone()),
            _ => return Err(self.lacks(field)),
        };
        Ok(Self::Variable(variable))
    }

    /// `self['key']`, where there are keys.
    pub(super) fn entry(&self, key: &str, declared: &Declarations<'_>) -> Result<Self, String> {
        match self {
            Self::Inputs => Ok(Self::Input(key.into())),
            Self::Labels => Ok(Self::Variable(Variable::Label(key.into()))),
            Self::Headers => {
                let name = key.to_ascii_lowercase();
                if !declared.headers.contains(&name) {
                    return Err(format!("the header {key} is not among spec.requestHeaders: list it there"));
                }
                Ok(Self::Variable(Variable::Header(name.into())))
            }
            _ => Err(format!("{} has no keys", self.name())),
        }
    }

    /// What it is, for a message.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Request => "request".to_owned(),
            Self::Model => "model".to_owned(),
            Self::Node => "node".to_owned(),
            Self::Device => "device".to_owned(),
            Self::Tiers => "tiers".to_owned(),
            Self::Remote(tier) => format!("tiers.{tier}"),
            Self::Inputs => "request.inputs".to_owned(),
            Self::Headers => "request.headers".to_owned(),
            Self::Labels => "node.labels".to_owned(),
            Self::Input(name) => format!("request.inputs[{name:?}]"),
            Self::Variable(variable) => variable.to_string(),
        }
    }

    /// Why it is no value itself.
    pub(super) fn not_a_value(&self) -> String {
        match self {
            Self::Inputs | Self::Headers | Self::Labels => {
                format!("{0} is no value by itself: name one of its entries, as in {0}['name']", self.name())
            }
            _ => {
                let fields = self.fields().join(", ");
                format!("{} is no value by itself: name one of its fields: {fields}", self.name())
            }
        }
    }

    fn lacks(&self, field: &str) -> String {
        match self.fields() {
            [] => format!("{} has no fields", self.name()),
            fields => format!("{} has no field {field}: expected {}", self.name(), fields.join(", ")),
        }
    }

    const fn fields(&self) -> &'static [&'static str] {
        match self {
            Self::Request => &REQUEST,
            Self::Model => &MODEL,
            Self::Node => &NODE,
            Self::Device => &DEVICE,
            Self::Tiers => &TIERS,
            Self::Remote(_) => &REMOTE,
            Self::Input(_) => &INPUT,
            Self::Inputs | Self::Headers | Self::Labels | Self::Variable(_) => &[],
        }
    }
}

fn remote_field(name: &str) -> Option<RemoteField> {
    Some(match name {
        "configured" => RemoteField::Configured,
        "available" => RemoteField::Available,
        "rttMs" => RemoteField::RttMs,
        "predictedLatencyMs" => RemoteField::PredictedLatencyMs,
        "breaker" => RemoteField::Breaker,
        "inFlight" => RemoteField::InFlight,
        _ => return None,
    })
}

impl Variable {
    /// The type of its value; none of an input, which has fields.
    pub(super) const fn type_of(&self) -> Option<Type> {
        Some(match self {
            Self::PrivacyRequired
            | Self::ModelLoaded
            | Self::Remote(_, RemoteField::Configured | RemoteField::Available) => Type::Bool,
            Self::MaxLatencyMs
            | Self::Complexity
            | Self::PredictedLatencyMs
            | Self::Remote(_, RemoteField::RttMs | RemoteField::PredictedLatencyMs) => Type::Double,
            Self::Bytes
            | Self::Batch
            | Self::InputCount
            | Self::QueueDepth
            | Self::InFlight
            | Self::Remote(_, RemoteField::InFlight) => Type::Int,
            Self::InputDatatype(_)
            | Self::Header(_)
            | Self::ModelNamespace
            | Self::ModelName
            | Self::NodeTier
            | Self::Label(_)
            | Self::Remote(_, RemoteField::Breaker) => Type::Text,
            Self::InputShape(_) => Type::Ints,
            Self::Input(_) => return None,
        })
    }

    /// Every text that it can be, where these are few.
    pub(super) const fn values(&self) -> Option<&'static [&'static str]> {
        match self {
            Self::NodeTier => Some(&TIER_NAMES),
            Self::Remote(_, RemoteField::Breaker) => Some(&BREAKER_STATES),
            Self::InputDatatype(_) => Some(&DATATYPES),
            _ => None,
        }
    }
}

/// The name in expressions.
impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PrivacyRequired => "request.privacyRequired",
            Self::MaxLatencyMs => "request.maxLatencyMs",
            Self::Complexity => "request.complexity",
            Self::Bytes => "request.bytes",
            Self::Batch => "request.batch",
            Self::InputCount => "size(request.inputs)",
            Self::Input(name) => return write!(f, "request.inputs['{name}']"),
            Self::InputShape(name) => return write!(f, "request.inputs['{name}'].shape"),
            Self::InputDatatype(name) => return write!(f, "request.inputs['{name}'].datatype"),
            Self::Header(name) => return write!(f, "request.headers['{name}']"),
            Self::ModelNamespace => "model.namespace",
            Self::ModelName => "model.name",
            Self::ModelLoaded => "model.loaded",
            Self::NodeTier => "node.tier",
            Self::Label(key) => return write!(f, "node.labels['{key}']"),
            Self::QueueDepth => "device.queueDepth",
            Self::InFlight => "device.inFlight",
            Self::PredictedLatencyMs => "device.predictedLatencyMs",
            Self::Remote(tier, field) => {
                let field = match field {
                    RemoteField::Configured => "configured",
                    RemoteField::Available => "available",
                    RemoteField::RttMs => "rttMs",
                    RemoteField::PredictedLatencyMs => "predictedLatencyMs",
                    RemoteField::Breaker => "breaker",
                    RemoteField::InFlight => "inFlight",
                };
                return write!(f, "tiers.{tier}.{field}");
            }
        })
    }
}
