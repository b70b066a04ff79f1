//! Queries as the DNS server gets them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ployz_fuzz::dns::query(data));
