//! Manifests.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ployz_fuzz::manifest::document(data));
