//! Whether there is a way to the issuer at all, before anything is made: a token can name no address, or only such as this
//! machine has no route to (IPv4 alone on a machine with IPv6 alone).
//!
//! Connecting a UDP socket sends nothing; it asks the kernel for a route and a source address.

use crate::failure::{Failure, Result};
use nix::errno::Errno;
use ployz_core::wire::v1::api::ErrorCode;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Refuses when not one of these can be dialled from here.
pub fn check(endpoints: &[SocketAddr]) -> Result<()> {
    judge(endpoints, route)
}

fn judge(endpoints: &[SocketAddr], route: impl Fn(SocketAddr) -> io::Result<()>) -> Result<()> {
    if endpoints.is_empty() {
        return Err(Failure::new(ErrorCode::NoEndpoint, "the token names no address of the issuing machine"));
    }
    let mut causes = Vec::new();
    for to in endpoints {
        match route(*to) {
            Err(error) if is_no_route(&error) => causes.push(format!("{to}: {error}")),
            // Anything else does not say that there is no way.
            _ => return Ok(()),
        }
    }
    let message = "this machine has no route to any address in the token";
    let hint = "give this machine an address that reaches the issuing machine (IPv4 or IPv6, as the token says), or make a \
token there with one that this machine can dial: `ployzctl machine invite create --endpoint ADDRESS`";
    let failure = Failure::new(ErrorCode::IssuerUnreachable, message).with(causes);
    Err(Failure { hint: Some(hint.into()), ..failure })
}

fn route(to: SocketAddr) -> io::Result<()> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    UdpSocket::bind(any)?.connect(to)
}

fn is_no_route(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_token_without_an_address_and_one_without_a_way_are_refused_at_once() {
        assert_eq!(judge(&[], |_| Ok(())).unwrap_err().code, ErrorCode::NoEndpoint);
        let both = endpoints(&["10.0.0.1:51820", "[2001:db8::1]:51820"]);
        let refused = judge(&both, |_| Err(Errno::ENETUNREACH.into())).unwrap_err();
        assert_eq!((refused.code, refused.causes.len()), (ErrorCode::IssuerUnreachable, 2));
        assert!(!refused.unknown && refused.hint.is_some());
        assert!(
            judge(&both, |to| if to.is_ipv6() { Ok(()) } else { Err(Errno::ENETUNREACH.into()) }).is_ok()
        );
        assert!(judge(&both, |_| Err(Errno::EACCES.into())).is_ok(), "unknown is not absent");
    }

    #[test]
    fn the_kernel_knows_a_way_to_this_machine() {
        assert!(check(&endpoints(&["127.0.0.1:51820"])).is_ok());
    }
}
