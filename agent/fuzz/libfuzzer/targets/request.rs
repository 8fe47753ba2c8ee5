#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| (terrace_fuzz::TARGETS[1].check)(input));
