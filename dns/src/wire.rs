//! DNS messages as bytes: enough to pass on what others answered without changing it.
//!
//! What we say ourselves is written with hickory's types; what an upstream said is checked here and handed on byte for byte
//! (RFC 3597: types nobody here knows must survive). RFC 1035 section 4 is the format.

mod joined;

pub use joined::joined;

/// Length of a header.
pub const HEADER: usize = 12;
/// What we say we take over UDP, and at most send (DNS flag day 2020: no fragmentation).
pub const UDP_PAYLOAD: u16 = 1232;
/// Smallest limit of UDP (RFC 1035 section 2.3.4).
pub const UDP_PLAIN: usize = 512;

/// Bits of the second and third 16-bit words of a header that are read or written here.
pub mod flag {
    /// Response.
    pub const QR: u16 = 0x8000;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Authentic data.
    pub const AD: u16 = 0x0020;
    /// Checking disabled.
    pub const CD: u16 = 0x0010;
}

/// Response codes by number (RFC 6895).
pub mod rcode {
    /// Answered.
    pub const NOERROR: u16 = 0;
    /// Not understood.
    pub const FORMERR: u16 = 1;
    /// Could not be answered.
    pub const SERVFAIL: u16 = 2;
    /// There is no such name.
    pub const NXDOMAIN: u16 = 3;
    /// This kind of request is not served.
    pub const NOTIMP: u16 = 4;
    /// Not served to this asker, or not this question.
    pub const REFUSED: u16 = 5;
    /// A version of EDNS that is not known (RFC 6891 section 9).
    pub const BADVERS: u16 = 16;
}

/// A message that breaks the format, or is not an answer to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Ends too early.
    #[error("ends in the middle of a field")]
    Short,
    /// A name that is longer than 255 octets or uses reserved label types.
    #[error("has a malformed name")]
    Name,
    /// RFC 6891 section 6.1.1: it is one of the additional records.
    #[error("has an OPT record among its answers")]
    Misplaced,
    /// A name that is made of itself: a pointer that does not lead backwards (RFC 1035 section 4.1.4).
    #[error("has a name with an invalid pointer")]
    Pointer,
    /// Another id, another question, or not a response at all.
    #[error("does not answer the query")]
    Stranger,
}

/// What was found in a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Response code with the extension of RFC 6891.
    pub rcode: u16,
    /// Whether it says that it is not whole.
    pub truncated: bool,
    /// Where its times to live stand.
    pub ttls: Vec<u16>,
    /// Smallest of them, `None` without records.
    pub smallest_ttl: Option<u32>,
    /// For how long "there is none" holds (RFC 2308 section 5), when it is one and says so.
    pub negative_ttl: Option<u32>,
    /// Whether it says nothing of what was asked: it names others to ask (RFC 2308 section 2.2), or answers about another name.
    pub beside: bool,
    /// The name that its aliases lead to, when it says nothing of that: neither records nor that there are none.
    pub leads_to: Option<Vec<u8>>,
    /// The message without its OPT record.
    pub message: Vec<u8>,
}

/// Where the only question ends that starts after the header. Compressed names are not taken: nothing is before it.
pub fn question_end(message: &[u8]) -> Result<usize, Malformed> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at).ok_or(Malformed::Short)?);
        at += 1 + length;
        match length {
            0 => break,
            1..=63 if at - HEADER < 255 => {}
            _ => return Err(Malformed::Name),
        }
    }
    if message.len() < at + 4 { Err(Malformed::Short) } else { Ok(at + 4) }
}

/// A question (name, type, class) with its name in lower case. Types are numbers, though some look like letters: that of
/// HTTPS records is the octet of an `A`.
pub fn in_lower_case(question: &[u8]) -> Vec<u8> {
    let mut question = question.to_vec();
    let name = question.len().saturating_sub(TYPE_AND_CLASS);
    question[..name].make_ascii_lowercase();
    question
}

/// The 16-bit number at `at`.
pub fn word(message: &[u8], at: usize) -> Result<u16, Malformed> {
    let bytes = message.get(at..at + 2).ok_or(Malformed::Short)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Writes a 16-bit number; nothing happens past the end.
pub fn put(message: &mut [u8], at: usize, value: u16) {
    if let Some(place) = message.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// A query for what `question` (name, type, class) says.
pub fn query(id: u16, question: &[u8], edns: Option<bool>, checking_disabled: bool) -> Vec<u8> {
    let flags = flag::RD | if checking_disabled { flag::CD } else { 0 };
    let mut out = header(id, flags);
    put(&mut out, 4, 1);
    out.extend_from_slice(question);
    if let Some(dnssec_ok) = edns {
        append_opt(&mut out, dnssec_ok);
    }
    out
}

/// A header without records.
pub fn header(id: u16, flags: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(UDP_PLAIN);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    out
}

/// Adds the OPT record of RFC 6891.
pub fn append_opt(message: &mut Vec<u8>, dnssec_ok: bool) {
    message.push(0);
    message.extend_from_slice(&OPT.to_be_bytes());
    message.extend_from_slice(&UDP_PAYLOAD.to_be_bytes());
    message.extend_from_slice(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    let records = word(message, 10).unwrap_or(0);
    put(message, 10, records + 1);
}

/// Whether this is a response to the query with this id and question, whatever else is wrong with it. Anything else is a
/// stranger's and says nothing about who was asked.
pub fn answers(message: &[u8], id: u16, question: &[u8]) -> bool {
    let end = HEADER + question.len();
    let asked = |end| in_lower_case(&message[HEADER..end]) == in_lower_case(question);
    is_response(message, id) && word(message, 4) == Ok(1) && question_end(message) == Ok(end) && asked(end)
}

/// An error that does not repeat the question; the code says which. Nothing else is believed without the question: an error
/// is all that who guesses an id and a port wins by it.
pub fn bare_error(message: &[u8], id: u16, question: &[u8]) -> Option<Response> {
    let code = word(message, 2).ok()? & 0xf;
    let error = !matches!(code, rcode::NOERROR | rcode::NXDOMAIN);
    let bare = is_response(message, id) && word(message, 4) == Ok(0) && error;
    bare.then(|| without_question(id, flag::QR | code, question))
}

fn is_response(message: &[u8], id: u16) -> bool {
    message.len() >= HEADER
        && word(message, 0) == Ok(id)
        && word(message, 2).is_ok_and(|flags| flags & flag::QR != 0 && flags & OPCODE == 0)
}

/// Reads the response to a query with this id and question.
pub fn response(message: &[u8], id: u16, question: &[u8]) -> Result<Response, Malformed> {
    let flags = word(message, 2)?;
    if word(message, 0)? != id || flags & flag::QR == 0 || flags & OPCODE != 0 {
        return Err(Malformed::Stranger);
    }
    // Who could not read the query cannot repeat its question.
    if word(message, 4)? == 0 && matches!(flags & 0xf, rcode::FORMERR | rcode::NOTIMP) {
        return Ok(without_question(id, flags, question));
    }
    let end = if word(message, 4)? == 1 { question_end(message)? } else { return Err(Malformed::Stranger) };
    let asked = in_lower_case(question);
    if in_lower_case(&message[HEADER..end]) != asked {
        return Err(Malformed::Stranger);
    }
    let mut found = Response { truncated: flags & flag::TC != 0, ..Response::empty(flags & 0xf) };
    if found.truncated {
        return Ok(found);
    }
    let counts = [word(message, 6)?, word(message, 8)?, word(message, 10)?];
    let kept = found.records(message, end, counts, &asked)?;
    found.message = message[..kept.1].to_vec();
    put(&mut found.message, 10, kept.0);
    Ok(found)
}

/// As if the question had been repeated.
fn without_question(id: u16, flags: u16, question: &[u8]) -> Response {
    let mut message = header(id, flags & !flag::TC);
    put(&mut message, 4, 1);
    message.extend_from_slice(question);
    Response { message, ..Response::empty(flags & 0xf) }
}

impl Response {
    fn empty(rcode: u16) -> Self {
        Self {
            rcode,
            truncated: false,
            ttls: Vec::new(),
            smallest_ttl: None,
            negative_ttl: None,
            beside: false,
            leads_to: None,
            message: Vec::new(),
        }
    }

    /// Reads all records; how many additional ones to keep and where they end. `question`: in lower case.
    fn records(
        &mut self,
        message: &[u8],
        from: usize,
        counts: [u16; 3],
        question: &[u8],
    ) -> Result<(u16, usize), Malformed> {
        let asked = word(question, question.len() - TYPE_AND_CLASS)?;
        let name = &question[..question.len() - TYPE_AND_CLASS];
        let (mut at, mut kept) = (from, None);
        let (mut answered, mut of_name, mut soa, mut others) = (false, false, false, false);
        let (mut owner, mut last) = (Vec::with_capacity(NAME_LONGEST), name.to_vec());
        for (section, count) in counts.into_iter().enumerate() {
            for index in 0..count {
                let start = at;
                let fixed = read_name(message, at, &mut owner)?;
                let (kind, length) = (word(message, fixed)?, usize::from(word(message, fixed + 8)?));
                let ttl = u32::from(word(message, fixed + 4)?) << 16 | u32::from(word(message, fixed + 6)?);
                at = fixed + 10 + length;
                if at > message.len() {
                    return Err(Malformed::Short);
                }
                if kind == OPT && section < 2 {
                    return Err(Malformed::Misplaced);
                }
                if kind == OPT {
                    self.rcode |= (ttl >> 24 << 4) as u16;
                    // What follows may point behind it, so it goes too: additional records are optional.
                    kept.get_or_insert((index, start));
                    continue;
                }
                if kept.is_some() {
                    continue;
                }
                of_name |= section == 0 && (owner == name || (kind == DNAME && name.ends_with(&owner)));
                let alias = section == 0 && kind == CNAME && owner == last;
                names_within(message, kind, fixed + 10, at, &mut owner)?;
                if alias {
                    last.clone_from(&owner);
                }
                // RFC 2181 section 8: a set top bit means zero.
                let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
                self.ttls.push(u16::try_from(fixed + 4).map_err(|_| Malformed::Short)?);
                self.smallest_ttl = Some(self.smallest_ttl.map_or(ttl, |least| least.min(ttl)));
                answered |= section == 0 && (kind == asked || asked == ANY);
                (soa, others) = (soa | (section == 1 && kind == SOA), others | (section == 1 && kind == NS));
                if section == 1 && kind == SOA && length >= 20 {
                    let minimum = at - 4;
                    let minimum =
                        u32::from(word(message, minimum)?) << 16 | u32::from(word(message, minimum + 2)?);
                    self.negative_ttl = Some(ttl.min(minimum));
                }
            }
        }
        if answered {
            self.negative_ttl = None;
        }
        let referral = self.rcode == rcode::NOERROR && counts[0] == 0 && others && !soa;
        self.beside = referral || (counts[0] > 0 && !of_name);
        let half = self.rcode == rcode::NOERROR && !answered && !soa && asked != CNAME;
        self.leads_to = (half && last != name).then_some(last);
        Ok(kept.unwrap_or((counts[2], at)))
    }

    /// For how many seconds it may be kept; `None`: not at all. What is not there may be what an alias leads to, which
    /// holds no longer than the alias.
    pub fn lifetime(&self) -> Option<u32> {
        let least = self.smallest_ttl.unwrap_or(0).min(NEGATIVE_MOST);
        match self.rcode {
            rcode::NXDOMAIN => self.negative_ttl.map(|ttl| ttl.min(least)),
            rcode::NOERROR if self.negative_ttl.is_some() => self.negative_ttl.map(|ttl| ttl.min(least)),
            rcode::NOERROR if word(&self.message, 6).unwrap_or(0) > 0 => {
                self.smallest_ttl.map(|ttl| ttl.min(POSITIVE_MOST))
            }
            _ => None,
        }
    }
}

/// Where the name ends that starts at `at`.
pub fn skip_name(message: &[u8], mut at: usize) -> Result<usize, Malformed> {
    let limit = at + 255;
    loop {
        let length = usize::from(*message.get(at).ok_or(Malformed::Short)?);
        match length {
            0 => return Ok(at + 1),
            1..=63 if at < limit => at += 1 + length,
            192.. => return Ok(at + 2),
            _ => return Err(Malformed::Name),
        }
    }
}

/// Reads the name that starts at `at` whole and in lower case into `name`; where it ends. Every pointer must lead before all that
/// was read of the name, so that it ends, whatever an upstream has written.
fn read_name(message: &[u8], at: usize, name: &mut Vec<u8>) -> Result<usize, Malformed> {
    name.clear();
    let (mut place, mut first, mut end) = (at, at, None);
    loop {
        let length = usize::from(*message.get(place).ok_or(Malformed::Short)?);
        match length {
            0 => {
                name.push(0);
                return Ok(end.unwrap_or(place + 1));
            }
            1..=63 if name.len() + length + 1 < NAME_LONGEST => {
                let label = message.get(place..=place + length).ok_or(Malformed::Short)?;
                name.extend(label.iter().map(u8::to_ascii_lowercase));
                place += 1 + length;
            }
            192.. => {
                end.get_or_insert(place + 2);
                place = usize::from(word(message, place)? & 0x3fff);
                if place >= first || place < HEADER {
                    return Err(Malformed::Pointer);
                }
                first = place;
            }
            _ => return Err(Malformed::Name),
        }
    }
}

/// Checks the names inside a record of the types that may have compressed ones (RFC 3597 section 4), SRV and DNAME with them.
fn names_within(
    message: &[u8],
    kind: u16,
    from: usize,
    to: usize,
    name: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let (skipped, count, rest) = match kind {
        NS | CNAME | PTR | DNAME => (0, 1, 0),
        MX => (2, 1, 0),
        SRV => (6, 1, 0),
        SOA => (0, 2, 20),
        _ => return Ok(()),
    };
    // An update or a negative of some servers has empty ones; they say nothing and harm nothing.
    if from == to {
        return Ok(());
    }
    let mut at = from + skipped;
    for _ in 0..count {
        at = read_name(message, at, name)?;
    }
    if at + rest == to { Ok(()) } else { Err(Malformed::Short) }
}

/// Octets of a question after its name.
pub const TYPE_AND_CLASS: usize = 4;
/// Octets of a name, its end counted (RFC 1035 section 2.3.4).
const NAME_LONGEST: usize = 255;
const OPCODE: u16 = 0x7800;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const PTR: u16 = 12;
const MX: u16 = 15;
const SRV: u16 = 33;
const DNAME: u16 = 39;
const OPT: u16 = 41;
const ANY: u16 = 255;
/// Seconds. A name that appears must not stay hidden for hours.
const NEGATIVE_MOST: u32 = 300;
/// Seconds.
const POSITIVE_MOST: u32 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUESTION: &[u8] = b"\x01a\x04test\x00\x00\x01\x00\x01";

    fn answer(records: &[&[u8]], counts: [u16; 3]) -> Vec<u8> {
        let mut out = header(7, flag::QR | flag::RD | flag::RA);
        put(&mut out, 4, 1);
        for (place, count) in counts.iter().enumerate() {
            put(&mut out, 6 + 2 * place, *count);
        }
        out.extend_from_slice(QUESTION);
        records.iter().for_each(|record| out.extend_from_slice(record));
        out
    }

    const A: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x01\x02\x03\x04";
    const OPT_RECORD: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
    const SOA_RECORD: &[u8] =
        b"\x04test\x00\x00\x06\x00\x01\x00\x00\x00\x64\x00\x16\x00\x00\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x1e";

    #[test]
    fn an_answer_is_kept_without_its_opt_record() {
        let whole = answer(&[A, OPT_RECORD], [1, 0, 1]);
        let found = response(&whole, 7, QUESTION).unwrap();
        assert_eq!(found.message, answer(&[A], [1, 0, 0]));
        assert_eq!((found.rcode, found.lifetime(), found.ttls), (0, Some(60), vec![12 + 12 + 6]));
    }

    #[test]
    fn a_negative_answer_lives_as_long_as_its_soa_says() {
        let found = response(&answer(&[SOA_RECORD], [0, 1, 0]), 7, QUESTION).unwrap();
        assert_eq!(found.lifetime(), Some(30));
        let nothing = response(&answer(&[], [0, 0, 0]), 7, QUESTION).unwrap();
        assert_eq!(nothing.lifetime(), None);
    }

    #[test]
    fn what_an_alias_leads_to_is_missing_no_longer_than_the_alias_holds() {
        const ALIAS: &[u8] = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x05\x00\x03\x01b\x00";
        let found = response(&answer(&[ALIAS, SOA_RECORD], [1, 1, 0]), 7, QUESTION).unwrap();
        assert_eq!((found.negative_ttl, found.lifetime()), (Some(30), Some(5)));
    }

    #[test]
    fn a_type_that_looks_like_a_letter_keeps_its_number() {
        const HTTPS: &[u8] = b"\x01A\x04tEst\x00\x00\x41\x00\x01";
        assert_eq!(in_lower_case(HTTPS), b"\x01a\x04test\x00\x00\x41\x00\x01");
        let mut other = header(7, flag::QR);
        put(&mut other, 4, 1);
        other.extend_from_slice(b"\x01a\x04test\x00\x00\x61\x00\x01");
        assert_eq!(response(&other, 7, HTTPS), Err(Malformed::Stranger), "type 97 is none of 65");
    }

    #[test]
    fn another_id_or_question_or_a_query_is_a_strangers() {
        let whole = answer(&[A], [1, 0, 0]);
        assert_eq!(response(&whole, 8, QUESTION), Err(Malformed::Stranger));
        assert_eq!(response(&whole, 7, b"\x01b\x04test\x00\x00\x01\x00\x01"), Err(Malformed::Stranger));
        assert_eq!(response(&query(7, QUESTION, None, false), 7, QUESTION), Err(Malformed::Stranger));
    }

    #[test]
    fn a_bare_header_that_says_not_understood_is_an_answer() {
        for code in [rcode::FORMERR, rcode::NOTIMP] {
            let found = response(&header(7, flag::QR | code), 7, QUESTION).unwrap();
            assert_eq!((found.rcode, found.lifetime()), (code, None));
            assert_eq!(&found.message[HEADER..], QUESTION);
            assert_eq!(response(&header(8, flag::QR | code), 7, QUESTION), Err(Malformed::Stranger));
        }
        for code in [rcode::NOERROR, rcode::NXDOMAIN, rcode::REFUSED] {
            assert_eq!(response(&header(7, flag::QR | code), 7, QUESTION), Err(Malformed::Stranger));
        }
    }

    #[test]
    fn an_opt_record_among_the_answers_breaks_the_format() {
        assert_eq!(response(&answer(&[OPT_RECORD], [1, 0, 0]), 7, QUESTION), Err(Malformed::Misplaced));
        assert_eq!(response(&answer(&[A, OPT_RECORD], [1, 1, 0]), 7, QUESTION), Err(Malformed::Misplaced));
    }

    #[test]
    fn an_extended_response_code_is_read_whole() {
        let mut opt = OPT_RECORD.to_vec();
        opt[5] = 1;
        assert_eq!(response(&answer(&[A, &opt], [1, 0, 1]), 7, QUESTION).unwrap().rcode, 16);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = question_end(&bytes);
            let _ = response(&bytes, 7, QUESTION);
        }

        #[test]
        fn a_damaged_answer_is_read_or_refused(at in 0usize..90, value: u8, cut in 0usize..90) {
            let mut whole = answer(&[A, SOA_RECORD, OPT_RECORD], [1, 1, 1]);
            if let Some(byte) = whole.get_mut(at) { *byte = value; }
            whole.truncate(whole.len() - cut.min(whole.len()));
            if let Ok(found) = response(&whole, 7, QUESTION) {
                prop_assert!(found.ttls.iter().all(|at| usize::from(*at) + 4 <= found.message.len()));
            }
        }
    }
}
