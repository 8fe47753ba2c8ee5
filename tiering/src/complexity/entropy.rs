//! How hard a request is, estimated from its inputs: their Shannon entropy.
//!
//! An input that says little (a blank image, a constant) is easy; one that uses every value is hard. A cheap
//! stand-in for difficulty, not a measure of it.

use std::iter;

/// No more than this many values are looked at, of all inputs together.
const MAX_VISITED: usize = 65_536;
/// Values are sorted into this many bins.
const BINS: usize = 256;
/// Entropy of equally full bins, in bits.
const MAX_BITS: f64 = 8.0;

/// The elements of one input, whatever holds them.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // one variant an element type, named as it
pub enum Elements<'a> {
    Bool(&'a [bool]),
    U8(&'a [u8]),
    U16(&'a [u16]),
    U32(&'a [u32]),
    U64(&'a [u64]),
    I8(&'a [i8]),
    I16(&'a [i16]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    /// The bits of IEEE 754 half precision.
    F16(&'a [u16]),
    /// The bits of bfloat16.
    Bf16(&'a [u16]),
    F32(&'a [f32]),
    F64(&'a [f64]),
    /// Texts, or other strings of bytes.
    Bytes(&'a [Vec<u8>]),
}

/// The entropy of a request's inputs, from 0 (empty, or all the same) to 1 (every value as frequent as any other).
///
/// The finite values of all numeric inputs together are sorted into 256 bins of equal width between their least
/// and their greatest; booleans count as 0 and 1. The bytes of all `Bytes` inputs together are sorted by value.
/// The entropy of either, in bits, is divided by 8. Numbers and bytes have no common scale, so where a request
/// has both, the larger counts.
///
/// Of more than 65,536 values (elements, or bytes of `Bytes` inputs) a sample is taken: the inputs, in order, are
/// cut into at most 65,536 blocks of equal length, and one value of each is looked at, at a place in the block
/// that varies from block to block in a fixed way. So neither rows nor interleaved channels can hide, and the
/// same request always has the same complexity.
pub fn entropy(inputs: &[Elements<'_>]) -> f64 {
    let sample = Sample::of(inputs);
    sample.entropy_of_numbers().max(sample.entropy_of_bytes())
}

impl Elements<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bool(values) => values.len(),
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) | Self::F16(values) | Self::Bf16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Bytes(texts) => texts.iter().map(Vec::len).sum(),
        }
    }
}

/// The values that are looked at: one of every `block`.
struct Sample<'a> {
    inputs: &'a [Elements<'a>],
    block: usize,
}

impl<'a> Sample<'a> {
    fn of(inputs: &'a [Elements<'a>]) -> Self {
        let values: usize = inputs.iter().map(Elements::len).sum();
        Self { inputs, block: values.div_ceil(MAX_VISITED) }
    }

    fn entropy_of_numbers(&self) -> f64 {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        self.each_number(|value| {
            low = if value < low { value } else { low };
            high = if value > high { value } else { high };
        });
        let Some(scale) = Scale::between(low, high) else { return 0.0 };
        let mut histogram = Histogram::default();
        self.each_number(|value| histogram.count(scale.bin(value)));
        histogram.entropy()
    }

    fn entropy_of_bytes(&self) -> f64 {
        let mut histogram = Histogram::default();
        self.each_byte(|byte| histogram.count(byte));
        histogram.entropy()
    }

    /// Visits the finite numbers of the sample.
    fn each_number(&self, mut visit: impl FnMut(f64)) {
        let mut visit = |value: f64| {
            if value.is_finite() {
                visit(value);
            }
        };
        let mut start = 0;
        for input in self.inputs {
            match input {
                Elements::Bool(values) => self.each(values, start, |value| visit(f64::from(u8::from(value)))),
                Elements::U8(values) => self.each(values, start, |value| visit(value.into())),
                Elements::I8(values) => self.each(values, start, |value| visit(value.into())),
                Elements::U16(values) => self.each(values, start, |value| visit(value.into())),
                Elements::I16(values) => self.each(values, start, |value| visit(value.into())),
                Elements::U32(values) => self.each(values, start, |value| visit(value.into())),
                Elements::I32(values) => self.each(values, start, |value| visit(value.into())),
                Elements::U64(values) => self.each(values, start, |value| visit(value as f64)),
                Elements::I64(values) => self.each(values, start, |value| visit(value as f64)),
                Elements::F16(values) => self.each(values, start, |bits| visit(from_f16(bits))),
                Elements::Bf16(values) => self.each(values, start, |bits| visit(from_bf16(bits))),
                Elements::F32(values) => self.each(values, start, |value| visit(value.into())),
                Elements::F64(values) => self.each(values, start, &mut visit),
                Elements::Bytes(_) => {}
            }
            start += input.len();
        }
    }

    /// Visits the bytes of the sample.
    fn each_byte(&self, mut visit: impl FnMut(u8)) {
        let mut start = 0;
        for input in self.inputs {
            if let Elements::Bytes(texts) = input {
                for text in *texts {
                    self.each(text, start, &mut visit);
                    start += text.len();
                }
            } else {
                start += input.len();
            }
        }
    }

    /// Visits those of `values` that belong to the sample; `start` values stand before them.
    fn each<T: Copy>(&self, values: &[T], start: usize, mut visit: impl FnMut(T)) {
        if self.block <= 1 {
            return values.iter().for_each(|value| visit(*value));
        }
        let places = iter::successors(Some(start / self.block), |block| Some(block + 1))
            .map(|block| block * self.block + offset(block) % self.block);
        for place in places.skip_while(|place| *place < start) {
            let Some(value) = values.get(place - start) else { break };
            visit(*value);
        }
    }
}

/// Where in its block a value is taken: a fixed, well-spread function of the block's number.
const fn offset(block: usize) -> usize {
    block.wrapping_mul(0x9E37_79B1) >> 15
}

/// Sorts numbers into bins of equal width.
#[derive(Clone, Copy)]
struct Scale {
    /// Keeps the arithmetic of very large and very small ranges within what an `f64` holds; a power of two.
    factor: f64,
    low: f64,
    bins_per_unit: f64,
}

impl Scale {
    /// `None` where there is nothing to tell apart.
    fn between(low: f64, high: f64) -> Option<Self> {
        const TINY: f64 = 1e-300;
        if high <= low || !low.is_finite() {
            return None;
        }
        let factor = match high - low {
            f64::INFINITY => 0.5,
            range if range < TINY => 2_f64.powi(600),
            _ => 1.0,
        };
        let range = high * factor - low * factor;
        Some(Self { factor, low: low * factor, bins_per_unit: BINS as f64 / range })
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates: the greatest is in the last bin
    fn bin(self, value: f64) -> u8 {
        ((value * self.factor - self.low) * self.bins_per_unit) as u8
    }
}

/// How many values each bin has.
struct Histogram([u32; BINS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BINS])
    }
}

impl Histogram {
    fn count(&mut self, bin: u8) {
        self.0[usize::from(bin)] += 1;
    }

    /// From 0 to 1. With n values in all, and c of them in a bin: log2 n - Σ c log2 c / n bits.
    fn entropy(&self) -> f64 {
        let total = self.0.iter().sum::<u32>();
        if self.0.contains(&total) {
            return 0.0;
        }
        let total = f64::from(total);
        // A bin of one value adds nothing to the sum; small inputs have many.
        let counts = self.0.iter().filter(|count| **count > 1).map(|count| f64::from(*count));
        let bits = total.log2() - counts.map(|count| count * count.log2()).sum::<f64>() / total;
        (bits / MAX_BITS).clamp(0.0, 1.0)
    }
}

/// The value of half-precision bits; what is not finite becomes NaN.
pub(crate) fn from_f16(bits: u16) -> f64 {
    // The same bits, moved to their places in an `f32`, lack the difference of the exponents' offsets: 127 - 15.
    const OFFSET: f32 = f32::from_bits((127 + 112) << 23);
    if bits & 0x7c00 == 0x7c00 {
        return f64::NAN;
    }
    let magnitude = f64::from(f32::from_bits(u32::from(bits & 0x7fff) << 13) * OFFSET);
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

pub(crate) fn from_bf16(bits: u16) -> f64 {
    f32::from_bits(u32::from(bits) << 16).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_of_every_block_is_looked_at_however_inputs_are_cut() {
        let texts = [b"a".to_vec(), b"bc".to_vec()];
        for (inputs, values) in [
            (vec![Elements::U8(&[1])], 1_usize),
            (vec![Elements::U8(&[1]); 65_536], 65_536),
            (vec![Elements::U8(&[1]); 65_537], 65_537),
            (vec![Elements::Bytes(&texts[..1]); 300_000], 300_000),
            ([Elements::Bytes(&texts), Elements::F32(&[0.0; 2])].repeat(70_000), 350_000),
        ] {
            let sample = Sample::of(&inputs);
            let mut visited = 0;
            sample.each_number(|_| visited += 1);
            sample.each_byte(|_| visited += 1);
            assert!(visited <= MAX_VISITED, "{visited} of {values}");
            // The last block may be too short to have a value at its place.
            assert!(visited.abs_diff(values.div_ceil(sample.block)) <= 1, "{visited} of {values}");
        }
    }

    #[test]
    fn half_precision_is_read_as_ieee_754_defines_it() {
        for bits in 0..=u16::MAX {
            let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
            let magnitude = match exponent {
                0 => fraction * 2_f64.powi(-24),
                0x1f => f64::NAN,
                _ => (fraction + 1024.0) * 2_f64.powi(exponent - 25),
            };
            let expected = if bits >> 15 == 0 { magnitude } else { -magnitude };
            let actual = from_f16(bits);
            assert!(
                actual.to_bits() == expected.to_bits() || actual.is_nan() && expected.is_nan(),
                "{bits:#06x}"
            );
        }
    }
}
