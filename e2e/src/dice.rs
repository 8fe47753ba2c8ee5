//! Random numbers whose seed is printed, so that a failure can be run again.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// A sequence of random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of this seed.
    pub const fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A new sequence. Says how to get it again: `TERRACE_E2E_SEED` names its seed.
    #[allow(clippy::disallowed_methods)] // a test has no other way to be told
    pub fn shaken(what: &str) -> Self {
        let told = std::env::var("TERRACE_E2E_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = told.unwrap_or_else(|| RandomState::new().hash_one(what));
        println!("{what}: TERRACE_E2E_SEED={seed}");
        Self(seed)
    }

    /// The next number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A whole number below `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// A time below `end`.
    pub fn time_below(&mut self, end: Duration) -> Duration {
        end.mul_f64((self.roll() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
