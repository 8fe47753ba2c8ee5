//! The parser against `serde_json`, which accepts the same language, and the standard library's numbers.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::error::Fault;

fn number(text: &str) -> Number<'_> {
    Reader::new(text).number("a number").unwrap()
}

fn accepts(text: &str) -> bool {
    let mut reader = Reader::new(text);
    reader.skip().and_then(|()| reader.end()).is_ok()
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    for (text, message) in [
        ("", "not JSON: the text ends where a value is expected at line 1 column 1"),
        ("  ", "not JSON: the text ends where a value is expected at line 1 column 3"),
        ("[1,]", "not JSON: expected a value at line 1 column 4"),
        ("[1 2]", "not JSON: expected ',' or ']' at line 1 column 4"),
        ("[1}", "not JSON: expected ',' or ']' at line 1 column 3"),
        ("{\"a\":1]", "not JSON: expected ',' or '}' at line 1 column 7"),
        ("{\n\"a\" 1}", "not JSON: expected ':' at line 2 column 5"),
        ("{a:1}", "not JSON: expected a key in quotes at line 1 column 2"),
        ("{\"a\":1,}", "not JSON: expected a key in quotes at line 1 column 8"),
        ("\"a", "not JSON: the text ends in a string at line 1 column 3"),
        ("\"a\\", "not JSON: the text ends in a string at line 1 column 4"),
        ("\"a\nb\"", "not JSON: a control character in a string at line 1 column 3"),
        ("\"\u{1f}\"", "not JSON: a control character in a string at line 1 column 2"),
        ("\"\\x\"", "not JSON: a bad escape in the string that ends at line 1 column 5"),
        ("\"\\ud800\"", "not JSON: a bad escape in the string that ends at line 1 column 9"),
        ("01", "not JSON: a number with a leading zero at line 1 column 3"),
        ("-", "not JSON: expected a digit at line 1 column 2"),
        ("1.", "not JSON: expected a digit at line 1 column 3"),
        ("1e+", "not JSON: expected a digit at line 1 column 4"),
        (".5", "not JSON: expected a value at line 1 column 1"),
        ("+1", "not JSON: expected a value at line 1 column 1"),
        ("nul", "not JSON: expected a value at line 1 column 1"),
        ("NaN", "not JSON: NaN and Infinity are no JSON numbers at line 1 column 1"),
        ("-Infinity", "not JSON: NaN and Infinity are no JSON numbers at line 1 column 2"),
        ("1 1", "not JSON: something follows the value at line 1 column 3"),
    ] {
        let mut reader = Reader::new(text);
        let error = reader.skip().and_then(|()| reader.end()).unwrap_err();
        assert_eq!(error.to_string(), message, "{text}");
    }
    assert!(accepts("\"\u{20}\u{7f}\u{2028}\""));
}

#[test]
fn skipping_stops_at_the_depth_limit_and_not_before() {
    assert!(accepts(&format!("{}{}", "[".repeat(64), "]".repeat(64))));
    assert!(accepts(&format!("{}1{}", "{\"a\":".repeat(64), "}".repeat(64))));
    let error = Reader::new(&"[".repeat(65)).skip().unwrap_err();
    assert_eq!(error.to_string(), "more than 64 levels of nesting");
}

#[test]
fn integers_are_exact_to_the_last_value_of_their_type() {
    assert_eq!(number("18446744073709551615").to_integer("UINT64"), Ok(u64::MAX));
    assert_eq!(number("-9223372036854775808").to_integer("INT64"), Ok(i64::MIN));
    assert_eq!(number("-0").to_integer("UINT8"), Ok(0_u8));
    for text in ["18446744073709551616", "-1", "1000000000000000000000000000000000000000000000000"] {
        assert_eq!(
            number(text).to_integer::<u64>("UINT64"),
            Err(Fault::OutOfRange { datatype: "UINT64" }),
            "{text}"
        );
    }
    for text in ["1.0", "1e2", "-0.0"] {
        assert_eq!(number(text).to_integer::<u64>("UINT64"), Err(Fault::NotAnInteger), "{text}");
    }
}

#[test]
fn floats_are_rounded_once() {
    // The nearest f64 is exactly the middle between two f32: rounding that, too, would take the other one.
    assert_eq!(number("1.990870177745819").to_f32("FP32").map(f32::to_bits), Ok(0x3ffe_d4d5));
    assert_eq!(number("1.419909656047821").to_f32("FP32").map(f32::to_bits), Ok(0x3fb5_bf99));
    assert_eq!(number("1.00000005960464477540").to_f32("FP32"), Ok(1.000_000_1));
    assert_eq!(number("1.000000059604644775390625").to_f32("FP32"), Ok(1.0));
    assert_eq!(number("16777217").to_f32("FP32"), Ok(16_777_216.0));
    // 1 + 2⁻¹¹ lies between two f16; a little more of it must go up, though an f32 cannot hold that little.
    assert_eq!(number("1.00048828125").to_f16("FP16"), Ok(f16::from_bits(0x3c00)));
    assert_eq!(number("1.0004882812500002").to_f16("FP16"), Ok(f16::from_bits(0x3c01)));
    assert_eq!(number("1.0039062500000002").to_bf16("BF16"), Ok(bf16::from_bits(0x3f81)));
}

#[test]
fn a_number_beyond_its_type_is_an_error_and_one_too_small_is_zero() {
    for text in ["1e39", "-1e39", "3.5e38", "1e400", "1e99999999999999999999"] {
        assert!(number(text).to_f32("FP32").is_err(), "{text}");
        assert!(number(text).to_bf16("BF16").is_err(), "{text}");
    }
    assert!(number("1e309").to_f64("FP64").is_err());
    assert!(number("65520").to_f16("FP16").is_err());
    assert_eq!(number("65519").to_f16("FP16"), Ok(f16::MAX));
    assert_eq!(number("3.4028235e38").to_f32("FP32"), Ok(f32::MAX));
    assert_eq!(number("1e-400").to_f64("FP64"), Ok(0.0));
    assert_eq!(number("-1e-99999999999999999999").to_f32("FP32").map(f32::to_bits), Ok((-0.0_f32).to_bits()));
    assert_eq!(number("0e99999999999999999999").to_f64("FP64"), Ok(0.0));
}

fn number_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| format!("{value:e}")),
        any::<f32>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| format!("{value:e}")),
        (-2.0..2.0_f32).prop_map(|value| format!("{value}")),
        (-2.0..2.0_f64).prop_map(|value| format!("{value}")),
        // Close to the middle between two f32, where rounding twice goes wrong.
        (0.1..10.0_f32, 13_usize..19).prop_map(|(value, digits)| {
            let middle = f64::midpoint(f64::from(value), f64::from(value.next_up()));
            format!("{middle:.digits$e}")
        }),
        "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?",
    ]
}

/// JSON, mostly, and its near misses.
fn near_json() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![
            Just("{".to_owned()),
            Just("}".to_owned()),
            Just("[".to_owned()),
            Just("]".to_owned()),
            Just(",".to_owned()),
            Just(":".to_owned()),
            Just("\"a\"".to_owned()),
            Just("\"b\\n\\u00e9\"".to_owned()),
            Just("\"\\ud83d\\ude00ä\"".to_owned()),
            Just("\"a\":".to_owned()),
            Just("true".to_owned()),
            Just("null".to_owned()),
            Just(" ".to_owned()),
            number_text(),
            "[-+0-9.eE\\\\\"truefalsn]{1,4}",
        ],
        0..8,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn numbers_are_those_of_the_standard_library(text in number_text()) {
        let number = number(&text);
        let (long, short): (f64, f32) = (text.parse().unwrap(), text.parse().unwrap());
        prop_assert_eq!(number.to_f64("").ok().map(f64::to_bits), Some(long).filter(|v| v.is_finite()).map(f64::to_bits));
        prop_assert_eq!(number.to_f32("").ok().map(f32::to_bits), Some(short).filter(|v| v.is_finite()).map(f32::to_bits));
        prop_assert_eq!(number.to_integer::<i64>("").ok(), text.parse::<i64>().ok());
        prop_assert_eq!(number.to_integer::<u8>("").ok(), if text == "-0" { Some(0) } else { text.parse::<u8>().ok() });
    }

    #[test]
    fn the_language_is_that_of_serde_json(text in near_json()) {
        // Only numbers too large for any type differ: whether they fit is the type's question here.
        let known = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
        let strings_too = serde_json::from_str::<serde_json::Value>(&text);
        let expected = known && !strings_too.is_err_and(|error| !error.to_string().starts_with("number out of range"));
        prop_assert_eq!(accepts(&text), expected);
    }

    #[test]
    fn strings_are_those_of_serde_json(text in any::<String>(), ascii in any::<bool>()) {
        let mut written = serde_json::to_string(&text).unwrap();
        if ascii {
            let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>();
            written = format!("\"{}\"", units.concat());
        }
        prop_assert_eq!(Reader::new(&written).string().unwrap(), text);
    }
}
