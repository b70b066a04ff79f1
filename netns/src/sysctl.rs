//! Sysctls below `/proc/sys/net`: read and written in the namespace of the thread that looks, and written only where they
//! differ.

use crate::error::{Context, Error, Result};
use crate::namespace;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Values by name.
pub type Sysctls = BTreeMap<String, String>;

/// Whether this kernel has IPv6 at all: booted with `ipv6.disable=1` there is not even a switch for it.
pub fn kernel_has_ipv6() -> bool {
    Path::new(IPV6).exists()
}

/// Those of `wanted` that are there, as they are in this namespace.
pub fn read(wanted: &Sysctls) -> Result<Sysctls> {
    let found =
        wanted.keys().filter_map(|name| one(name).map(|value| Some((name.clone(), value?))).transpose());
    found.collect()
}

/// The same in the namespace of `netns`.
pub fn read_inside(netns: &Path, wanted: &Sysctls) -> Result<Sysctls> {
    namespace::inside(netns, || read(wanted))?
}

/// Sets what differs in this namespace.
pub fn write(wanted: &Sysctls) -> Result<()> {
    for (name, value) in wanted {
        let now = std::fs::read_to_string(path(name)).doing("read sysctl", name.as_str())?;
        if now.trim() != value {
            std::fs::write(path(name), value).doing("write sysctl", name.as_str())?;
        }
    }
    Ok(())
}

/// The same in the namespace of `netns`.
pub fn write_inside(netns: &Path, wanted: &Sysctls) -> Result<()> {
    namespace::inside(netns, || write(wanted))?
}

/// Whether a link may have IPv6 addresses.
pub(crate) fn ipv6_is_on(netns: &Path, link: &str) -> Result<bool> {
    let name = disable_ipv6(link);
    let found = namespace::inside(netns, || one(&name))??;
    Ok(found.is_some_and(|value| value == "0"))
}

/// Lets a link have IPv6 addresses, whatever is set for all links.
pub(crate) fn switch_ipv6_on(netns: &Path, link: &str) -> Result<()> {
    if !kernel_has_ipv6() {
        let (operation, subject) = ("switch on IPv6 of", link.to_owned());
        let detail = "the kernel runs without IPv6 (ipv6.disable=1 on its command line)".to_owned();
        return Err(Error::Protocol { operation, subject, detail });
    }
    write_inside(netns, &Sysctls::from([(disable_ipv6(link), "0".to_owned())]))
}

/// `None`: of a link that is not there, or of a protocol that the kernel does not have.
fn one(name: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(path(name)) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing("read sysctl", name),
    }
}

fn disable_ipv6(link: &str) -> String {
    format!("ipv6/conf/{link}/disable_ipv6")
}

fn path(name: &str) -> String {
    format!("/proc/sys/net/{name}")
}

const IPV6: &str = "/proc/sys/net/ipv6";
