//! DNS messages, as much as asking for addresses takes (RFC 1035, 4.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};

/// A query for the A records of `name`, recursion desired.
pub(crate) fn query(id: u16, name: &str) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, TYPE_A as u8, 0, 1]);
    packet
}

/// The addresses in the answer to [`query`]; anything but success is an error.
pub(crate) fn addresses(id: u16, name: &str, packet: &[u8]) -> Result<Vec<IpAddr>> {
    let question = query(id, name);
    ensure!(packet.len() >= question.len(), "{} bytes", packet.len());
    ensure!(packet[..2] == question[..2], "another query's answer");
    ensure!(packet[2] & 0x80 != 0 && packet[2] & 2 == 0, "no answer, or cut short: {:x?}", &packet[..12]);
    ensure!(packet[3] & 15 == 0, "response code {}", packet[3] & 15);
    ensure!(packet[12..question.len()] == question[12..], "another question's answer");
    let mut at = question.len();
    let mut found = Vec::new();
    for _ in 0..word(packet, 6)? {
        at = skip_name(packet, at)?;
        let (kind, length) = (word(packet, at)?, usize::from(word(packet, at + 8)?));
        let data = packet.get(at + 10..at + 10 + length).context("cut short")?;
        match kind {
            TYPE_A => found.push(Ipv4Addr::from(<[u8; 4]>::try_from(data)?).into()),
            TYPE_AAAA => found.push(Ipv6Addr::from(<[u8; 16]>::try_from(data)?).into()),
            _ => {}
        }
        at += 10 + length;
    }
    Ok(found)
}

fn word(packet: &[u8], at: usize) -> Result<u16> {
    let bytes = packet.get(at..at + 2).context("cut short")?;
    Ok(u16::from_be_bytes(bytes.try_into()?))
}

fn skip_name(packet: &[u8], mut at: usize) -> Result<usize> {
    loop {
        match *packet.get(at).context("cut short")? {
            0 => return Ok(at + 1),
            pointer if pointer >= 0xc0 => return Ok(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: u16) -> Vec<u8> {
        let mut packet = query(id, "web.shop");
        packet[2..4].copy_from_slice(&[0x85, 0x80]);
        packet[7] = 1;
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 101, 0, 3]);
        packet
    }

    #[test]
    fn addresses_of_an_answer() {
        let found = addresses(7, "web.shop", &answer(7)).unwrap();
        assert_eq!(found, ["10.101.0.3".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn wrong_answers_are_errors() {
        assert!(addresses(8, "web.shop", &answer(7)).is_err(), "another id");
        assert!(addresses(7, "db.shop", &answer(7)).is_err(), "another name");
        assert!(addresses(7, "web.shop", &query(7, "web.shop")).is_err(), "a query is no answer");
        let whole = answer(7);
        assert!((0..whole.len()).all(|end| addresses(7, "web.shop", &whole[..end]).is_err()), "cut short");
        let mut failed = answer(7);
        failed[3] |= 2;
        assert!(addresses(7, "web.shop", &failed).unwrap_err().to_string().contains("code 2"));
    }
}
