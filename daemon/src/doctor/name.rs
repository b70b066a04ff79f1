//! One question to this machine's DNS server over UDP, small enough to be written by hand (RFC 1035 section 4).

use super::context::limited;
use std::net::SocketAddr;
use tokio::net::UdpSocket;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// 0 is no error, 2 a failure of the server, 3 no such name.
    pub(super) code: u8,
    /// How many records.
    pub(super) answers: u16,
    /// Texts of the records, if they are that.
    pub(super) texts: Vec<String>,
}

/// Address.
pub(super) const A: u16 = 1;
/// Text.
pub(super) const TXT: u16 = 16;

/// Asks for records of one kind; the error is why there was no answer.
pub(super) async fn ask(server: SocketAddr, name: &str, kind: u16) -> Result<Reply, String> {
    let asking = async {
        let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        socket.send(&query(name, kind)).await?;
        let mut packet = [0; 1232];
        let len = socket.recv(&mut packet).await?;
        Ok::<_, std::io::Error>(packet[..len].to_vec())
    };
    match limited(asking).await {
        None => Err("timed out".into()),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(packet)) => read(&packet).ok_or_else(|| "an invalid response".into()),
    }
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut packet = vec![0x70, 0x6c, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or(63));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

fn read(packet: &[u8]) -> Option<Reply> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let (code, answers) = (packet.get(3)? & 0xf, word(6)?);
    let mut at = past_name(packet, 12)? + 4;
    let mut texts = Vec::new();
    for _ in 0..answers {
        let fields = past_name(packet, at)?;
        let (kind, len) = (word(fields)?, usize::from(word(fields + 8)?));
        let data = packet.get(fields + 10..fields + 10 + len)?;
        if kind == TXT {
            texts.extend(strings(data));
        }
        at = fields + 10 + len;
    }
    Some(Reply { code, answers, texts })
}

/// The position behind a name, which may end in a pointer.
fn past_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            len if len >= 0xc0 => return Some(at + 2),
            len => at += 1 + usize::from(len),
        }
    }
}

fn strings(mut data: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while let Some((len, rest)) = data.split_first() {
        let (text, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        found.push(String::from_utf8_lossy(text).into_owned());
        data = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u8, data: &[u8]) -> Vec<u8> {
        let mut packet = query("_status.ployz.internal", TXT);
        packet[2] = 0x85;
        packet[3] = code;
        packet[7] = 1;
        packet.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0, 0, u8::try_from(data.len()).unwrap()]);
        packet.extend(data);
        packet
    }

    #[test]
    fn texts_of_an_answer_are_read() {
        let reply = read(&answered(0, b"\x0efreshness=live\x0asequence=9")).unwrap();
        assert_eq!(reply.texts, ["freshness=live", "sequence=9"]);
        assert_eq!((reply.code, reply.answers), (0, 1));
    }

    #[test]
    fn whatever_is_cut_off_is_no_answer_and_no_panic() {
        let whole = answered(2, b"\x04text");
        for len in 0..whole.len() {
            assert_eq!(read(&whole[..len]), None, "{len}");
        }
        assert_eq!(read(&whole).unwrap().code, 2);
        assert_eq!(strings(b"\xffshort"), ["short"]);
    }
}
