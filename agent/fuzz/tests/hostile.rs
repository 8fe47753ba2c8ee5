//! The corpus, and what becomes of it when it is changed at random: always the same, unless `TERRACE_FUZZ_SECONDS` asks for more.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use terrace_fuzz::{TARGETS, Target};

/// How large one may become.
const LARGEST: usize = 16 << 10;

/// A small generator of numbers (xorshift64*), so that a round is the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() >> 11).unwrap_or_default() % end.max(1)
    }
}

fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut found: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
        })
        .collect();
    found.sort();
    assert!(found.len() > 5, "{}: {} inputs", target.name, found.len());
    found
}

/// Bytes that parsers trip over.
const TOKENS: [&[u8]; 24] = [
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"",
    b",",
    b":",
    b"\\u0000",
    b"\\ud800",
    b"-0",
    b"1e999",
    b"18446744073709551616",
    b"null",
    b"true",
    b"\"data\":[]",
    b"\"shape\":[0]",
    b"\"parameters\":{\"binary_data_size\":8}",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\x2a\x00",
    b"\x28\xb5\x2f\xfd",
    b"\x1f\x8b\x08\x00",
    b"NaN",
    b"\xc3\x28",
];

/// One of the corpus, changed a few times.
fn changed(corpus: &[(String, Vec<u8>)], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = corpus[dice.below(corpus.len())].1.clone();
    for _ in 0..=dice.below(6) {
        let at = dice.below(bytes.len());
        let end = (at + 1 + dice.below(32)).min(bytes.len());
        match dice.below(8) {
            0 if !bytes.is_empty() => bytes[at] = dice.roll().to_le_bytes()[0],
            1 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            2 if !bytes.is_empty() => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => {
                let part = bytes.get(at..end).unwrap_or_default().repeat(1 + dice.below(40));
                bytes.splice(at..at, part);
            }
            5 => {
                let other = &corpus[dice.below(corpus.len())].1;
                let from = dice.below(other.len());
                let to = (from + dice.below(200)).min(other.len());
                bytes.splice(at..at, other.get(from..to).unwrap_or_default().iter().copied());
            }
            _ => {
                let token = TOKENS[dice.below(TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
        }
        bytes.truncate(LARGEST);
    }
    bytes
}

fn run(target: &Target, what: &str, bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.check)(bytes))).is_err() {
        let file = std::env::temp_dir().join(format!("terrace-fuzz-{}", target.name));
        fs::write(&file, bytes).unwrap();
        panic!("{}, {what}: see above; its bytes are in {}", target.name, file.display());
    }
}

/// Checks the corpus of a target, and so many changed inputs.
fn holds(name: &str, rounds: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let corpus = corpus(target);
    for (name, bytes) in &corpus {
        run(target, name, bytes);
    }
    #[allow(clippy::disallowed_methods)] // how long to go on is the caller's word
    let seconds = std::env::var("TERRACE_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut round = 0;
    while until.map_or(round < rounds, |until| Instant::now() < until) {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (round + 1).wrapping_mul(0xff51_afd7_ed55_8ccd));
        run(target, &format!("round {round}"), &changed(&corpus, &mut dice));
        round += 1;
    }
    println!("{name}: {} of the corpus, {round} changed", corpus.len());
}

#[test]
fn json_holds() {
    holds("json", 100_000);
}

#[test]
fn requests_with_binary_tensors_hold() {
    holds("request", 100_000);
}

#[test]
fn messages_of_grpc_hold() {
    holds("grpc", 100_000);
}

#[test]
fn coded_bodies_hold() {
    holds("coded", 50_000);
}

#[test]
fn a_target_that_does_not_hold_is_seen() {
    let broken = Target { name: "broken", check: |bytes| assert!(!bytes.contains(&b'x'), "an x") };
    assert!(catch_unwind(|| run(&broken, "a", b"ax")).is_err());
    run(&broken, "b", b"ay");
}
