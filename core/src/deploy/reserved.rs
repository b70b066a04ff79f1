//! Ports of the gateway's address that no TCP route can have, on whichever machine.

/// Whose a port is; `None` = it is free for routes.
pub fn reserved_port(port: u16) -> Option<&'static str> {
    RESERVED.iter().find(|(reserved, _)| *reserved == port).map(|(_, whose)| *whose)
}

const RESERVED: [(u16, &str); 10] = [
    (53, "used by DNS"),
    (80, "used by HTTP"),
    (443, "used by HTTPS"),
    (4222, "used by the store"),
    (4318, "used by joins"),
    (4319, "used by transfers between machines"),
    (6222, "used by the store"),
    (7422, "used by the store"),
    (8222, "used by the store"),
    (51820, "used by the tunnel"),
];
