//! A process that opens the sockets of its routes by itself: it is told where in its environment, at its start. So what
//! comes and goes is that variable, and each change of it is a restart; nobody keeps the sockets open meanwhile.

use super::Processes;
use crate::supervisor::{UnitError, ports};
use ployz_core::adopt::Seen;
use ployz_core::adopt::identity::Identity;
use ployz_core::live::{ActiveState, SidecarLive, SocketLive, UnitLive};
use ployz_core::spec::{RouteSockets, SidecarSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

impl Processes {
    pub(in crate::supervisor) async fn inspect_sidecar(&self, spec: &SidecarSpec) -> Seen<SidecarLive> {
        match self.inspect(&spec.unit.name).await {
            Seen::Absent => Seen::Absent,
            Seen::Present(unit) => Seen::Present(listening(spec, unit)),
            Seen::Foreign(owner) => Seen::Foreign(owner),
            Seen::Unknown(why) => Seen::Unknown(why),
        }
    }

    /// Starts it with as many of its sockets as can be had, in the place of the one that runs.
    pub(in crate::supervisor) async fn put_sidecar(&self, spec: &SidecarSpec) -> Result<(), UnitError> {
        let before = self.inspect_sidecar(spec).await;
        self.stop(&spec.unit.name).await?;
        let open = spec.routes.wanted.iter().filter(|socket| ports::taken(socket).is_none());
        let mut addresses: BTreeSet<SocketAddr> =
            open.flat_map(|socket| socket.listen.iter().map(|listen| listen.address())).collect();
        if !spec.routes.complete {
            addresses.extend(before.present().into_iter().flat_map(kept));
        }
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let told = (!addresses.is_empty()).then(|| (VARIABLE, addresses.join(",")));
        self.start_with(&spec.unit, told.into_iter().collect()).await
    }
}

/// The process, and the sockets it was told to open.
fn listening(spec: &SidecarSpec, unit: UnitLive) -> SidecarLive {
    let variable = format!("env.{VARIABLE}");
    let told = unit.identity.fields().get(&variable).cloned().unwrap_or_default();
    let fields = unit.identity.fields().iter().filter(|(name, _)| **name != variable);
    let identity = Identity::new(fields.map(|(name, value)| (name.clone(), value.clone())).collect());
    let addresses = told.split(',').filter_map(|text| text.parse().ok());
    let sockets = addresses.map(|address: SocketAddr| {
        let socket = RouteSockets::tcp(&spec.unit.name, address);
        let fingerprint = unit.fingerprint.as_ref().map(|_| socket.identity().fingerprint());
        (
            socket.name.clone(),
            SocketLive { identity: socket.identity(), fingerprint, state: ActiveState::Active },
        )
    });
    let sockets: BTreeMap<String, SocketLive> = sockets.collect();
    let live = SidecarLive { unit: Some(UnitLive { identity, ..unit }), sockets, ..SidecarLive::default() };
    SidecarLive { refused: ports::refused(spec, &live), ..live }
}

/// Where the process that ran listened for routes.
fn kept(live: &SidecarLive) -> impl Iterator<Item = SocketAddr> {
    let listens = live.sockets.values().filter_map(|socket| socket.identity.fields().get("listen"));
    listens.filter_map(|text| text.strip_prefix("stream:")?.parse().ok())
}

/// How the gateway is told (`ployz-gateway --help`).
const VARIABLE: &str = "PLOYZ_GATEWAY_TCP";

#[cfg(test)]
mod tests {
    use super::super::tests::{hands, spec};
    use super::*;
    use ployz_core::adopt::Verdict;
    use ployz_core::adopt::decide::Parent;
    use ployz_core::adopt::sidecar::verdict;
    use ployz_core::spec::{SocketSpec, UnitName, UnitSpec};

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
            verdict(spec, live, Parent::Anew(ployz_core::adopt::Component::Netns))
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
}
