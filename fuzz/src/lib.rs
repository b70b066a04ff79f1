//! What must hold whatever bytes come: one function a target, which panics when it does not.
//!
//! The same functions are run by the fuzzer (`fuzz/run.sh`, coverage-guided) and over the corpus by `cargo test`, so what
//! was once found stays mended. They compare with a simpler reading of the same rule where there is one.

pub mod dns;
pub mod gateway;
pub mod manifest;

/// A target: its name, which is also that of its corpus and of the fuzzer's program, and what it checks.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 4] = [
    ("dns-query", dns::query),
    ("dns-response", dns::response),
    ("gateway-route", gateway::route),
    ("manifest", manifest::document),
];
