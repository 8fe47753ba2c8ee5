//! The entropy of inputs: by values computed by hand, and by what holds for any.

use proptest::prelude::*;
use terrace_tiering::{Elements, entropy};

/// The definition, written out: entropy in bits, of 8.
fn of_shares(shares: &[f64]) -> f64 {
    shares.iter().map(|share| -share * share.log2()).sum::<f64>() / 8.0
}

fn close(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-12, "{actual} is not {expected}");
}

#[test]
fn what_says_nothing_has_none() {
    for inputs in [
        &[][..],
        &[Elements::F32(&[])],
        &[Elements::F32(&[3.5; 100])],
        &[Elements::F64(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY])],
        &[Elements::F64(&[f64::NAN, 7.0, f64::INFINITY])],
        &[Elements::F64(&[f64::MAX; 3])],
        &[Elements::Bool(&[true; 9])],
        &[Elements::Bytes(&[])],
        &[Elements::Bytes(&[vec![], vec![]])],
        &[Elements::Bytes(&[b"aaaa".to_vec()])],
    ] {
        assert_eq!(entropy(inputs).to_bits(), 0.0_f64.to_bits(), "{inputs:?}");
    }
}

#[test]
fn values_computed_by_hand() {
    close(entropy(&[Elements::F32(&[0.0, 1.0])]), 0.125);
    close(entropy(&[Elements::F32(&[0.0, 0.0, 0.0, 1.0])]), of_shares(&[0.75, 0.25]));
    close(entropy(&[Elements::F64(&[-3.0, -1.0, 1.0, 3.0])]), 0.25);
    close(entropy(&[Elements::Bool(&[true, false, true, true])]), of_shares(&[0.75, 0.25]));
    // 100.1 shares the bin of 100 where the range is 0 to 1000.
    close(entropy(&[Elements::F64(&[0.0, 100.0, 100.1, 1000.0])]), of_shares(&[0.25, 0.5, 0.25]));
    let all: Vec<u8> = (0..=255).collect();
    close(entropy(&[Elements::U8(&all)]), 1.0);
    close(entropy(&[Elements::Bytes(&[all])]), 1.0);
    close(entropy(&[Elements::Bytes(&[b"ab".to_vec(), b"ba".to_vec()])]), 0.125);
}

#[test]
fn every_element_type_counts_its_values() {
    for elements in [
        Elements::U8(&[0, 0, 1, 2]),
        Elements::U16(&[0, 0, 1, 2]),
        Elements::U32(&[0, 0, 1, 2]),
        Elements::U64(&[0, 0, u64::MAX / 2, u64::MAX]),
        Elements::I8(&[0, 0, i8::MAX, i8::MIN]),
        Elements::I16(&[0, 0, -1, 2]),
        Elements::I32(&[0, 0, i32::MAX, i32::MIN]),
        Elements::I64(&[0, 0, i64::MAX, i64::MIN]),
        Elements::F16(&[0x0000, 0x8000, 0x3c00, 0xbc00]), // 0, -0, 1, -1
        Elements::F16(&[0x0001, 0x0001, 0x0002, 0x0003]), // subnormal
        Elements::F16(&[0x3c00, 0x3c00, 0x3e00, 0x4000]), // 1, 1, 1.5, 2
        Elements::F16(&[0x0000, 0x0000, 0x5c00, 0x7bff]), // 0, 0, 256, 65504: 256 is just in the second bin
        Elements::Bf16(&[0x0000, 0x8000, 0x3f80, 0xbf80]),
        Elements::F32(&[0.0, 0.0, 1.0, 2.0]),
        Elements::F64(&[0.0, 0.0, 1.0, 2.0]),
    ] {
        let expected = of_shares(&[0.5, 0.25, 0.25]);
        let actual = entropy(&[elements]);
        assert!((actual - expected).abs() < 1e-12, "{elements:?}: {actual}");
    }
    let finite = entropy(&[Elements::F16(&[0x3c00, 0x4000])]);
    close(entropy(&[Elements::F16(&[0x3c00, 0x7c00, 0xfc00, 0x7e00, 0x4000])]), finite);
}

#[test]
fn numbers_are_taken_together_and_the_larger_of_numbers_and_bytes_counts() {
    close(entropy(&[Elements::F32(&[0.0, 0.0]), Elements::I64(&[1, 1])]), 0.125);
    let text = [b"abcd".to_vec()];
    close(entropy(&[Elements::F32(&[0.0, 1.0]), Elements::Bytes(&text)]), 0.25);
    close(entropy(&[Elements::Bytes(&text), Elements::F32(&[0.0])]), 0.25);
}

#[test]
fn extreme_ranges_are_sorted_like_any_other() {
    for (low, high) in [
        (f64::MIN, f64::MAX),
        (-f64::MIN_POSITIVE, f64::MIN_POSITIVE),
        (0.0, f64::from_bits(1)),
        (1.0, 1.0_f64.next_up()),
        (f64::MAX.next_down(), f64::MAX),
    ] {
        close(entropy(&[Elements::F64(&[low, high, low, high])]), 0.125);
    }
    close(entropy(&[Elements::F64(&[f64::MIN, -1.0, 1.0, f64::MAX])]), of_shares(&[0.25, 0.5, 0.25]));
    let tiny = |ulps| f64::from_bits(ulps);
    close(entropy(&[Elements::F64(&[tiny(0), tiny(1), tiny(2), tiny(3)])]), 0.25);
}

#[test]
fn of_large_inputs_a_sample_sees_every_channel_and_every_row() {
    // Interleaved channels, each a constant of its own: a fixed stride would see one of them alone.
    for (channels, length) in [(3, 150_528), (4, 262_144), (16, 1_048_576), (224, 150_528), (1920, 2_073_600)]
    {
        let channels = u16::try_from(channels).unwrap();
        let values: Vec<f32> = (0..channels).map(f32::from).cycle().take(length).collect();
        let whole = (f64::from(channels).log2() / 8.0).min(1.0);
        let sampled = entropy(&[Elements::F32(&values)]);
        assert!((sampled - whole).abs() < 0.01, "{channels} channels: {sampled} is not about {whole}");
    }
}

#[test]
fn a_sample_is_taken_across_inputs() {
    let (zeros, ones) = (vec![0.0_f32; 500_000], vec![1.0_f32; 500_000]);
    let whole = entropy(&[Elements::F32(&zeros), Elements::F32(&ones)]);
    assert!((whole - 0.125).abs() < 1e-6, "{whole}");
    let texts: Vec<Vec<u8>> =
        (0..300_000).map(|n| if n % 2 == 0 { b"a".to_vec() } else { b"b".to_vec() }).collect();
    let whole = entropy(&[Elements::Bytes(&texts)]);
    assert!((whole - 0.125).abs() < 1e-3, "{whole}");
}

fn finite() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(-1e6..1e6, 0..300)
}

proptest! {
    #[test]
    fn it_lies_between_0_and_1(
        any in prop::collection::vec(any::<f64>(), 0..300),
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10),
    ) {
        let complexity = entropy(&[Elements::F64(&any), Elements::Bytes(&texts)]);
        prop_assert!((0.0..=1.0).contains(&complexity), "{}", complexity);
    }

    #[test]
    fn order_does_not_matter((values, shuffled) in finite().prop_flat_map(|values| {
        (Just(values.clone()), Just(values).prop_shuffle())
    })) {
        let (one, other) = (entropy(&[Elements::F64(&values)]), entropy(&[Elements::F64(&shuffled)]));
        prop_assert_eq!(one.to_bits(), other.to_bits());
    }

    /// Exact for powers of two, which round nothing.
    #[test]
    fn scale_does_not_matter(values in finite(), exponent in -900..900) {
        let scaled: Vec<f64> = values.iter().map(|value| value * 2_f64.powi(exponent)).collect();
        let (one, other) = (entropy(&[Elements::F64(&values)]), entropy(&[Elements::F64(&scaled)]));
        prop_assert_eq!(one.to_bits(), other.to_bits());
    }

    #[test]
    fn what_is_not_finite_does_not_count(values in finite(), at in any::<prop::sample::Index>()) {
        let mut with = values.clone();
        with.insert(at.index(values.len() + 1), f64::NAN);
        with.insert(at.index(values.len() + 1), f64::INFINITY);
        with.insert(at.index(values.len() + 1), f64::NEG_INFINITY);
        prop_assert_eq!(entropy(&[Elements::F64(&values)]).to_bits(), entropy(&[Elements::F64(&with)]).to_bits());
    }

    #[test]
    fn how_values_are_split_into_inputs_does_not_matter(values in finite(), at in any::<prop::sample::Index>()) {
        let (head, tail) = values.split_at(at.index(values.len() + 1));
        let split = entropy(&[Elements::F64(head), Elements::F64(tail)]);
        prop_assert_eq!(entropy(&[Elements::F64(&values)]).to_bits(), split.to_bits());
    }
}
