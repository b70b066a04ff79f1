//! Host and path of requests, and the routes they are matched with.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ployz_fuzz::gateway::route(data));
