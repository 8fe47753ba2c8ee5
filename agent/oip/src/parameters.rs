//! Parameters of a request, a response or a tensor: scalars by name, in the order in which they came.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::error::{DecodeError, EncodeError, Fault, JsonKind};
use crate::json::Reader;
use crate::limits::MAX_PARAMETERS;

/// One parameter's value. Its `Debug` tells its type, and never the value: it may be private.
#[derive(Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Parameter {
    /// `true` or `false`.
    Bool(bool),
    /// A number written without fraction and exponent.
    Int(i64),
    /// Any other number.
    Double(f64),
    /// A text.
    String(Cow<'static, str>),
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Double(_) => "double",
            Self::String(_) => "string",
        })
    }
}

/// Parameters in order; a name occurs once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters(Vec<(Name, Parameter)>);

/// A parameter's name: one of ours, or what was sent.
type Name = Cow<'static, str>;

impl Parameters {
    /// None yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// None yet, with room for so many.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Sets a name's value, in its old place where it had one; returns the old value.
    pub fn insert(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Parameter>,
    ) -> Option<Parameter> {
        let (name, value) = (name.into(), value.into());
        if let Some((_, known)) = self.0.iter_mut().find(|(known, _)| *known == name) {
            return Some(std::mem::replace(known, value));
        }
        self.0.push((name, value));
        None
    }

    /// Takes a name out.
    pub fn remove(&mut self, name: &str) -> Option<Parameter> {
        let index = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(index).1)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Parameter)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut parameters = Vec::new();
        reader.members(MAX_PARAMETERS, "parameters", |reader, name| {
            parameters.push((name.to_owned().into(), Parameter::read(reader)?));
            Ok(())
        })?;
        Ok(Self(parameters))
    }

    /// JSON can carry them.
    pub(crate) fn check(&self) -> Result<(), EncodeError> {
        let broken =
            self.iter().find(|(_, value)| matches!(value, Parameter::Double(value) if !value.is_finite()));
        broken.map_or(Ok(()), |(name, _)| Err(EncodeError::ParameterNotFinite { parameter: name.to_owned() }))
    }
}

impl Parameter {
    /// The value, where it is a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    /// The value, where it is an integer.
    pub fn as_i64(&self) -> Option<i64> {
        if let Self::Int(value) = self { Some(*value) } else { None }
    }

    /// The value, where it is a number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::Double(value) => Some(*value),
            Self::Bool(_) | Self::String(_) => None,
        }
    }

    /// The value, where it is a text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(value) = self { Some(value) } else { None }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const EXPECTED: &str = "a boolean, a number or a string";
        match reader.kind()? {
            JsonKind::Boolean => reader.boolean().map(Self::Bool),
            JsonKind::String => reader.owned_string().map(|text| Self::String(text.into())),
            JsonKind::Number => {
                let number = reader.number(EXPECTED)?;
                Ok(if number.is_integer() {
                    Self::Int(number.to_integer("an integer parameter (int64)")?)
                } else {
                    Self::Double(number.to_f64("a number parameter (double)")?)
                })
            }
            found @ (JsonKind::Null | JsonKind::Array | JsonKind::Object) => {
                Err(Fault::Kind { expected: EXPECTED, found }.into())
            }
        }
    }
}

impl Serialize for Parameters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<N: Into<Cow<'static, str>>> Extend<(N, Parameter)> for Parameters {
    fn extend<I: IntoIterator<Item = (N, Parameter)>>(&mut self, parameters: I) {
        for (name, value) in parameters {
            self.insert(name, value);
        }
    }
}

impl<N: Into<Cow<'static, str>>> FromIterator<(N, Parameter)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (N, Parameter)>>(parameters: I) -> Self {
        let mut collected = Self::new();
        collected.extend(parameters);
        collected
    }
}

impl IntoIterator for Parameters {
    type Item = (Cow<'static, str>, Parameter);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<bool> for Parameter {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Parameter {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Parameter {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

impl From<String> for Parameter {
    fn from(value: String) -> Self {
        Self::String(value.into())
    }
}

impl From<&'static str> for Parameter {
    fn from(value: &'static str) -> Self {
        Self::String(value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inserting_again_replaces_in_place_and_keeps_the_order() {
        let mut parameters = Parameters::new();
        parameters.insert("tier", "edge");
        parameters.insert("confidence", 0.5);
        assert_eq!(parameters.insert("tier", "cloud"), Some(Parameter::String("edge".into())));
        parameters.insert("attempts", 2);
        assert_eq!(parameters.remove("confidence"), Some(Parameter::Double(0.5)));
        assert_eq!(parameters.get("confidence"), None);
        assert_eq!(serde_json::to_string(&parameters).unwrap(), r#"{"tier":"cloud","attempts":2}"#);
    }

    #[test]
    fn each_scalar_decodes_to_its_own_type_and_converts_to_no_other() {
        let text = r#"{"b":true,"i":-9223372036854775808,"d":1.0,"e":1e3,"s":"a\"b","n":7}"#;
        let parameters = Parameters::read(&mut Reader::new(text)).unwrap();
        assert_eq!(parameters.get("b").and_then(Parameter::as_bool), Some(true));
        assert_eq!(parameters.get("i").and_then(Parameter::as_i64), Some(i64::MIN));
        assert_eq!(parameters.get("d"), Some(&Parameter::Double(1.0)));
        assert_eq!(parameters.get("e"), Some(&Parameter::Double(1_000.0)));
        assert_eq!(parameters.get("s").and_then(Parameter::as_str), Some("a\"b"));
        assert_eq!(parameters.get("n").and_then(Parameter::as_f64), Some(7.0));
        assert_eq!(parameters.get("n").and_then(Parameter::as_bool), None);
        assert_eq!(parameters.get("b").and_then(Parameter::as_f64), None);
        assert_eq!(serde_json::to_string(&parameters).unwrap(), text.replace("1e3", "1000.0"));
    }
}
