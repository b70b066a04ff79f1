//! What the keys of other programs' configurations are called here. Asked only about keys that are refused already.

/// What to write in place of an unknown key, if that is known.
pub(super) fn advice(name: &str) -> Option<&'static str> {
    let found = WORDS.iter().find(|(words, _)| words.contains(&name));
    found.map(|(_, advice)| *advice)
}

const WORDS: &[(&[&str], &str)] = &[
    (
        &[
            "gateway_tls_cert_path",
            "gateway_tls_cert",
            "tls_cert_path",
            "tls_cert",
            "tls_cert_file",
            "cert_file",
        ],
        "it is an environment variable of ployzd, PLOYZ_GATEWAY_TLS_CERT_PATH, set with `systemctl edit ployzd`; or `ployzctl cert import` for all machines at once",
    ),
    (
        &["gateway_tls_key_path", "gateway_tls_key", "tls_key_path", "tls_key", "tls_key_file", "key_file"],
        "it is an environment variable of ployzd, PLOYZ_GATEWAY_TLS_KEY_PATH, set with `systemctl edit ployzd`; or `ployzctl cert import` for all machines at once",
    ),
    (&["log", "log_level", "loglevel", "log_filter"], "it is an environment variable of ployzd, PLOYZ_LOG"),
    (
        &[
            "endpoint",
            "endpoints",
            "public_ip",
            "external_ip",
            "advertise_addr",
            "advertise_address",
            "advertise_ip",
            "advertise_endpoint",
            "node_ip",
            "bind_addr",
        ],
        "did you mean advertise_endpoints?",
    ),
    (&["listen_port", "port", "wg_port", "udp_port"], "did you mean wireguard_listen_port?"),
    (&["backend"], "did you mean wireguard_backend, or backend below [storage]?"),
    (&["zone", "availability_zone"], "did you mean az?"),
    (&["location", "datacenter", "dc"], "did you mean region?"),
    (
        &["cidr", "network_cidr", "pod_cidr", "subnet", "address_pool", "default_address_pools"],
        "did you mean cluster_cidr?",
    ),
    (&["prefix_len", "subnet_size", "subnet_len"], "did you mean subnet_prefix_len?"),
    (&["http_addr", "http_port", "http_listen_addr", "gateway_addr"], "did you mean gateway_listen_addr?"),
    (&["https_addr", "https_port", "https_listen_addr"], "did you mean gateway_https_listen_addr?"),
    (&["workers", "threads", "worker_threads", "worker_processes"], "did you mean gateway_threads?"),
    (
        &["metrics", "metrics_addr", "metrics_listen_addr"],
        "did you mean daemon_metrics_listen_addr, gateway_metrics_listen_addr or dns_metrics_listen_addr?",
    ),
    (&["state_dir", "root", "data_root"], "did you mean data_dir?"),
    (&["mtu"], "remove it: the tunnel's MTU follows from the links of the machine"),
    (&["name", "hostname", "node_name", "machine_name"], "remove it: a machine is called by its host name"),
    (&["private_key", "public_key", "peers"], "remove it: `mesh init` and `mesh join` create keys and peers"),
    (&["token", "join_token"], "remove it: a token is given to `ployzctl mesh join --token-stdin`"),
];
