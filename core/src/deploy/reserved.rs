//! Ports of the gateway's address that no TCP route can have, on whichever machine.

/// Whose a port is; `None` = it is free for routes.
pub fn reserved_port(port: u16) -> Option<&'static str> {
    RESERVED.iter().find(|(reserved, _)| *reserved == port).map(|(_, whose)| *whose)
}

const RESERVED: [(u16, &str); 10] = [
    (53, "that of DNS"),
    (80, "that of HTTP"),
    (443, "that of HTTPS"),
    (4222, "that of the store"),
    (4318, "that of joins"),
    (4319, "that of transfers between machines"),
    (6222, "that of the store"),
    (7422, "that of the store"),
    (8222, "that of the store"),
    (51820, "that of the tunnel"),
];
