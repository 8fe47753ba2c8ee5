//! Elements read as numbers, one at a time or all into a sum.

use crate::complexity::{Elements, from_bf16, from_f16};

impl Elements<'_> {
    /// Whether they are floating-point numbers.
    pub(crate) const fn are_floats(&self) -> bool {
        self.floats().is_some()
    }

    /// How many there are, if they are floating-point numbers.
    pub(crate) const fn floats(&self) -> Option<usize> {
        match self {
            Self::F16(values) | Self::Bf16(values) => Some(values.len()),
            Self::F32(values) => Some(values.len()),
            Self::F64(values) => Some(values.len()),
            _ => None,
        }
    }

    /// One element, if it is a floating-point number.
    pub(crate) fn float(&self, place: usize) -> Option<f64> {
        match self {
            Self::F16(values) => values.get(place).map(|bits| from_f16(*bits)),
            Self::Bf16(values) => values.get(place).map(|bits| from_bf16(*bits)),
            Self::F32(values) => values.get(place).map(|value| f64::from(*value)),
            Self::F64(values) => values.get(place).copied(),
            _ => None,
        }
    }

    /// Whether all of them that are floating-point numbers are so.
    pub(crate) fn all_floats(&self, is_so: impl Fn(f64) -> bool) -> bool {
        match self {
            Self::F16(values) => values.iter().all(|bits| is_so(from_f16(*bits))),
            Self::Bf16(values) => values.iter().all(|bits| is_so(from_bf16(*bits))),
            Self::F32(values) => values.iter().all(|value| is_so(f64::from(*value))),
            Self::F64(values) => values.iter().all(|value| is_so(*value)),
            _ => true,
        }
    }

    /// Adds floating-point numbers, each times `weight`, to as many sums.
    pub(crate) fn add_to(&self, sums: &mut [f64], weight: f64) {
        fn add<T: Copy>(sums: &mut [f64], values: &[T], weight: f64, number: impl Fn(T) -> f64) {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * number(*value));
        }
        match self {
            Self::F16(values) => add(sums, values, weight, from_f16),
            Self::Bf16(values) => add(sums, values, weight, from_bf16),
            Self::F32(values) => add(sums, values, weight, f64::from),
            Self::F64(values) => add(sums, values, weight, |value| value),
            _ => {}
        }
    }

    /// The protocol's name of their type.
    pub(crate) const fn datatype(&self) -> &'static str {
        match self {
            Self::Bool(_) => "BOOL",
            Self::U8(_) => "UINT8",
            Self::U16(_) => "UINT16",
            Self::U32(_) => "UINT32",
            Self::U64(_) => "UINT64",
            Self::I8(_) => "INT8",
            Self::I16(_) => "INT16",
            Self::I32(_) => "INT32",
            Self::I64(_) => "INT64",
            Self::F16(_) => "FP16",
            Self::Bf16(_) => "BF16",
            Self::F32(_) => "FP32",
            Self::F64(_) => "FP64",
            Self::Bytes(_) => "BYTES",
        }
    }
}
