//! Lengths of time as Kubernetes writes them: `500ms`, `1m30s`, `1.5h`. Never negative, never too long to be counted.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time. Go's `time.ParseDuration` reads what it writes, and it reads what Go writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(time::Duration);

/// What is read.
const EXPECTED: &str = "a duration such as 500ms, 30s or 1h30m";
/// What Go can count in nanoseconds: 292 years.
const MAX_NANOS: u128 = i64::MAX as u128;
/// Units, the longest first, in nanoseconds.
const UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// A text is no length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// It has another form.
    #[error("expected {EXPECTED}")]
    Form,
    /// It is below zero.
    #[error("a duration cannot be negative")]
    Negative,
    /// It is too long.
    #[error("a duration cannot be longer than 292 years")]
    TooLong,
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl From<time::Duration> for Duration {
    fn from(duration: time::Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('-') && Self::from_str(&text[1..]).is_ok() {
            return Err(ParseDurationError::Negative);
        }
        if text == "0" {
            return Ok(Self::default());
        }
        let mut rest = text;
        let mut nanos: u128 = 0;
        while !rest.is_empty() || text.is_empty() {
            let (part, after) = part(rest)?;
            nanos = nanos
                .checked_add(part)
                .filter(|nanos| *nanos <= MAX_NANOS)
                .ok_or(ParseDurationError::TooLong)?;
            rest = after;
        }
        let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| ParseDurationError::TooLong)?;
        let below = u32::try_from(nanos % 1_000_000_000).map_err(|_| ParseDurationError::TooLong)?;
        Ok(Self(time::Duration::new(seconds, below)))
    }
}

/// One number with its unit, in nanoseconds, and what comes after it.
fn part(text: &str) -> Result<(u128, &str), ParseDurationError> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let (unit, rest) =
        rest.split_at(rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len()));
    let unit = if matches!(unit, "\u{b5}s" | "\u{3bc}s") { "us" } else { unit };
    let size = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size);
    let size = size.filter(|_| !(whole.is_empty() && fraction.is_empty())).ok_or(ParseDurationError::Form)?;
    let number = |digits: &str| match digits.trim_start_matches('0') {
        "" => Ok(0),
        // More digits than Go's longest duration has in nanoseconds.
        digits if digits.len() > 19 => Err(ParseDurationError::TooLong),
        digits => digits.parse::<u128>().map_err(|_| ParseDurationError::Form),
    };
    // Below a nanosecond nothing counts: no unit has more than 13 digits of them.
    let fraction = &fraction[..fraction.len().min(13)];
    let scale = fraction.bytes().fold(1_u128, |scale, _| scale * 10);
    Ok((number(whole)? * size + number(fraction)? * size / scale, rest))
}

impl fmt::Display for Duration {
    /// In the longest unit that counts it in whole numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let exact = UNITS.iter().find(|(_, size)| nanos > 0 && nanos.is_multiple_of(*size));
        match exact {
            Some((unit, size)) => write!(f, "{}{unit}", nanos / size),
            None => f.write_str("0s"),
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

/// Reads the text of a duration.
struct Text;

impl de::Visitor<'_> for Text {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{EXPECTED}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        text.parse().map_err(|error: ParseDurationError| match error {
            ParseDurationError::Form => E::invalid_value(de::Unexpected::Str(text), &self),
            error => E::custom(error),
        })
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads_is_read_and_nothing_else() {
        let ms = |ms| Ok(Duration(time::Duration::from_millis(ms)));
        for (text, expected) in [
            ("0", ms(0)),
            ("0s", ms(0)),
            ("500ms", ms(500)),
            ("1.5s", ms(1_500)),
            (".5s", ms(500)),
            ("1.s", ms(1_000)),
            ("1m30s", ms(90_000)),
            ("1h0m0.25s", ms(3_600_250)),
            ("1000\u{b5}s", ms(1)),
            ("1000\u{3bc}s", ms(1)),
            ("0.000000000000000000001s", ms(0)),
            ("2562047h", Ok(Duration(time::Duration::from_secs(2_562_047 * 3600)))),
            ("2562048h", Err(ParseDurationError::TooLong)),
            ("99999999999999999999h", Err(ParseDurationError::TooLong)),
            ("9223372036s9223372036s", Err(ParseDurationError::TooLong)),
            ("-1s", Err(ParseDurationError::Negative)),
            ("", Err(ParseDurationError::Form)),
            ("-", Err(ParseDurationError::Form)),
            ("--1s", Err(ParseDurationError::Form)),
            ("5s-5s", Err(ParseDurationError::Form)),
            ("5", Err(ParseDurationError::Form)),
            ("s", Err(ParseDurationError::Form)),
            (".s", Err(ParseDurationError::Form)),
            ("1d", Err(ParseDurationError::Form)),
            ("1 s", Err(ParseDurationError::Form)),
            ("1e3s", Err(ParseDurationError::Form)),
            ("1s ", Err(ParseDurationError::Form)),
            ("NaNs", Err(ParseDurationError::Form)),
        ] {
            assert_eq!(text.parse::<Duration>(), expected, "{text:?}");
        }
    }

    #[test]
    fn it_is_written_in_the_longest_unit_and_read_back_the_same() {
        for (text, written) in [
            ("0", "0s"),
            ("1h30m", "90m"),
            ("1m30s", "90s"),
            ("1500ms", "1500ms"),
            ("1ns", "1ns"),
            ("120m", "2h"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.to_string(), written);
            assert_eq!(written.parse(), Ok(duration));
        }
    }
}
