//! Golden texts of the protocol, after the examples of <https://www.wireguard.com/xplatform/>.

use super::*;
use crate::identity::Identity;
use crate::tunnel::TunnelView;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const PRIVATE: &str = "e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a";
const PEER_A: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";
const PEER_B: &str = "58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376";
const SECRET: &str = "188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52";

fn set(lines: &[String]) -> Result<SetDevice, Refusal> {
    let text = format!("set=1\n{}\n", lines.join("\n"));
    match parse(text.as_bytes())? {
        Request::Set(device) => Ok(device),
        Request::Get => panic!("a set was read as a get"),
    }
}

fn refused(lines: &[&str]) -> Refusal {
    let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
    set(&lines).err().unwrap_or_else(|| panic!("{lines:?} was accepted"))
}

fn nets(prefixes: &[&str]) -> Vec<AllowedIp> {
    prefixes.iter().map(|prefix| AllowedIp::Add(prefix.parse().unwrap())).collect()
}

#[test]
fn a_set_may_hold_any_number_of_peers() {
    let device = set(&[
        format!("private_key={PRIVATE}"),
        "fwmark=0".into(),
        "listen_port=12912".into(),
        "replace_peers=true".into(),
        format!("public_key={PEER_A}"),
        format!("preshared_key={SECRET}"),
        "replace_allowed_ips=true".into(),
        "allowed_ip=192.168.4.4/32".into(),
        "endpoint=[abcd:23::33]:51820".into(),
        "protocol_version=1".into(),
        format!("public_key={PEER_B}"),
        "update_only=true".into(),
        "allowed_ip=192.168.4.6/32".into(),
        "allowed_ip=fd00::7/64".into(),
        "persistent_keepalive_interval=111".into(),
        "endpoint=182.122.22.19:3233".into(),
        format!("public_key={PEER_A}"),
        "remove=true".into(),
    ])
    .unwrap();
    let private_key = device.private_key.unwrap().unwrap();
    // The example's key is clamped here, as in the kernel: e8 & 248, 7a & 127 | 64.
    assert_eq!((private_key.as_bytes()[0], private_key.as_bytes()[31]), (0xe8, 0x7a));
    assert_eq!((device.fwmark, device.listen_port, device.replace_peers), (Some(0), Some(12912), true));
    let [first, second, third] = &device.peers[..] else { panic!("three peers") };
    assert!(first.preshared_key.as_ref().unwrap().as_ref().unwrap().as_bytes()[0] == 0x18);
    assert!(first.replace_allowed_ips && !first.update_only && !first.remove);
    assert_eq!(first.allowed_ips, nets(&["192.168.4.4/32"]));
    assert_eq!(first.endpoint, Some("[abcd:23::33]:51820".parse().unwrap()));
    assert_eq!(first.keepalive, None);
    assert!(second.update_only && !second.replace_allowed_ips);
    assert_eq!(second.allowed_ips, nets(&["192.168.4.6/32", "fd00::/64"]));
    assert_eq!((second.keepalive, second.endpoint), (Some(111), Some("182.122.22.19:3233".parse().unwrap())));
    assert!(third.remove && third.public_key == first.public_key);
}

#[test]
fn zero_keys_mean_none() {
    let zero = "0".repeat(64);
    let device = set(&[
        format!("private_key={zero}"),
        format!("public_key={PEER_A}"),
        format!("preshared_key={zero}"),
    ]);
    let device = device.unwrap();
    assert!(matches!(device.private_key, Some(None)));
    assert!(matches!(device.peers[0].preshared_key, Some(None)));
}

#[test]
fn endpoints_and_prefixes_come_in_several_forms() {
    let peer = |line: &str| set(&[format!("public_key={PEER_A}"), line.to_owned()]).unwrap().peers.remove(0);
    let endpoint = |text: &str| peer(&format!("endpoint={text}")).endpoint.unwrap().to_string();
    assert_eq!(endpoint("[::ffff:192.0.2.1]:5"), "192.0.2.1:5");
    assert_eq!(endpoint("[fe80::1%1]:5"), "[fe80::1%1]:5");
    assert_eq!(endpoint("[fe80::1%lo]:5"), "[fe80::1%1]:5");
    assert_eq!(peer("allowed_ip=10.0.0.1").allowed_ips, nets(&["10.0.0.1/32"]));
    assert_eq!(peer("allowed_ip=-::/0").allowed_ips, [AllowedIp::Remove("::/0".parse().unwrap())]);
}

#[test]
fn bad_lines_are_refused_and_their_values_not_repeated() {
    let peer = format!("public_key={PEER_A}");
    for (bad, subject) in [
        ("private_key=00", "private_key"),
        ("listen_port=65536", "listen_port"),
        ("listen_port=+5", "listen_port"),
        ("listen_port=", "listen_port"),
        ("fwmark=0x10", "fwmark"),
        ("replace_peers=false", "replace_peers"),
        ("allowed_ip=10.0.0.0/8", "allowed_ip"),
        ("private=x", "unknown key"),
    ] {
        assert_eq!(refused(&[bad]), Refusal::new(Errno::EINVAL, subject), "{bad}");
    }
    for (bad, subject) in [
        ("endpoint=example.org:5", "endpoint"),
        ("endpoint=192.0.2.1", "endpoint"),
        ("endpoint=[fe80::1%nowhere]:5", "endpoint"),
        ("allowed_ip=10.0.0.0/33", "allowed_ip"),
        ("protocol_version=2", "protocol_version"),
        ("persistent_keepalive_interval=65536", "persistent_keepalive_interval"),
        ("private_key=00", "private_key"),
        ("remove=1", "remove"),
    ] {
        assert_eq!(refused(&[&peer, bad]), Refusal::new(Errno::EINVAL, subject), "{bad}");
    }
    assert_eq!(refused(&["nonsense"]), Refusal::new(Errno::EPROTO, "line"));
    for bad in ["", "get=2", "set=2\n", "get=1\nprivate_key=00\n", "listen_port=1\n"] {
        assert_eq!(parse(bad.as_bytes()).err(), Some(Refusal::new(Errno::EPROTO, "operation")), "{bad}");
    }
    assert_eq!(status(Err(&refused(&["nonsense"]))), "errno=-71\n\n");
    assert_eq!(status(Ok(())), "errno=0\n\n");
}

#[test]
fn a_get_tells_everything() {
    let key = |text: &str| set(&[format!("public_key={text}")]).unwrap().peers[0].public_key;
    let mut with_secret = set(&[format!("public_key={PEER_A}"), format!("preshared_key={SECRET}")]).unwrap();
    let private = set(&[format!("private_key={PRIVATE}")]).unwrap().private_key.unwrap().unwrap();
    let quiet = TunnelView {
        preshared: None,
        endpoint: None,
        keepalive: 0,
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
    };
    let busy = TunnelView {
        preshared: with_secret.peers[0].preshared_key.take().unwrap(),
        endpoint: Some("[abcd:23::33%2]:51820".parse().unwrap()),
        keepalive: 25,
        last_handshake: Some(SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5)),
        rx_bytes: 2224,
        tx_bytes: 38333,
    };
    let device = DeviceView {
        identity: Some(Arc::new(Identity::new(private))),
        listen_port: 12912,
        fwmark: 51820,
        peers: vec![
            PeerView { public_key: key(PEER_B), tunnel: quiet, allowed_ips: vec![] },
            PeerView {
                public_key: key(PEER_A),
                tunnel: busy,
                allowed_ips: vec!["192.168.4.4/32".parse().unwrap(), "fd00::/64".parse().unwrap()],
            },
        ],
    };
    let wanted = format!(
        "private_key={PRIVATE}
listen_port=12912
fwmark=51820
public_key={PEER_B}
protocol_version=1
last_handshake_time_sec=0
last_handshake_time_nsec=0
tx_bytes=0
rx_bytes=0
persistent_keepalive_interval=0
public_key={PEER_A}
preshared_key={SECRET}
protocol_version=1
endpoint=[abcd:23::33%2]:51820
last_handshake_time_sec=1700000000
last_handshake_time_nsec=5
tx_bytes=38333
rx_bytes=2224
persistent_keepalive_interval=25
allowed_ip=192.168.4.4/32
allowed_ip=fd00::/64
errno=0

"
    );
    assert_eq!(*format(&device), wanted);
}
