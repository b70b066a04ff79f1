//! DNS as its clients meet it: every kind of question by dig, names in a container, and a load that is served on while the
//! server is replaced.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::product::{self, NETWORK};
use super::{Ctx, Need, Scenario};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "dns-conformance",
    needs: &[Need::Systemd, Need::Docker, Need::Package, Need::Native],
    nodes: 2,
    underlays: 1,
    run: conformance,
}];

fn conformance(ctx: &mut Ctx) -> Result<()> {
    product::mesh_with_image(ctx, 2)?;
    let n1 = ctx.node(1);
    for namespace in ["shop", "blog"] {
        let manifest = MANIFEST.replace("NAMESPACE", namespace);
        n1.put(manifest, "/root/ployz.toml", 0o644)?;
        n1.sh_for(Duration::from_secs(120), "ployzctl deploy -f /root/ployz.toml")?;
    }
    let [overlay, service] = product::addresses(n1)?;
    ctx.wait(20, "every instance to be known", || {
        let found = n1.sh(&format!("dig +short +time=2 +tries=1 @{overlay} many.shop.ployz.internal A"))?;
        ensure!(found.lines().count() == INSTANCES, "{found}");
        Ok(Some(()))
    })?;
    for server in [&overlay, &service] {
        every_question(n1, server)?;
    }
    askers(n1)?;
    served_while_replaced(ctx, n1, &service)?;
    for namespace in ["shop", "blog"] {
        n1.sh_for(Duration::from_secs(120), &format!("ployzctl service rm {namespace}/many"))?;
    }
    n1.sh(&format!("ployzctl mesh destroy {NETWORK}")).map(drop)
}

/// What dig says to each way of asking; all of it must be in what it prints.
fn every_question(node: &Node, server: &str) -> Result<()> {
    let many = "many.shop.ployz.internal";
    let instance = node.sh(&format!("dig +short @{server} _http._tcp.{many} SRV"))?;
    let target = instance.split_whitespace().nth(3).context("an SRV target")?.to_owned();
    let address = node.sh(&format!("dig +short @{server} {target} A"))?;
    let soa = "SOA\tn1.machine.ployz.internal. hostmaster.ployz.internal.";
    let questions: Vec<(String, Vec<&str>)> = vec![
        (format!("{many} A"), vec!["status: NOERROR", "qr aa rd ra", "ANSWER: 6,"]),
        (format!("+tcp {many} A"), vec!["ANSWER: 6,", "(TCP)"]),
        (format!("+noedns {many} A"), vec!["ANSWER: 6,"]),
        (format!("+bufsize=512 {many} A"), vec!["ANSWER: 6,", "udp: 1232"]),
        (format!("+dnssec {many} A"), vec!["ANSWER: 6,", "flags: do; udp: 1232"]),
        (format!("+nsid {many} A"), vec!["ANSWER: 6,", "NOERROR"]),
        (format!("+norecurse {many} A"), vec!["qr aa ra", "ANSWER: 6,"]),
        (format!("+nocookie {many} A"), vec!["ANSWER: 6,"]),
        (format!("+subnet=192.0.2.0/24 {many} A"), vec!["ANSWER: 6,"]),
        (format!("+edns=1 +noednsnegotiation {many} A"), vec!["BADVERS"]),
        (format!("+opcode=notify {many} SOA"), vec!["NOTIMP"]),
        ("MANY.Shop.PLOYZ.internal A".to_owned(), vec!["ANSWER: 6,"]),
        (format!("{many} ANY"), vec!["HINFO\t\"RFC8482\"", "ANSWER: 1,"]),
        (format!("{many} AAAA"), vec!["NOERROR", "ANSWER: 0,", "AUTHORITY: 1,", soa]),
        ("none.shop.ployz.internal A".to_owned(), vec!["NXDOMAIN", "AUTHORITY: 1,", soa]),
        ("shop.ployz.internal A".to_owned(), vec!["NOERROR", "ANSWER: 0,", soa]),
        ("ployz.internal SOA".to_owned(), vec!["ANSWER: 1,", soa]),
        ("ployz.internal NS".to_owned(), vec!["NS\tn1.machine.ployz.internal."]),
        (format!("_http._tcp.{many} SRV"), vec!["ANSWER: 6,", "0 10 8080 "]),
        // Six targets with their addresses are more than 512 octets.
        (format!("+noedns +ignore _http._tcp.{many} SRV"), vec!["qr aa tc rd ra"]),
        (format!("+noedns _http._tcp.{many} SRV"), vec!["ANSWER: 6,", "ADDITIONAL: 6", "(TCP)"]),
        (format!("-x {address}"), vec!["PTR", &target]),
        ("-x 10.101.200.200".to_owned(), vec!["NXDOMAIN", "SOA"]),
        ("_status.ployz.internal TXT".to_owned(), vec!["\"freshness=live\"", "\"services=2\""]),
        ("+tcp ployz.internal AXFR".to_owned(), vec!["Transfer failed"]),
        ("CH version.bind TXT".to_owned(), vec!["REFUSED"]),
        ("many A".to_owned(), vec!["NXDOMAIN"]),
    ];
    for (question, wanted) in questions {
        let said = node.sh(&format!("dig +time=3 +tries=1 @{server} {question}"))?;
        let said = said.replace("\tIN\t", "\t");
        for words in wanted {
            ensure!(said.contains(words), "dig @{server} {question}: no {words:?} in\n{said}");
        }
    }
    Ok(())
}

/// A short name is the asker's own namespace's, told by nothing but its address: glibc's getent in a container's network and
/// with its resolv.conf.
fn askers(node: &Node) -> Result<()> {
    for (namespace, other) in [("shop", "blog"), ("blog", "shop")] {
        let getent = |name: &str| {
            node.sh(&format!(
                "c=$(docker ps -q --filter label=ployz.namespace={namespace} | head -n 1)
                 set -- $(docker inspect -f '{{{{.State.Pid}}}} {{{{.ResolvConfPath}}}}' $c)
                 nsenter -t $1 -n unshare -m sh -c \"mount --bind $2 /etc/resolv.conf && getent ahostsv4 {name}\" | awk '{{print $1}}' | sort -u"
            ))
        };
        let (own, others) = (
            getent(&format!("many.{namespace}.ployz.internal"))?,
            getent(&format!("many.{other}.ployz.internal"))?,
        );
        ensure!(own.lines().count() == INSTANCES && others.lines().count() == INSTANCES, "{own} {others}");
        for name in ["many", "many.ployz.internal"] {
            let found = getent(name)?;
            ensure!(found == own && found != others, "{name} in {namespace}: {found}, not {own}");
        }
        let container =
            node.sh(&format!("docker ps -q --filter label=ployz.namespace={namespace} | head -n 1"))?;
        node.sh(&format!("docker exec {container} timeout 5 wget -q -O /dev/null http://many:8080/busybox"))?;
    }
    Ok(())
}

/// As many questions as a core can take, while the server is restarted again and again.
fn served_while_replaced(ctx: &Ctx, node: &Node, server: &str) -> Result<()> {
    dnsperf(node)?;
    let names = "many.shop.ployz.internal A\nmany.blog.ployz.internal A\n_http._tcp.many.shop.ployz.internal SRV\n\
                 none.shop.ployz.internal A\nn2.machine.ployz.internal AAAA\n";
    node.put(names, "/run/names", 0o644)?;
    let load = node.spawn(&format!("{DNSPERF} -s {server} -d /run/names -c 50 -l 12 -Q 5000 -t 5"))?;
    let mut processes = std::collections::BTreeSet::new();
    for _ in 0..4 {
        node.sh("systemctl restart ployz-dns && sleep 1")?;
        processes.insert(node.sh("systemctl show -P MainPID ployz-dns")?);
    }
    ensure!(processes.len() == 4, "not replaced: {processes:?}");
    let told = load.wait(ctx.lab.secs(40))?.stdout;
    for line in told.lines().filter(|line| line.contains("Queries") || line.contains("codes")) {
        ctx.say(line.trim());
    }
    let count = |what: &str| -> Result<u64> {
        let line = told.lines().find(|line| line.contains(what)).with_context(|| told.clone())?;
        let number = line.split(':').nth(1).and_then(|rest| rest.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).with_context(|| line.to_owned())
    };
    ensure!(count("Queries lost")? == 0 && count("Queries completed")? > 10_000, "{told}");
    let codes = told.lines().find(|line| line.contains("Response codes")).context("response codes")?;
    ensure!(!codes.contains("SERVFAIL") && !codes.contains("REFUSED"), "{codes}");
    Ok(())
}

/// The build machine's dnsperf with all it is linked to; it is not part of the nodes' tree.
fn dnsperf(node: &Node) -> Result<()> {
    let listed =
        Command::new("sh").args(["-c", "command -v dnsperf && ldd $(command -v dnsperf)"]).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    node.sh("mkdir -p /opt/dnsperf")?;
    for path in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let name = Path::new(path).file_name().and_then(|name| name.to_str()).context("a file name")?;
        node.put_file(Path::new(path), &format!("/opt/dnsperf/{name}"), 0o755)?;
    }
    Ok(())
}

const DNSPERF: &str =
    "exec /opt/dnsperf/ld-linux-x86-64.so.2 --library-path /opt/dnsperf /opt/dnsperf/dnsperf";

const INSTANCES: usize = 6;

const MANIFEST: &str = r#"version = 1
namespace = "NAMESPACE"

[[services]]
name = "many"
image = "lab/busybox"
command = ["httpd", "-f", "-p", "8080", "-h", "/bin"]
stop_grace_period = "1s"
ports = [{ port = 8080, name = "http" }]
placement = { replicas = 6 }
readiness = { kind = "tcp", port = 8080, interval = "300ms" }
"#;
