//! The shortest decimals for the 16-bit floats: 0.1 rather than the 0.099975586 that an f16 widens to.

use half::{bf16, f16};

use crate::json::{POWERS, nearest_bf16, nearest_f16};

/// The f64 of fewest digits that reads back as this f16. The f16 must be finite.
pub(crate) fn shortest_f16(value: f16) -> f64 {
    shortest(value.to_f64(), |candidate| nearest_f16(candidate) == value)
}

/// The f64 of fewest digits that reads back as this bf16. The bf16 must be finite.
pub(crate) fn shortest_bf16(value: bf16) -> f64 {
    shortest(value.to_f64(), |candidate| nearest_bf16(candidate) == value)
}

/// Digits that tell any two values of the longer type, f16 with 11 bits, apart.
const MAX_DIGITS: i32 = 5;

fn shortest(value: f64, reads_back: impl Fn(f64) -> bool) -> f64 {
    if value == 0.0 {
        return value;
    }
    // log₁₀ of the power of two below the value: its first digit has this place or the next.
    let place = (exponent(value) * 1233) >> 12;
    (0..=MAX_DIGITS)
        .map(|more| rounded(value, place - more))
        .find(|candidate| reads_back(*candidate))
        .unwrap_or(value)
}

/// The binary exponent of a normal f64.
#[allow(clippy::cast_possible_truncation)] // eleven bits
fn exponent(value: f64) -> i32 {
    (value.to_bits() >> 52 & 0x7ff) as i32 - 1023
}

/// The multiple of a power of ten that is nearest to the value.
fn rounded(value: f64, exponent: i32) -> f64 {
    match usize::try_from(exponent.unsigned_abs()).ok().and_then(|index| POWERS.get(index)) {
        Some(power) if exponent < 0 => (value * power).round() / power,
        Some(power) => (value / power).round() * power,
        // Rare: a bf16 far from 1. Only the text is exact then.
        None => {
            let digits = (value / 10_f64.powi(exponent)).round();
            format!("{digits}e{exponent}").parse().unwrap_or(value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By trying, through text.
    fn fewest_digits(value: f64, reads_back: impl Fn(f64) -> bool) -> usize {
        (0..20).find(|digits| reads_back(format!("{value:.digits$e}").parse().unwrap())).unwrap() + 1
    }

    fn digits(value: f64) -> usize {
        format!("{value:e}").split('e').next().unwrap().bytes().filter(u8::is_ascii_digit).count()
    }

    #[test]
    fn every_f16_reads_back_from_as_few_digits_as_can_be() {
        for value in (0..=u16::MAX).map(f16::from_bits).filter(|value| value.is_finite()) {
            let short = shortest_f16(value);
            let back = nearest_f16(format!("{short:?}").parse().unwrap());
            assert_eq!(back.to_bits(), value.to_bits(), "{value:?}");
            assert!(
                digits(short) <= fewest_digits(value.to_f64(), |v| nearest_f16(v) == value),
                "{value:?}: {short}"
            );
        }
    }

    #[test]
    fn every_bf16_reads_back_from_as_few_digits_as_can_be() {
        for value in (0..=u16::MAX).map(bf16::from_bits).filter(|value| value.is_finite()) {
            let short = shortest_bf16(value);
            let back = nearest_bf16(format!("{short:?}").parse().unwrap());
            assert_eq!(back.to_bits(), value.to_bits(), "{value:?}");
            assert!(
                digits(short) <= fewest_digits(value.to_f64(), |v| nearest_bf16(v) == value),
                "{value:?}: {short}"
            );
        }
    }

    #[test]
    fn familiar_numbers_look_familiar() {
        assert_eq!(format!("{}", shortest_f16(f16::from_f32(0.1))), "0.1");
        assert_eq!(format!("{}", shortest_bf16(bf16::from_f32(0.1))), "0.1");
        assert_eq!(format!("{}", shortest_f16(f16::MAX)), "65500");
    }
}
