//! Why a message cannot be read or written. Shows names, positions and limits; never a value that the message
//! carries, in `Debug` no more than in `Display`.

use std::fmt::{self, Display, Write as _};

use crate::limits::MAX_NAME_SHOWN;
use crate::tensor::{Datatype, ShapeMismatch};

/// Why a message was refused, and where in it: the sender's fault, always.
///
/// Displays as `inputs[0] ("image").data: element 3: out of range for UINT8`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", location(&.0.path), .0.fault)]
pub struct DecodeError(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    path: String,
    fault: Fault,
}

/// What is wrong at the place that a [`DecodeError`] names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The body is not text.
    #[error("not JSON: the body is not UTF-8 from byte {byte} on")]
    NotUtf8 {
        /// Offset of the first byte that is not.
        byte: usize,
    },
    /// The text is not JSON.
    #[error("not JSON: {problem} at line {line} column {column}")]
    Syntax {
        /// What JSON wants there.
        problem: &'static str,
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
    },
    /// The bytes are no message.
    #[error("not a protobuf message")]
    NotProtobuf,
    /// A field that the protocol requires is not there.
    #[error("missing")]
    Missing,
    /// Another kind of JSON value was expected.
    #[error("expected {expected}, got {found}")]
    Kind {
        /// What the protocol wants, with its article.
        expected: &'static str,
        /// What is there.
        found: JsonKind,
    },
    /// An integer with a fraction or an exponent.
    #[error("expected an integer, got a number with a fraction or an exponent")]
    NotAnInteger,
    /// A dimension that is negative, fractional or too large to count.
    #[error("expected a whole number, 0 or more")]
    NotADimension,
    /// A number that its type cannot hold.
    #[error("out of range for {datatype}")]
    OutOfRange {
        /// The type as the protocol names it.
        datatype: &'static str,
    },
    /// A `datatype` that the protocol does not know.
    #[error("unknown datatype, the known ones are {}", known_datatypes())]
    UnknownDatatype,
    /// The same key twice in one object.
    #[error("given more than once")]
    DuplicateField,
    /// The same name twice in one list.
    #[error("the same name as that of number {first} in this list")]
    DuplicateName {
        /// Index of the first holder.
        first: usize,
    },
    /// More of something than [`crate::limits`] allows.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what, in the plural.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Shape and data disagree about the number of elements.
    #[error(transparent)]
    Shape(#[from] ShapeMismatch),
    /// Nested rows of different lengths.
    #[error("rows of different lengths at depth {depth}")]
    Ragged {
        /// Depth of the rows, from 1.
        depth: usize,
    },
    /// Nested data whose rows are not those of the shape.
    #[error("nested as {nested:?}, but the shape is {shape:?}")]
    Nesting {
        /// Lengths of the rows, outermost first.
        nested: Vec<usize>,
        /// The shape as claimed.
        shape: Vec<usize>,
    },
    /// A tensor says that its elements are binary, and the message has no binary part.
    #[error(
        "its elements are said to be binary, but the message has no header Inference-Header-Content-Length to say where they begin"
    )]
    NoBinary,
    /// The JSON part is said to be longer than the message.
    #[error("Inference-Header-Content-Length is {claimed}, and the body has {actual} bytes")]
    HeaderTooLong {
        /// As claimed.
        claimed: usize,
        /// The length of the body.
        actual: usize,
    },
    /// A tensor claims more of the binary part than there is.
    #[error("binary_data_size is {claimed}, and {left} bytes are left of the body")]
    BinaryTooShort {
        /// As claimed.
        claimed: usize,
        /// What is left.
        left: usize,
    },
    /// The binary part goes on after the last tensor.
    #[error("{bytes} bytes follow that no tensor's binary_data_size accounts for")]
    BinaryTooLong {
        /// How many.
        bytes: usize,
    },
    /// The bytes are not as many as the shape asks for.
    #[error("{actual} bytes are not a {datatype} tensor of shape {shape:?}")]
    BinarySize {
        /// The type as the protocol names it.
        datatype: &'static str,
        /// The shape as claimed.
        shape: Vec<usize>,
        /// How many bytes there are.
        actual: usize,
    },
    /// A byte of a `BOOL` tensor.
    #[error("expected the byte 0 or 1 for a BOOL")]
    NotABoolean,
    /// The length before an element of `BYTES`.
    #[error("its four-byte length runs past the end of the tensor")]
    LengthTooLarge,
    /// Elements both typed and raw.
    #[error("has its elements twice, typed and raw; send one of them")]
    DataTwice,
    /// Raw contents for some inputs only.
    #[error("{raw} raw contents for {inputs} inputs; send raw contents for all or none")]
    RawCount {
        /// How many inputs.
        inputs: usize,
        /// How many raw contents.
        raw: usize,
    },
    /// What it takes in memory is more than there is for it.
    #[error("takes more memory than there is")]
    NoMemory,
    /// A field that the protocol does not have, and a parameter of the request that can only be meant by it.
    #[error("{parameter} belongs in the request's parameters")]
    Misplaced {
        /// The parameter.
        parameter: &'static str,
    },
    /// A datatype that has no typed contents.
    #[error("FP16 and BF16 have no typed contents; send raw_input_contents")]
    OnlyRaw,
}

/// The kinds of JSON values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // JSON's own names
pub enum JsonKind {
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
}

/// Why a message cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// JSON has no NaN and no infinity.
    #[error("output {}: element {element} is not a finite number, which JSON cannot carry", Quoted(.output))]
    NotFinite {
        /// The output's name.
        output: String,
        /// Index of the first such element.
        element: usize,
    },
    /// JSON has no bytes, only text.
    #[error("output {}: element {element} is not UTF-8, which JSON cannot carry", Quoted(.output))]
    NotUtf8 {
        /// The output's name.
        output: String,
        /// Index of the first such element.
        element: usize,
    },
    /// JSON has no NaN and no infinity.
    #[error("parameter {}: not a finite number, which JSON cannot carry", Quoted(.parameter))]
    ParameterNotFinite {
        /// The parameter's name.
        parameter: String,
    },
    /// Nobody waits for it any more.
    #[error("given up: nobody waits for it any more")]
    NotAwaited,
    /// The JSON writer failed.
    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
}

impl DecodeError {
    #[cold]
    pub(crate) fn new(fault: Fault) -> Self {
        Self(Box::new(Inner { path: String::new(), fault }))
    }

    #[cold]
    pub(crate) fn missing(field: &str) -> Self {
        Self::new(Fault::Missing).in_field(field)
    }

    /// What is wrong.
    pub fn fault(&self) -> &Fault {
        &self.0.fault
    }

    /// Where, like `inputs[0] ("image").data: element 3`; empty for the message as a whole.
    pub fn path(&self) -> &str {
        self.0.path.trim_start_matches(OUTERMOST)
    }

    /// A label for metrics, one of a handful.
    pub fn category(&self) -> &'static str {
        match &self.0.fault {
            Fault::NotUtf8 { .. } | Fault::Syntax { .. } | Fault::NotProtobuf => "syntax",
            Fault::Missing
            | Fault::DuplicateField
            | Fault::DuplicateName { .. }
            | Fault::Misplaced { .. } => "field",
            Fault::Kind { .. }
            | Fault::NotAnInteger
            | Fault::NotADimension
            | Fault::OutOfRange { .. }
            | Fault::UnknownDatatype => "value",
            Fault::TooMany { .. } | Fault::NoMemory => "limit",
            Fault::Shape(_) | Fault::Ragged { .. } | Fault::Nesting { .. } => "shape",
            Fault::NoBinary
            | Fault::HeaderTooLong { .. }
            | Fault::BinaryTooShort { .. }
            | Fault::BinaryTooLong { .. }
            | Fault::BinarySize { .. }
            | Fault::NotABoolean
            | Fault::LengthTooLarge
            | Fault::DataTwice
            | Fault::RawCount { .. }
            | Fault::OnlyRaw => "binary",
        }
    }

    // The path is put together while the error leaves the places it names, so reading pays nothing for it.

    #[cold]
    pub(crate) fn in_field(self, key: &str) -> Self {
        if is_plain(key) {
            self.under(format_args!(".{key}"))
        } else {
            self.under(format_args!("[{}]", Quoted(key)))
        }
    }

    #[cold]
    pub(crate) fn in_item(self, index: usize) -> Self {
        self.under(format_args!("[{index}]"))
    }

    #[cold]
    pub(crate) fn in_element(self, index: usize) -> Self {
        self.under(format_args!(": element {index}"))
    }

    #[cold]
    pub(crate) fn in_named(self, name: &str) -> Self {
        self.under(format_args!(" ({})", Quoted(name)))
    }

    fn under(mut self, parent: fmt::Arguments<'_>) -> Self {
        self.0.path.insert_str(0, &parent.to_string());
        self
    }
}

impl From<Fault> for DecodeError {
    fn from(fault: Fault) -> Self {
        Self::new(fault)
    }
}

/// What joins a part of a path to its parent, where it has none.
const OUTERMOST: [char; 2] = ['.', ' '];

fn location(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{}: ", path.trim_start_matches(OUTERMOST)) }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= MAX_NAME_SHOWN
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

fn known_datatypes() -> String {
    Datatype::ALL.map(Datatype::as_str).join(", ")
}

/// A name of the sender's choice, quoted, escaped and cut.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(MAX_NAME_SHOWN) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => {
                write!(f, "{:?}", &self.0[..end])?;
                f.write_char('…')
            }
        }
    }
}

impl Display for JsonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_grows_outwards_and_names_are_quoted_where_they_need_it() {
        let error = DecodeError::new(Fault::Missing).in_field("shape").in_named("im\"age\n").in_item(2);
        assert_eq!(error.in_field("inputs").to_string(), r#"inputs[2] ("im\"age\n").shape: missing"#);
        let error = DecodeError::new(Fault::Missing).in_field("two words").in_field("parameters");
        assert_eq!(error.to_string(), r#"parameters["two words"]: missing"#);
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let error = DecodeError::new(Fault::Missing).in_named(&"ä".repeat(1_000));
        assert_eq!(error.to_string(), format!("(\"{}\"…): missing", "ä".repeat(64)));
    }
}
