//! Random bytes.

/// Random bytes from the kernel (getrandom(2)).
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).expect("the kernel's random generator works once the machine has booted");
    bytes
}
