//! A number as JSON writes it, and the exact conversion to each element type.

use std::str::FromStr;

use half::{bf16, f16};

use super::reader::NOT_FINITE;
use crate::error::Fault;

/// A number whose syntax is right. Its value is the significand times ten to the exponent, as long as the
/// significand has not overflowed; the text decides otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Number<'a> {
    text: &'a [u8],
    negative: bool,
    /// Modulo 2⁶⁴: the value only up to [`EXACT_DIGITS`] digits.
    significand: u64,
    digits: usize,
    exponent: i64,
    is_integer: bool,
}

/// Any number of so many decimal digits fits an u64.
const EXACT_DIGITS: usize = 19;

/// An exponent that is too long to count: far outside [`POWERS`], so that the text decides.
const FAR: i64 = i64::MAX / 4;

const NO_DIGIT: &str = "expected a digit";

/// The powers of ten that an f64 holds exactly.
pub(crate) const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

impl<'a> Number<'a> {
    /// Reads the number that starts at `start` with a digit or a minus: the number or what is wrong, and where
    /// it ends.
    #[inline]
    pub(super) fn scan(bytes: &'a [u8], start: usize) -> (Result<Self, &'static str>, usize) {
        let is = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
        let mut at = start;
        let mut significand = 0;

        let negative = is(at, b'-');
        at += usize::from(negative);
        let leading_zero = is(at, b'0');
        let mut digits = scan_digits(bytes, &mut at, &mut significand);
        if digits > 1 && leading_zero {
            return (Err("a number with a leading zero"), at);
        }
        if digits == 0 {
            return (Err(if is(at, b'I') { NOT_FINITE } else { NO_DIGIT }), at);
        }

        let mut exponent = 0;
        let mut is_integer = true;
        if is(at, b'.') {
            at += 1;
            is_integer = false;
            let fraction = scan_digits(bytes, &mut at, &mut significand);
            if fraction == 0 {
                return (Err(NO_DIGIT), at);
            }
            digits += fraction;
            exponent = -i64::try_from(fraction).unwrap_or(FAR);
        }
        if is(at, b'e') || is(at, b'E') {
            at += 1;
            is_integer = false;
            let minus = is(at, b'-');
            at += usize::from(minus || is(at, b'+'));
            let mut written = 0;
            let length = scan_digits(bytes, &mut at, &mut written);
            if length == 0 {
                return (Err(NO_DIGIT), at);
            }
            let written = if length > 9 { FAR } else { i64::try_from(written).unwrap_or(FAR) };
            exponent += if minus { -written } else { written };
        }
        let text = &bytes[start..at];
        (Ok(Self { text, negative, significand, digits, exponent, is_integer }), at)
    }

    /// Whether it was written without fraction and exponent.
    pub(crate) fn is_integer(&self) -> bool {
        self.is_integer
    }

    /// As an integer type.
    #[inline]
    pub(crate) fn to_integer<T: TryFrom<i128>>(self, datatype: &'static str) -> Result<T, Fault> {
        if !self.is_integer {
            return Err(Fault::NotAnInteger);
        }
        let value = if self.digits <= EXACT_DIGITS {
            let magnitude = i128::from(self.significand);
            Some(if self.negative { -magnitude } else { magnitude })
        } else {
            self.parse()
        };
        value.and_then(|value| T::try_from(value).ok()).ok_or(Fault::OutOfRange { datatype })
    }

    /// As the nearest f64.
    #[inline]
    pub(crate) fn to_f64(self, datatype: &'static str) -> Result<f64, Fault> {
        let value = match self.small() {
            Some(value) => value,
            None => self.parse().unwrap_or(f64::INFINITY),
        };
        if value.is_finite() { Ok(value) } else { Err(Fault::OutOfRange { datatype }) }
    }

    /// As the nearest f32.
    #[inline]
    pub(crate) fn to_f32(self, datatype: &'static str) -> Result<f32, Fault> {
        if let Some(value) = self.small().and_then(rounded_to_f32) {
            return Ok(value);
        }
        let value: f32 = self.parse().unwrap_or(f32::INFINITY);
        if value.is_finite() { Ok(value) } else { Err(Fault::OutOfRange { datatype }) }
    }

    /// As the nearest f16 to the nearest f64.
    pub(crate) fn to_f16(self, datatype: &'static str) -> Result<f16, Fault> {
        let value = nearest_f16(self.to_f64(datatype)?);
        if value.is_finite() { Ok(value) } else { Err(Fault::OutOfRange { datatype }) }
    }

    /// As the nearest bf16 to the nearest f64.
    pub(crate) fn to_bf16(self, datatype: &'static str) -> Result<bf16, Fault> {
        let value = nearest_bf16(self.to_f64(datatype)?);
        if value.is_finite() { Ok(value) } else { Err(Fault::OutOfRange { datatype }) }
    }

    /// What its text says.
    fn parse<T: FromStr>(&self) -> Option<T> {
        std::str::from_utf8(self.text).ok()?.parse().ok()
    }

    /// The nearest f64, where one exact multiplication or division gives it.
    #[inline]
    fn small(&self) -> Option<f64> {
        if self.digits > EXACT_DIGITS || self.significand > 1 << f64::MANTISSA_DIGITS {
            return None;
        }
        let power = *POWERS.get(usize::try_from(self.exponent.unsigned_abs()).ok()?)?;
        let significand = self.significand as f64;
        let value = if self.exponent < 0 { significand / power } else { significand * power };
        Some(if self.negative { -value } else { value })
    }
}

/// A number that was rounded to f64, at most 2⁵³ · 10²², as the f32 nearest to what it was. Rounding again is right
/// unless it landed in the middle between two f32: then nothing.
#[inline]
#[allow(clippy::cast_possible_truncation)] // rounding is what is wanted
pub(crate) fn rounded_to_f32(value: f64) -> Option<f32> {
    /// The bits of an f64 that an f32 has not, and their value in the middle between two f32.
    const REST: u64 = (1 << 29) - 1;
    const MIDDLE: u64 = 1 << 28;
    (value.to_bits() & REST != MIDDLE).then_some(value as f32)
}

/// The number that starts at `start`, and where the next one does, if it is written as nearly all in long arrays are: few
/// digits, no exponent, a comma right behind it. What is written otherwise, or wrong, is for [`Number::scan`].
///
/// How many digits there are differs from number to number, so nothing here branches on it but what is rare.
#[allow(clippy::inline_always)] // of the innermost loop: a call costs a third of it
#[inline(always)]
pub(super) fn short_decimal(bytes: &[u8], start: usize) -> Option<(f64, usize)> {
    let negative = *bytes.get(start)? == b'-';
    let mut at = start + usize::from(negative);
    let first = bytes.get(at)?.wrapping_sub(b'0');
    let (whole, mut significand) = if first < 10 && bytes.get(at + 1) == Some(&b'.') {
        (1, u64::from(first))
    } else {
        leading_digits(*bytes.get(at..)?.first_chunk()?)
    };
    let is_whole = (1..8).contains(&whole) && (whole == 1 || first != 0);
    at += whole;
    let mut places = 0;
    if *bytes.get(at)? == b'.' {
        let (high, low) = bytes.get(at + 1..)?.first_chunk::<16>()?.split_at(8);
        let ((many, high), (more, low)) =
            (leading_digits(*high.first_chunk()?), leading_digits(*low.first_chunk()?));
        let (more, low) = if many == 8 { (more, low) } else { (0, 0) };
        places = many + more;
        significand = significand.wrapping_mul(TENS[places]).wrapping_add(high * TENS[more] + low);
        at += 1 + places;
        if places == 0 || more == 8 {
            return None;
        }
    }
    let is_short = whole + places <= EXACT_DIGITS && significand <= 1 << f64::MANTISSA_DIGITS;
    if *bytes.get(at)? != b',' || !is_whole || !is_short {
        return None;
    }
    at += 1;
    at += usize::from(*bytes.get(at)? == b' ');
    let value = significand as f64 / POWERS[places];
    Some((if negative { -value } else { value }, at))
}

/// Passes over digits, appending them to the significand; how many.
#[inline]
fn scan_digits(bytes: &[u8], at: &mut usize, significand: &mut u64) -> usize {
    let start = *at;
    while let Some(eight) = bytes.get(*at..).and_then(<[u8]>::first_chunk) {
        let (count, value) = leading_digits(*eight);
        *significand = significand.wrapping_mul(TENS[count]).wrapping_add(value);
        *at += count;
        if count < eight.len() {
            return *at - start;
        }
    }
    while let Some(digit) = bytes.get(*at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        *significand = significand.wrapping_mul(10).wrapping_add(u64::from(digit));
        *at += 1;
    }
    *at - start
}

/// What so many digits more multiply a number by.
const TENS: [u64; 17] = {
    let mut tens = [1; 17];
    let mut power = 1;
    while power < tens.len() {
        tens[power] = 10 * tens[power - 1];
        power += 1;
    }
    tens
};

/// How many of these bytes are digits before the first that is none, and their value: all at once, since how many
/// there are is what a processor cannot guess.
#[allow(clippy::inline_always)] // of the innermost loop: a call costs a third of it
#[inline(always)]
fn leading_digits(bytes: [u8; 8]) -> (usize, u64) {
    /// The same byte eight times.
    const fn eight(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }

    // The first digit in the lowest byte; each is its value now, and anything else more than nine.
    let values = u64::from_le_bytes(bytes) ^ eight(b'0');
    let others = (((values & eight(0x7f)) + eight(0x80 - 10)) | values) & eight(0x80);
    let count = others.trailing_zeros() / 8;
    // Zeros in front, so that there are eight.
    let digits = values.checked_shl(64 - 8 * count).unwrap_or(0);
    // Neighbours become numbers of two digits, these of four, and these of eight.
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let (first, third) = (pairs & 0x0000_00ff_0000_00ff, (pairs >> 16) & 0x0000_00ff_0000_00ff);
    let value =
        first.wrapping_mul(100 + (1_000_000 << 32)).wrapping_add(third.wrapping_mul(1 + (10_000 << 32)));
    (count as usize, value >> 32)
}

/// The f16 nearest to a number, ties to even.
pub(crate) fn nearest_f16(value: f64) -> f16 {
    f16::from_f32(odd_f32(value))
}

/// The bf16 nearest to a number, ties to even.
pub(crate) fn nearest_bf16(value: f64) -> bf16 {
    bf16::from_f32(odd_f32(value))
}

/// Rounds to odd: what is inexact never looks like the middle between two shorter floats, so that rounding once
/// more gives what rounding the f64 at once would give.
#[allow(clippy::cast_possible_truncation)] // rounding is what is wanted
fn odd_f32(value: f64) -> f32 {
    let nearest = value as f32;
    let widened = f64::from(nearest);
    if widened.to_bits() == value.to_bits() || !nearest.is_finite() {
        return nearest;
    }
    let towards_zero = nearest.to_bits() - u32::from(widened.abs() > value.abs());
    f32::from_bits(towards_zero | 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one_by_one(bytes: &[u8]) -> (usize, u64) {
        let digits: Vec<u64> = bytes
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .map(|byte| u64::from(byte - b'0'))
            .collect();
        (digits.len(), digits.iter().fold(0, |value, digit| value * 10 + digit))
    }

    #[test]
    fn what_nearly_all_numbers_look_like_is_short() {
        let read = |text: &str| short_decimal(format!("{text}, 12345678901234567890").as_bytes(), 0);
        for (text, expected) in
            [("0.123456789", 0.123_456_789), ("-1.5", -1.5), ("7", 7.0), ("-0", -0.0), ("123.0", 123.0)]
        {
            let (value, next) = read(text).unwrap();
            assert_eq!((value.to_bits(), next), (f64::to_bits(expected), text.len() + 2));
        }
        for text in
            ["", "-", "00.5", "1.", ".5", "1e3", "0.12345678901234567890", "99999999", "1 ", "x", "\"1\""]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn every_byte_ends_digits_or_is_one() {
        for end in 0..=u8::MAX {
            for place in 0..8 {
                let mut bytes = *b"98765432";
                bytes[place] = end;
                assert_eq!(leading_digits(bytes), one_by_one(&bytes), "{bytes:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_short_decimal_is_the_number_that_it_is_otherwise(text in "-?[0-9]{0,9}(\\.[0-9]{0,22})?[,e ]{0,2}[0-9]{20}") {
            if let Some((value, next)) = short_decimal(text.as_bytes(), 0) {
                let (number, end) = Number::scan(text.as_bytes(), 0);
                let number = number.map(|number| number.to_f64("").unwrap().to_bits());
                prop_assert_eq!(number, Ok(value.to_bits()));
                prop_assert_eq!(text[end..next].trim_end(), ",");
            }
        }

        #[test]
        fn digits_are_the_same_at_once_and_one_by_one(bytes in any::<[u8; 8]>(), digits in "[0-9]{0,40}[^0-9]?") {
            prop_assert_eq!(leading_digits(bytes), one_by_one(&bytes));
            let (mut at, mut significand) = (0, 0);
            let count = scan_digits(digits.as_bytes(), &mut at, &mut significand);
            let expected: Vec<u8> = digits.bytes().take_while(u8::is_ascii_digit).collect();
            prop_assert_eq!((count, at), (expected.len(), expected.len()));
            let value = expected.iter().fold(0_u64, |value, digit| {
                value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
            });
            prop_assert_eq!(significand, value);
        }
    }
}
