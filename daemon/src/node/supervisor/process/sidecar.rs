//! A process that opens the sockets of its routes by itself: its environment says where, at its start. So what comes and
//! goes are those variables, and each change of them is a restart; nothing keeps the sockets open meanwhile. Because that
//! refuses connections, a socket of IPv6 that is missing beside one of IPv4 is no reason for it: it waits for the next start.

use crate::node::supervisor::error::UnitError;
use crate::node::supervisor::ports;
use crate::node::supervisor::process::Processes;
use ployz_core::adopt::Seen;
use ployz_core::adopt::identity::Identity;
use ployz_core::live::{ActiveState, SidecarLive, SocketLive, UnitLive};
use ployz_core::spec::sidecar::{V6_ONLY_FIELD, is_tcp_purpose};
use ployz_core::spec::{RouteSockets, SidecarSpec, SocketSpec, UnitName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

impl Processes {
    pub(in crate::node::supervisor) async fn inspect_sidecar(&self, spec: &SidecarSpec) -> Seen<SidecarLive> {
        match self.inspect(&spec.unit.name).await {
            Seen::Absent => Seen::Absent,
            Seen::Present(unit) => Seen::Present(listening(spec, unit)),
            Seen::Foreign(owner) => Seen::Foreign(owner),
            Seen::Unknown(why) => Seen::Unknown(why),
        }
    }

    /// Starts it with as many of its sockets as can be had, in the place of the one that runs.
    pub(in crate::node::supervisor) async fn put_sidecar(&self, spec: &SidecarSpec) -> Result<(), UnitError> {
        let before = self.inspect_sidecar(spec).await;
        self.stop(&spec.unit.name).await?;
        let open = spec.routes.wanted.iter().filter(|socket| ports::taken(socket).is_none());
        let mut given: Given = BTreeMap::new();
        for socket in open {
            let addresses = socket.listen.iter().map(|listen| listen.address());
            given.entry(variable(socket)).or_default().extend(addresses);
        }
        if !spec.routes.complete {
            before.present().into_iter().for_each(|live| keep(live, &mut given));
        }
        let join =
            |all: BTreeSet<SocketAddr>| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let given = given.into_iter().map(|(variable, addresses)| (variable, join(addresses)));
        self.start_with(&spec.unit, given.collect()).await
    }
}

/// What the process is given: addresses by variable.
type Given = BTreeMap<&'static str, BTreeSet<SocketAddr>>;

fn variable(socket: &SocketSpec) -> &'static str {
    match (socket.v6_only, is_tcp_purpose(&socket.purpose)) {
        (false, _) => TCP,
        (true, true) => TCP6,
        (true, false) => HTTP6,
    }
}

/// The process, and the sockets it was told to open.
fn listening(spec: &SidecarSpec, unit: UnitLive) -> SidecarLive {
    let mut fields = unit.identity.fields().clone();
    let mut opened = Vec::new();
    for variable in [TCP, TCP6, HTTP6] {
        let given = fields.remove(&format!("env.{variable}")).unwrap_or_default();
        let addresses = given.split(',').filter_map(|text| text.parse().ok());
        opened.extend(addresses.map(|address| opens(&spec.unit.name, variable, address)));
    }
    let identity = Identity::new(fields);
    let sockets = opened.into_iter().map(|socket| {
        let fingerprint = unit.fingerprint.as_ref().map(|_| socket.identity().fingerprint());
        (
            socket.name.clone(),
            SocketLive { identity: socket.identity(), fingerprint, state: ActiveState::Active },
        )
    });
    let sockets: BTreeMap<String, SocketLive> = sockets.collect();
    let live = SidecarLive { unit: Some(UnitLive { identity, ..unit }), sockets, ..SidecarLive::default() };
    let mut refused = ports::refused(spec, &live);
    let missing = spec.routes.wanted.iter().filter(|want| want.v6_only && ports::is_missing(want, &live));
    for socket in missing {
        refused.entry(socket.purpose.clone()).or_insert_with(|| NEXT_START.to_owned());
    }
    SidecarLive { refused, ..live }
}

fn opens(unit: &UnitName, variable: &str, address: SocketAddr) -> SocketSpec {
    match variable {
        TCP6 => RouteSockets::tcp6(unit, address.port()),
        HTTP6 => RouteSockets::http6(unit, address.port()),
        _ => RouteSockets::tcp(unit, address),
    }
}

/// Adds where the process that ran listened for routes.
fn keep(live: &SidecarLive, given: &mut Given) {
    for socket in live.sockets.values() {
        let fields = socket.identity.fields();
        let is_tcp = fields.get("purpose").is_some_and(|purpose| is_tcp_purpose(purpose));
        let address = fields.get("listen").and_then(|text| text.strip_prefix("stream:")?.parse().ok());
        let Some(address) = address.filter(|_| is_tcp) else { continue };
        let variable = if fields.contains_key(V6_ONLY_FIELD) { TCP6 } else { TCP };
        given.entry(variable).or_default().insert(address);
    }
}

/// How the gateway learns of them (`ployz-gateway --help`).
const TCP: &str = "PLOYZ_GATEWAY_TCP";
const TCP6: &str = "PLOYZ_GATEWAY_TCP6";
const HTTP6: &str = "PLOYZ_GATEWAY_HTTP6";
const NEXT_START: &str =
    "opened when the gateway is started next (without systemd a restart refuses connections)";

#[cfg(test)]
mod tests {
    use super::super::tests::{hands, spec};
    use super::*;
    use ployz_core::adopt::Verdict;
    use ployz_core::adopt::decide::Parent;
    use ployz_core::adopt::sidecar::verdict;
    use ployz_core::spec::UnitSpec;

    fn asking(ports: &[u16], complete: bool) -> SidecarSpec {
        let unit = UnitSpec { name: UnitName::GATEWAY, ..spec(300) };
        let socket =
            |port: &u16| -> SocketSpec { RouteSockets::tcp(&unit.name, ([127, 0, 0, 1], *port).into()) };
        let routes =
            RouteSockets { wanted: ports.iter().map(socket).collect(), complete, ..RouteSockets::default() };
        SidecarSpec { unit, settings: "/nonexistent".into(), sockets: Vec::new(), routes }
    }

    /// A port that is nobody's just now.
    fn free() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn a_process_is_told_of_the_ports_that_can_be_had_and_keeps_them_until_all_is_known() {
        let hands = hands("routes");
        let somebody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, taken) = (free(), somebody.local_addr().unwrap().port());
        let found = async |spec: &SidecarSpec| match hands.0.inspect_sidecar(spec).await {
            Seen::Present(live) => live,
            other => panic!("{other:?}"),
        };
        let judge = |spec: &SidecarSpec, live: &SidecarLive| {
            verdict(spec, live, Parent::Recreated(ployz_core::adopt::Component::Netns))
        };

        let both = asking(&[port, taken], true);
        hands.0.put_sidecar(&both).await.unwrap();
        let live = found(&both).await;
        assert_eq!(live.sockets.keys().collect::<Vec<_>>(), [&format!("ployz-gateway-tcp-{port}")]);
        assert_eq!(live.refused.keys().collect::<Vec<_>>(), [&format!("tcp-{taken}")]);
        assert_eq!(judge(&both, &live), Verdict::Adopt);

        // Never known, or as last known: what it has stays.
        let unknown = asking(&[], false);
        assert_eq!(judge(&unknown, &found(&unknown).await), Verdict::Adopt);
        hands.0.put_sidecar(&unknown).await.unwrap();
        assert_eq!(found(&unknown).await.sockets.len(), 1);

        let none = asking(&[], true);
        assert_eq!(judge(&none, &found(&none).await).word(), "converge");
        hands.0.put_sidecar(&none).await.unwrap();
        assert_eq!(found(&none).await.sockets.len(), 0);
    }
    /// What a ployzd that knew IPv4 alone started stays as it is; its next start has both.
    #[tokio::test]
    async fn ipv6_beside_ipv4_waits_for_the_next_start_of_a_process() {
        let hands = hands("families");
        let found = async |spec: &SidecarSpec| match hands.0.inspect_sidecar(spec).await {
            Seen::Present(live) => live,
            other => panic!("{other:?}"),
        };
        let judge = |spec: &SidecarSpec, live: &SidecarLive| {
            verdict(spec, live, Parent::Recreated(ployz_core::adopt::Component::Netns))
        };
        let (http, tcp) = (free(), free());
        let before = asking(&[tcp], false);
        hands.0.put_sidecar(&before).await.unwrap();
        let mut both = before.clone();
        both.routes.wanted.push(RouteSockets::http6(&UnitName::GATEWAY, http));
        both.routes.wanted.push(RouteSockets::tcp6(&UnitName::GATEWAY, tcp));
        let live = found(&both).await;
        assert_eq!(judge(&both, &live), Verdict::Adopt);
        let waiting: Vec<_> = live.refused.iter().map(|(purpose, why)| (&**purpose, &**why)).collect();
        assert_eq!(waiting, [("http6", NEXT_START), (&*format!("tcp6-{tcp}"), NEXT_START)]);

        hands.0.put_sidecar(&both).await.unwrap();
        let live = found(&both).await;
        assert_eq!((live.sockets.len(), live.refused.len()), (3, 0));
        assert_eq!(judge(&both, &live), Verdict::Adopt);

        // An address was given: HTTP over IPv6 goes at once, what a route asked for stays until all is known.
        assert_eq!(judge(&before, &live).word(), "converge");
        hands.0.put_sidecar(&before).await.unwrap();
        let live = found(&before).await;
        let left: Vec<_> = live.sockets.keys().map(String::as_str).collect();
        assert_eq!(left, [format!("ployz-gateway-tcp-{tcp}"), format!("ployz-gateway-tcp6-{tcp}")]);
    }
}
