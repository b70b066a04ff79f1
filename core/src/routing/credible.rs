//! Which routing events are believed: every member may publish some, so what they say about addresses is judged once, here, before
//! any view is made of it. A gateway that followed them anywhere would be a way into each machine's own network.

use crate::address::{AddressPlan, OverlayPrefix};
use crate::id::MachineId;
use crate::routing::{Event, State, Value};
use std::net::Ipv4Addr;

/// What events are judged by.
#[derive(Debug, Clone, Copy)]
pub struct Grounds {
    /// Of the network.
    pub overlay: OverlayPrefix,
    /// Of the network; `None` where a process was not told by an older ployzd.
    pub plan: Option<AddressPlan>,
}

impl Grounds {
    /// Whether the addresses an event names can be what it says they are. One that is not credible counts as a deletion.
    pub fn credible(&self, event: &Event) -> bool {
        let Some(plan) = self.plan else { return true };
        match &event.value {
            Some(Value::Machine(machine)) => {
                self.overlay.net().contains(&machine.overlay_ip) && plan.holds(&machine.subnet)
            }
            // Not the host's, not the namespace's, and none outside the cluster.
            Some(Value::Instance(instance)) => {
                plan.containing(instance.address).is_some_and(|subnet| subnet.is_container(instance.address))
            }
            Some(Value::Service(_)) | None => true,
        }
    }

    /// What of a state is believed.
    pub fn believed(&self, state: &State) -> State {
        let mut believed = State::default();
        for event in state.events().filter(|event| self.credible(event)) {
            believed.apply(event);
        }
        believed
    }
}

impl State {
    /// Whether a machine may say that an instance has this address: it is in the node subnet that the machine has. One whose record is
    /// not known (yet) is judged by [`Grounds`] alone.
    pub fn speaks_for(&self, machine: &MachineId, address: Ipv4Addr) -> bool {
        self.machines.get(machine).is_none_or(|machine| machine.subnet.net().contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NetworkId;
    use crate::routing::{InstanceRoute, Key, MachineRoute, ServiceRef};

    fn grounds() -> Grounds {
        let plan = Some(AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap());
        Grounds { overlay: OverlayPrefix::of(&NetworkId::from_bytes([7; 16])), plan }
    }

    fn service() -> ServiceRef {
        ServiceRef { namespace: "shop".parse().unwrap(), service: "web".parse().unwrap() }
    }

    fn instance(address: &str) -> Event {
        let route = InstanceRoute {
            address: address.parse().unwrap(),
            revision: "r".into(),
            deploy: "0011223344556677".parse().unwrap(),
            slot: 0,
            ready: true,
            draining: false,
        };
        let key = Key::Instance("n2".parse().unwrap(), service(), "web-0-aaaaa".parse().unwrap());
        Event { key, value: Some(Value::Instance(route)) }
    }

    #[test]
    fn an_instance_is_where_containers_can_be() {
        for address in ["10.101.2.3", "10.101.255.253"] {
            assert!(grounds().credible(&instance(address)), "{address}");
        }
        // Loopback of the namespace, the host, DNS, the way out, other networks, the metadata service of a cloud.
        for address in [
            "127.0.0.1",
            "10.101.2.0",
            "10.101.2.1",
            "10.101.2.2",
            "10.101.2.254",
            "10.101.2.255",
            "10.102.0.3",
            "10.77.0.1",
            "169.254.169.254",
            "192.168.1.1",
            "8.8.8.8",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            assert!(!grounds().credible(&instance(address)), "{address}");
        }
    }

    #[test]
    fn a_kept_state_is_judged_in_the_same_way() {
        let mut state = State::default();
        for event in [instance("10.101.2.3"), instance("127.0.0.1")] {
            state.apply(event);
            let kept = grounds().believed(&state);
            assert_eq!(kept.instances.contains_key(&service()), grounds().believed(&state) == state);
        }
        assert!(grounds().believed(&state).instances.is_empty(), "the last one is loopback");
        assert_eq!(
            Grounds { plan: None, ..grounds() }.believed(&state),
            state,
            "an older ployzd said no plan"
        );
    }

    #[test]
    fn a_machine_has_a_slice_of_the_plan_and_an_address_of_the_overlay() {
        let route = |overlay: &str, subnet: &str| Event {
            key: Key::Machine("n2".parse().unwrap()),
            value: Some(Value::Machine(MachineRoute {
                overlay_ip: overlay.parse().unwrap(),
                subnet: serde_json::from_value(subnet.into()).unwrap(),
            })),
        };
        let inside = grounds().overlay.address(&crate::key::PublicKey::from_bytes([2; 32])).to_string();
        assert!(grounds().credible(&route(&inside, "10.101.2.0/24")));
        for (overlay, subnet) in
            [("::1", "10.101.2.0/24"), (&inside, "10.77.0.0/24"), (&inside, "10.101.0.0/16")]
        {
            assert!(!grounds().credible(&route(overlay, subnet)), "{overlay} {subnet}");
        }
    }

    #[test]
    fn a_machine_speaks_for_its_own_slice() {
        let mut state = State::default();
        let subnet = serde_json::from_value("10.101.2.0/24".into()).unwrap();
        state
            .machines
            .insert("n2".parse().unwrap(), MachineRoute { overlay_ip: "::1".parse().unwrap(), subnet });
        let (n2, n9) = ("n2".parse().unwrap(), "n9".parse().unwrap());
        assert!(state.speaks_for(&n2, "10.101.2.3".parse().unwrap()));
        assert!(!state.speaks_for(&n2, "10.101.3.3".parse().unwrap()));
        assert!(state.speaks_for(&n9, "10.101.3.3".parse().unwrap()));
    }
}
