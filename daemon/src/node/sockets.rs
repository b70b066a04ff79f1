//! Who has a port of the host: the kernel's tables in `/proc/net`, and whose file descriptor a socket is.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One socket of the host's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Where.
    pub at: SocketAddr,
    /// 0 for sockets of the kernel's own.
    inode: u64,
}

/// A process that has a socket; printed as `nginx (pid 7)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// As `/proc/PID/comm` has it: 15 bytes at most.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

#[cfg(test)]
impl Bound {
    pub fn at(at: SocketAddr) -> Self {
        Self { at, inode: 1 }
    }
}

/// UDP sockets on a port.
pub fn udp(port: u16) -> Vec<Bound> {
    table(&["udp", "udp6"], |state| state == CLOSED, port)
}

/// Listening TCP sockets on a port.
pub fn tcp(port: u16) -> Vec<Bound> {
    table(&["tcp", "tcp6"], |state| state == LISTENING, port)
}

/// The processes that have one of these; a caller that may not look into other processes sees none.
pub fn holders(sockets: &[Bound]) -> BTreeSet<Holder> {
    let links: Vec<String> = sockets.iter().map(|bound| format!("socket:[{}]", bound.inode)).collect();
    let mut found = BTreeSet::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let mut targets = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
        if targets.any(|target| links.iter().any(|link| target.as_os_str() == link.as_str())) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.insert(Holder { name: name.trim().to_owned(), pid });
        }
    }
    found
}

fn table(files: &[&str], is_bound: impl Fn(&str) -> bool + Copy, port: u16) -> Vec<Bound> {
    let texts = files.iter().filter_map(|file| std::fs::read_to_string(format!("/proc/net/{file}")).ok());
    texts.flat_map(|text| read(&text, is_bound)).filter(|bound| bound.at.port() == port).collect()
}

/// proc_net_tcp(5): addresses as hexadecimal words in the machine's byte order.
fn read(text: &str, is_bound: impl Fn(&str) -> bool) -> Vec<Bound> {
    let rows = text.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        if !is_bound(state) {
            return None;
        }
        let (address, port) = local.split_once(':')?;
        let at = SocketAddr::new(ip(address)?, u16::from_str_radix(port, 16).ok()?);
        Some(Bound { at, inode: inode.parse().ok()? })
    });
    rows.collect()
}

fn ip(text: &str) -> Option<IpAddr> {
    let words: Option<Vec<[u8; 4]>> = (0..text.len() / 8)
        .map(|i| u32::from_str_radix(text.get(i * 8..i * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect();
    match words?.as_slice() {
        [word] => Some(Ipv4Addr::from(*word).into()),
        [a, b, c, d] => {
            let bytes: Vec<u8> = [a, b, c, d].into_iter().flatten().copied().collect();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
        }
        _ => None,
    }
}

const LISTENING: &str = "0A";
const CLOSED: &str = "07";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0\n\
             1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0\n\
             2: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 13 1\n\
             3: nonsense\n";
        let found = read(text, |state| state == LISTENING);
        let at: Vec<String> = found.iter().map(|bound| bound.at.to_string()).collect();
        assert_eq!(at, ["127.0.0.1:8080", "[::1]:80"]);
        assert_eq!(found[0].inode, 4711);
    }

    #[test]
    fn a_listener_of_this_process_is_found_by_name() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = tcp(listener.local_addr().unwrap().port());
        assert_eq!(sockets.len(), 1);
        let own = std::process::id();
        assert!(holders(&sockets).iter().any(|holder| holder.pid == own), "{:?}", holders(&sockets));
        assert!(
            udp(listener.local_addr().unwrap().port())
                .iter()
                .all(|bound| bound.at != listener.local_addr().unwrap())
        );
    }
}
