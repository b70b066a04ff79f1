//! Files whose first line is `<magic> <SHA-256 of all that follows>`: what a crash or a bad disk did to one is found before it is
//! parsed.

use ployz_core::id::hex;
use sha2::{Digest, Sha256};

/// Why the content of such a file is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another format, or another version of it.
    #[error("it has another version")]
    Version,
    /// No end of the first line.
    #[error("it is truncated")]
    CutOff,
    /// Other bytes than were written.
    #[error("it is damaged: its checksum does not match")]
    Checksum,
}

/// The first line for a body, with its line feed. `magic` names the format and its version and ends with a space.
pub fn header(magic: &str, body: &[u8]) -> String {
    format!("{magic}{}\n", hex(&Sha256::digest(body)))
}

/// The body of a file, if it is what was written.
pub fn body<'a>(magic: &str, bytes: &'a [u8]) -> Result<&'a [u8], Refused> {
    let rest = bytes.strip_prefix(magic.as_bytes()).ok_or(Refused::Version)?;
    let end = rest.iter().position(|&byte| byte == b'\n').ok_or(Refused::CutOff)?;
    let body = &rest[end + 1..];
    if hex(&Sha256::digest(body)).as_bytes() != &rest[..end] {
        return Err(Refused::Checksum);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_at_any_byte_is_refused() {
        let good = [header("ployz-test 1 ", b"{\"a\":1}").as_bytes(), b"{\"a\":1}"].concat();
        assert_eq!(body("ployz-test 1 ", &good), Ok(&b"{\"a\":1}"[..]));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(body("ployz-test 1 ", &bad).is_err(), "byte {at} changed");
            assert!(body("ployz-test 1 ", &good[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(body("ployz-test 2 ", &good), Err(Refused::Version));
    }
}
