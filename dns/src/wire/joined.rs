//! One answer of two: an alias, and what the name it leads to has.
//!
//! Some resolvers leave it to the asker to go on from an alias, which a stub resolver does not do. The records of both are written
//! without compression, because its pointers mean places in the message they came in.

use super::{
    CNAME, DNAME, HEADER, MX, Malformed, NS, OPT, PTR, SOA, SRV, put, question_end, read_name, skip_name,
    word,
};

/// The question of `first`, the answers of both in order, and the authority of `second`. Additional records are left out.
pub fn joined(first: &[u8], second: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = first.get(..question_end(first)?).ok_or(Malformed::Short)?.to_vec();
    put(&mut out, 2, word(second, 2)?);
    let own = copy(first, 6, question_end(first)?, &mut out)?;
    let theirs = copy(second, 6, question_end(second)?, &mut out)?;
    let authority = copy(second, 8, theirs.1, &mut out)?;
    put(&mut out, 6, own.0.saturating_add(theirs.0));
    put(&mut out, 8, authority.0);
    put(&mut out, 10, 0);
    if out.len() > usize::from(u16::MAX) { Err(Malformed::Short) } else { Ok(out) }
}

/// Copies as many records as the counter at `counter` says, from `at`; how many, and where they end.
fn copy(message: &[u8], counter: usize, mut at: usize, out: &mut Vec<u8>) -> Result<(u16, usize), Malformed> {
    debug_assert!(counter < HEADER);
    let (count, mut name) = (word(message, counter)?, Vec::new());
    for _ in 0..count {
        let fixed = read_name(message, at, &mut name)?;
        out.extend_from_slice(&name);
        let (kind, length) = (word(message, fixed)?, usize::from(word(message, fixed + 8)?));
        at = fixed + 10 + length;
        let data = message.get(fixed + 10..at).ok_or(Malformed::Short)?;
        out.extend_from_slice(&message[fixed..fixed + 8]);
        let counted = out.len();
        out.extend_from_slice(&[0; 2]);
        copy_data(message, kind, fixed + 10, data, out)?;
        let length = u16::try_from(out.len() - counted - 2).map_err(|_| Malformed::Short)?;
        put(out, counted, length);
    }
    Ok((count, at))
}

fn copy_data(
    message: &[u8],
    kind: u16,
    from: usize,
    data: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let (skipped, count) = match kind {
        NS | CNAME | PTR | DNAME => (0, 1),
        MX => (2, 1),
        SRV => (6, 1),
        SOA => (0, 2),
        OPT => return Err(Malformed::Misplaced),
        _ => (data.len(), 0),
    };
    out.extend_from_slice(data.get(..skipped).ok_or(Malformed::Short)?);
    let (mut at, mut name) = (from + skipped, Vec::new());
    for _ in 0..count {
        read_name(message, at, &mut name)?;
        out.extend_from_slice(&name);
        at = skip_name(message, at)?;
    }
    out.extend_from_slice(data.get(at - from..).ok_or(Malformed::Short)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{flag, header, response};
    use proptest::prelude::*;

    const QUESTION: &[u8] = b"\x01a\x04test\0\0\x01\0\x01";
    /// a.test is b.test; the target is compressed.
    const ALIAS: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01b\xc0\x0e";
    const ADDRESS: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x01\x02\x03\x04";

    fn message(question: &[u8], records: &[u8], counts: [u16; 2]) -> Vec<u8> {
        let mut out = header(7, flag::QR);
        put(&mut out, 4, 1);
        put(&mut out, 6, counts[0]);
        put(&mut out, 8, counts[1]);
        [out, question.to_vec(), records.to_vec()].concat()
    }

    #[test]
    fn an_alias_and_the_address_of_its_target_are_one_answer() {
        let first = message(QUESTION, ALIAS, [1, 0]);
        let half = response(&first, 7, QUESTION).unwrap();
        assert_eq!(half.leads_to.as_deref(), Some(&b"\x01b\x04test\0"[..]));
        let second = message(b"\x01b\x04test\0\0\x01\0\x01", ADDRESS, [1, 0]);
        let whole = response(&joined(&first, &second).unwrap(), 7, QUESTION).unwrap();
        assert_eq!((whole.leads_to.clone(), whole.beside, whole.lifetime()), (None, false, Some(5)));
        assert!(whole.message.ends_with(b"\x01b\x04test\0\0\x01\0\x01\0\0\0\x05\0\x04\x01\x02\x03\x04"));
    }

    #[test]
    fn that_the_target_has_none_is_part_of_it() {
        const NONE: &[u8] = b"\xc0\x0e\0\x06\0\x01\0\0\0\x64\0\x17\x01n\xc0\x0e\0\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x1e";
        let first = message(QUESTION, ALIAS, [1, 0]);
        // The length of what is in NONE: a name of 4 octets, the root's one, five numbers.
        let none = [&NONE[..11], &[25][..], &NONE[12..]].concat();
        let second = message(b"\x01b\x04test\0\0\x01\0\x01", &none, [0, 1]);
        let whole = response(&joined(&first, &second).unwrap(), 7, QUESTION).unwrap();
        assert_eq!((whole.negative_ttl, whole.lifetime(), whole.leads_to), (Some(30), Some(30), None));
    }

    #[test]
    fn what_ends_too_early_is_an_error() {
        let (first, second) = (message(QUESTION, ALIAS, [1, 0]), message(QUESTION, ADDRESS, [1, 0]));
        for cut in 1..second.len() {
            assert!(joined(&first, &second[..second.len() - cut]).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_joined_or_refused(
            one in proptest::collection::vec(any::<u8>(), 0..200),
            other in proptest::collection::vec(any::<u8>(), 0..200),
            counts: [u8; 2],
        ) {
            let whole = |records: &[u8]| message(QUESTION, records, counts.map(u16::from));
            let _ = joined(&whole(&one), &whole(&other));
            let _ = joined(&one, &other);
        }
    }
}
