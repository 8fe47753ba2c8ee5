//! Sizes on the command line: numbers of bytes, and nothing else.

use std::str::FromStr;

/// What people write behind a number, and how many bytes it stands for.
const UNITS: [(&str, u64); 12] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("ki", 1 << 10),
    ("mi", 1 << 20),
    ("gi", 1 << 30),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
];

/// A number of bytes. Who writes it with a unit is told the number.
pub fn parse<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| match in_bytes(text) {
        Some(bytes) => format!("expected a number of bytes without a unit: {bytes}"),
        None => "expected a whole number of bytes, as in 67108864 for 64 MiB".to_owned(),
    })
}

/// How many bytes are meant, where that can be told.
fn in_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let (number, each) = UNITS.iter().find_map(|(unit, each)| Some((text.strip_suffix(unit)?, *each)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_of_bytes_and_who_writes_a_unit_is_told_the_number() {
        assert_eq!(parse::<u64>("67108864"), Ok(67_108_864));
        for (text, bytes) in [
            ("64MiB", 67_108_864_u64),
            ("64 MiB", 67_108_864),
            ("2Gi", 2_147_483_648),
            ("1kB", 1_000),
            ("8g", 8_589_934_592),
        ] {
            let expected = format!("expected a number of bytes without a unit: {bytes}");
            assert_eq!(parse::<usize>(text), Err(expected), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "-1", "64 pages", "99999999999GiB", "99999999999999999999"] {
            let expected = "expected a whole number of bytes, as in 67108864 for 64 MiB".to_owned();
            assert_eq!(parse::<u64>(text), Err(expected), "{text}");
        }
    }
}
