//! Answers as an upstream may give them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ployz_fuzz::dns::response(data));
