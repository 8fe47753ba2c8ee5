//! Hostile requests: what must hold for each, whatever its bytes are.
//!
//! Called by this crate's own test, which changes the requests in `corpus/` at random and is part of `make test`, and by
//! `libfuzzer/`, which looks for ways through the code (`make fuzz`). A target panics where something does not hold:
//! * nothing panics;
//! * memory is bounded by a multiple of the input, however much it claims to hold;
//! * a request that is written and read again is the same to the bit;
//! * an error says where, in a few words.

#![allow(clippy::panic)] // it is how a target speaks

mod targets;

pub use targets::{TARGETS, Target};
