//! From a tree to a manifest: the keys, their defaults, and the rules between values.

use crate::id::{MachineId, Namespace};
use crate::wire::v1::manifest::probe::HTTP_CHECK;
use crate::wire::v1::manifest::read::{BadManifest, Item, Table};
use crate::wire::v1::manifest::tree::Tree;
use crate::wire::v1::manifest::{
    Bytes, Check, Cpus, EnvName, HttpCheck, HttpRoute, MAX_REPLICAS, MIN_MEMORY, Manifest, Mode, Mount,
    Order, PathPrefix, Placement, Port, PortName, Protocol, Pull, Readiness, Resources, Restart, Rollout,
    Route, Service, Span, TcpRoute, VERSION, Volume, VolumeName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

/// The whole document.
pub(super) fn manifest(root: Item<'_>) -> Result<Manifest, BadManifest> {
    let table = root.table(&["version", "namespace", "services", "volumes"])?;
    let version = table.need("version")?;
    if !matches!(version.tree(), Tree::Integer(number) if *number == i64::from(VERSION)) {
        return Err(version.refuse(format!("this version of ployz reads version = {VERSION}")));
    }
    let namespace = namespace(&table.need("namespace")?)?;
    let volumes = table.each("volumes", volume)?;
    unique(&table, "volumes", volumes.iter().map(|volume| volume.name.to_string()))?;
    let services = table.each("services", service)?;
    unique(&table, "services", services.iter().map(|service| service.name.to_string()))?;
    routes_are_unique(&table, &services)?;
    mounts_are_declared(&table, &services, &volumes)?;
    Ok(Manifest { version: VERSION, namespace, services, volumes })
}

/// One service by itself.
pub(super) fn service(item: &Item<'_>) -> Result<Service, BadManifest> {
    let table = item.clone().table(SERVICE)?;
    let ports = table.each("ports", port)?;
    unique(&table, "ports", ports.iter().map(|port| format!("{}/{}", port.port, port.protocol)))?;
    unique(&table, "ports", ports.iter().map(|port| port.name.to_string()))?;
    unique_some(&table, "ports", ports.iter().map(|port| Some(format!("{} published", published(port)?))))?;
    let env = table.or("env", BTreeMap::new(), env)?;
    Ok(Service {
        name: table.need("name")?.parse()?,
        image: table.need("image")?.parse()?,
        pull: table.or("pull", Pull::default(), Item::parse)?,
        command: table.or("command", Vec::new(), arguments)?,
        env,
        routes: table.each("routes", |item| route(item, &ports))?,
        placement: table.or("placement", Placement::default(), placement)?,
        readiness: table.maybe("readiness", |item| readiness(item, &ports))?,
        rollout: rollout(&table, &ports)?,
        resources: table.or("resources", Resources::default(), resources)?,
        restart: table.or("restart", Restart::UnlessStopped, Item::parse)?,
        stop_grace_period: table.or("stop_grace_period", STOP_GRACE, |item| span(item, 0, 3_600))?,
        volumes: mounts(&table)?,
        ports,
    })
}

fn namespace(item: &Item<'_>) -> Result<Namespace, BadManifest> {
    let namespace: Namespace = item.parse()?;
    // `<x>.machine.ployz.internal` is a machine, so no service can be called that.
    if RESERVED.contains(&namespace.as_str()) {
        return Err(item.refuse(format!("{:?} is a name of the DNS zone itself", namespace.as_str())));
    }
    Ok(namespace)
}

fn arguments(item: &Item<'_>) -> Result<Vec<String>, BadManifest> {
    item.list()?.iter().map(plain).collect()
}

/// A text that can be an argument or a variable: no NUL, which would end it in the kernel.
fn plain(item: &Item<'_>) -> Result<String, BadManifest> {
    let text = item.text()?;
    if text.contains('\0') {
        return Err(item.refuse("holds a NUL character"));
    }
    Ok(text.to_owned())
}

fn env(item: &Item<'_>) -> Result<BTreeMap<EnvName, String>, BadManifest> {
    let read = |(key, item): (&str, Item<'_>)| {
        let name: EnvName = key.parse().map_err(|error| item.refuse(error))?;
        let value = match item.tree() {
            Tree::Integer(number) => number.to_string(),
            Tree::Bool(yes) => yes.to_string(),
            // A fraction has more than one text: 1.10 would become 1.1.
            Tree::Float(_) => return Err(item.refuse("must be a string: write the number in quotes")),
            _ => plain(&item)?,
        };
        Ok((name, value))
    };
    item.entries()?.into_iter().map(read).collect()
}

fn port(item: &Item<'_>) -> Result<Port, BadManifest> {
    let table = item.clone().table(&["name", "port", "protocol", "publish"])?;
    let port: u16 = table.need("port")?.integer(1, 65_535)?;
    let protocol = table.or("protocol", Protocol::Tcp, Item::parse)?;
    let publish = table.maybe("publish", |item| publish(item, port))?;
    let name = match table.get("name") {
        Some(item) => item.parse()?,
        None => default_name(port),
    };
    Ok(Port { name, port, protocol, publish })
}

/// `8080`, or `"8080:80"` where the second half repeats the container's port.
fn publish(item: &Item<'_>, port: u16) -> Result<u16, BadManifest> {
    let Tree::Text(text) = item.tree() else { return item.integer(1, 65_535) };
    let (host, container) = text
        .split_once(':')
        .ok_or_else(|| item.refuse(format!("{text:?} is not HOST:CONTAINER, such as 8080:{port}")))?;
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number > 0 && !text.starts_with('+'));
    match (number(host), number(container)) {
        (Some(host), Some(container)) if container == port => Ok(host),
        (Some(_), Some(container)) => {
            Err(item.refuse(format!("maps to port {container}, but this is port {port}")))
        }
        _ => Err(item.refuse(format!("{text:?} is not two ports from 1 to 65535, such as 8080:{port}"))),
    }
}

fn published(port: &Port) -> Option<String> {
    port.publish.map(|host| format!("{host}/{}", port.protocol))
}

fn default_name(port: u16) -> PortName {
    format!("port-{port}").parse().expect("port- and a number is a port name")
}

fn route(item: &Item<'_>, ports: &[Port]) -> Result<Route, BadManifest> {
    let table = item.clone().table(ROUTE)?;
    match (table.get("host"), table.get("listen")) {
        (Some(host), None) => Ok(Route::Http(HttpRoute {
            host: host.parse()?,
            path: table.or("path", root_path(), Item::parse)?,
            port: target(&table, ports)?,
            https_only: table.or("https_only", false, Item::bool)?,
            timeout: table.maybe("timeout", whole_seconds)?,
            max_body: table.maybe("max_body", bytes)?,
            rate_limit: table.maybe("rate_limit", |item| item.integer(1, 1_000_000))?,
        })),
        (None, Some(listen)) => {
            if let Some(item) = HTTP_ONLY.iter().find_map(|key| table.get(key)) {
                return Err(item.refuse("is for routes with a host, not for those with listen"));
            }
            Ok(Route::Tcp(TcpRoute { listen: listen.integer(1, 65_535)?, port: target(&table, ports)? }))
        }
        (Some(_), Some(listen)) => {
            Err(listen.refuse("a route has either host (HTTP) or listen (TCP), not both"))
        }
        (None, None) => Err(table.at().refuse("a route has either host (HTTP) or listen (TCP)")),
    }
}

/// The declared TCP port a route or a check leads to: by number, by name, or the only one there is.
fn target(table: &Table<'_>, ports: &[Port]) -> Result<u16, BadManifest> {
    let tcp: Vec<&Port> = ports.iter().filter(|port| port.protocol == Protocol::Tcp).collect();
    let Some(item) = table.get("port") else {
        return match tcp[..] {
            [only] => Ok(only.port),
            _ => table.need("port").map(|_| 0),
        };
    };
    let found = match item.tree() {
        Tree::Text(name) => tcp.iter().find(|port| port.name.as_str() == name),
        _ => {
            let number: u16 = item.integer(1, 65_535)?;
            tcp.iter().find(|port| port.port == number)
        }
    };
    found.map(|port| port.port).ok_or_else(|| {
        let known: Vec<String> = tcp.iter().map(|port| format!("{} ({})", port.port, port.name)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        item.refuse(format!("is not a TCP port of this service's ports; there is {known}"))
    })
}

fn placement(item: &Item<'_>) -> Result<Placement, BadManifest> {
    let table = item.clone().table(&["mode", "replicas", "machines", "labels"])?;
    let replicas = table.get("replicas");
    let mode = match table.get("mode").as_ref().map(Item::text).transpose()? {
        None | Some("replicated") => {
            let count = replicas.map_or(Ok(1), |item| item.integer(1, i64::from(MAX_REPLICAS)))?;
            Mode::Replicated { replicas: count }
        }
        Some("global") => match replicas {
            Some(item) => return Err(item.refuse("is not for mode global, which is one a machine")),
            None => Mode::Global,
        },
        Some(other) => {
            return Err(table.need("mode")?.refuse(format!("{other:?} is not one of replicated global")));
        }
    };
    let machines: Vec<MachineId> = table.each("machines", Item::parse)?;
    unique(&table, "machines", machines.iter().map(ToString::to_string))?;
    let labels = table.or("labels", BTreeMap::new(), labels)?;
    Ok(Placement { mode, machines: machines.into_iter().collect(), labels })
}

fn labels(item: &Item<'_>) -> Result<BTreeMap<String, String>, BadManifest> {
    let read = |(key, item): (&str, Item<'_>)| {
        if key.is_empty() || key.len() > 63 {
            return Err(item.refuse("a label's name has 1 to 63 characters"));
        }
        Ok((key.to_owned(), item.text()?.to_owned()))
    };
    item.entries()?.into_iter().map(read).collect()
}

fn readiness(item: &Item<'_>, ports: &[Port]) -> Result<Readiness, BadManifest> {
    let table = item.clone().table(READINESS)?;
    let kind = table.need("kind")?;
    let forbid = |keys: &[&str]| match keys.iter().find_map(|key| table.get(key)) {
        Some(item) => Err(item.refuse(format!("is not for a check of kind {}", kind.text()?))),
        None => Ok(()),
    };
    let check = match kind.text()? {
        "http" => {
            forbid(&["command"])?;
            Check::Http(HttpCheck::read(&table, target(&table, ports)?)?)
        }
        "tcp" => {
            forbid(&["command"])?;
            forbid(HTTP_CHECK)?;
            Check::Tcp { port: target(&table, ports)? }
        }
        "exec" => {
            forbid(&["port"])?;
            forbid(HTTP_CHECK)?;
            let item = table.need("command")?;
            let command = arguments(&item)?;
            if command.is_empty() {
                return Err(item.refuse("is empty: name a program"));
            }
            Check::Exec { command }
        }
        other => return Err(kind.refuse(format!("{other:?} is not one of http tcp exec"))),
    };
    Ok(Readiness {
        check,
        interval: table.or("interval", Span::from_secs(2), |item| span(item, 100, 3_600))?,
        timeout: table.or("timeout", Span::from_secs(2), |item| span(item, 100, 300))?,
        threshold: table.or("threshold", 1, |item| item.integer(1, 100))?,
        deadline: table.or("deadline", Span::from_secs(60), |item| span(item, 1_000, 3_600))?,
    })
}

fn rollout(service: &Table<'_>, ports: &[Port]) -> Result<Rollout, BadManifest> {
    let published = ports.iter().any(|port| port.publish.is_some());
    let default = if published { Order::StopFirst } else { Order::StartFirst };
    let Some(item) = service.get("rollout") else { return Ok(Rollout { order: default, parallelism: 1 }) };
    let table = item.table(&["order", "parallelism"])?;
    let order = table.or("order", default, Item::parse)?;
    if published && order == Order::StartFirst {
        let why = "start-first cannot be used with a published port: two containers cannot hold it at once";
        return Err(table.need("order")?.refuse(why));
    }
    Ok(Rollout {
        order,
        parallelism: table.or("parallelism", 1, |item| item.integer(1, i64::from(MAX_REPLICAS)))?,
    })
}

fn resources(item: &Item<'_>) -> Result<Resources, BadManifest> {
    let table = item.clone().table(&["cpus", "memory"])?;
    let memory = table.maybe("memory", bytes)?;
    if memory.is_some_and(|memory| memory < MIN_MEMORY) {
        return Err(table.need("memory")?.refuse(format!("must be at least {MIN_MEMORY}")));
    }
    Ok(Resources { cpus: table.maybe("cpus", cpus)?, memory })
}

fn cpus(item: &Item<'_>) -> Result<Cpus, BadManifest> {
    let number = match item.tree() {
        Tree::Float(number) => *number,
        _ => f64::from(item.integer::<u32>(1, 1024)?),
    };
    Cpus::from_number(number).ok_or_else(|| item.refuse(format!("{number} is not from 0.01 to 1024")))
}

fn volume(item: &Item<'_>) -> Result<Volume, BadManifest> {
    let table = item.clone().table(&["name", "quota", "mode", "owner"])?;
    Ok(Volume {
        name: table.need("name")?.parse()?,
        quota: table.maybe("quota", bytes)?,
        mode: table.maybe("mode", Item::parse)?,
        owner: table.maybe("owner", Item::parse)?,
    })
}

fn mounts(service: &Table<'_>) -> Result<Vec<Mount>, BadManifest> {
    let mounts = service.each("volumes", |item| {
        let table = item.clone().table(&["source", "target", "read_only"])?;
        Ok(Mount {
            source: table.need("source")?.parse()?,
            target: table.need("target")?.parse()?,
            read_only: table.or("read_only", false, Item::bool)?,
        })
    })?;
    unique(service, "volumes", mounts.iter().map(|mount| mount.target.to_string()))?;
    Ok(mounts)
}

/// A number of bytes: an integer or a text with a unit.
fn bytes(item: &Item<'_>) -> Result<Bytes, BadManifest> {
    match item.tree() {
        Tree::Integer(_) => item.integer(1, i64::MAX).map(Bytes::new),
        _ => item.parse::<Bytes>().and_then(|bytes| match bytes.get() {
            0 => Err(item.refuse("must be above 0")),
            _ => Ok(bytes),
        }),
    }
}

/// A length of time from so many milliseconds to so many seconds.
fn span(item: &Item<'_>, from_millis: u64, to_secs: u64) -> Result<Span, BadManifest> {
    let (span, from, to): (Span, _, _) =
        (item.parse()?, Span::from_millis(from_millis), Span::from_secs(to_secs));
    if (from..=to).contains(&span) {
        Ok(span)
    } else {
        Err(item.refuse(format!("{span} is not from {from} to {to}")))
    }
}

fn whole_seconds(item: &Item<'_>) -> Result<Span, BadManifest> {
    let span = span(item, 1_000, 24 * 3_600)?;
    if span.as_millis().is_multiple_of(1_000) { Ok(span) } else { Err(item.refuse("is not whole seconds")) }
}

fn root_path() -> PathPrefix {
    "/".parse().expect("/ is a path")
}

/// No two of these are equal; the second of an equal pair is named.
fn unique(table: &Table<'_>, key: &str, names: impl IntoIterator<Item = String>) -> Result<(), BadManifest> {
    unique_some(table, key, names.into_iter().map(Some))
}

fn unique_some(
    table: &Table<'_>,
    key: &str,
    names: impl IntoIterator<Item = Option<String>>,
) -> Result<(), BadManifest> {
    let mut seen = BTreeSet::new();
    for (index, name) in names.into_iter().enumerate() {
        let Some(name) = name else { continue };
        if !seen.insert(name.clone()) {
            return Err(nth(table, key, index, format!("{name} is given twice")));
        }
    }
    Ok(())
}

fn routes_are_unique(root: &Table<'_>, services: &[Service]) -> Result<(), BadManifest> {
    let mut taken = BTreeMap::new();
    for (index, service) in services.iter().enumerate() {
        for route in &service.routes {
            if let Some(first) = taken.insert(route.key(), &service.name) {
                let what = format!("the route {} is already that of {first}", route.key());
                return Err(nth(root, "services", index, what));
            }
        }
    }
    Ok(())
}

fn mounts_are_declared(
    root: &Table<'_>,
    services: &[Service],
    volumes: &[Volume],
) -> Result<(), BadManifest> {
    let declared: BTreeSet<&VolumeName> = volumes.iter().map(|volume| &volume.name).collect();
    for (index, service) in services.iter().enumerate() {
        if let Some(mount) = service.volumes.iter().find(|mount| !declared.contains(&mount.source)) {
            return Err(nth(root, "services", index, format!("volume {} is not in volumes", mount.source)));
        }
    }
    Ok(())
}

fn nth(table: &Table<'_>, key: &str, index: usize, why: impl Display) -> BadManifest {
    let items = table.get(key).and_then(|item| item.list().ok()).unwrap_or_default();
    items.get(index).unwrap_or(table.at()).refuse(why)
}

impl Route {
    /// What no two routes of a cluster may share: `shop.example.org/api`, `tcp 5432`.
    pub fn key(&self) -> String {
        match self {
            Self::Http(route) => format!("{}{}", route.host, route.path),
            Self::Tcp(route) => format!("tcp {}", route.listen),
        }
    }
}

impl Default for Placement {
    fn default() -> Self {
        let mode = Mode::Replicated { replicas: 1 };
        Self { mode, machines: BTreeSet::new(), labels: BTreeMap::new() }
    }
}

const SERVICE: &[&str] = &[
    "name",
    "image",
    "pull",
    "command",
    "env",
    "ports",
    "routes",
    "placement",
    "readiness",
    "rollout",
    "resources",
    "restart",
    "stop_grace_period",
    "volumes",
];
const ROUTE: &[&str] = &["host", "path", "port", "https_only", "timeout", "max_body", "rate_limit", "listen"];
const HTTP_ONLY: &[&str] = &["path", "https_only", "timeout", "max_body", "rate_limit"];
const READINESS: &[&str] = &[
    "kind",
    "port",
    "path",
    "method",
    "scheme",
    "host",
    "headers",
    "statuses",
    "command",
    "interval",
    "timeout",
    "threshold",
    "deadline",
];
const RESERVED: &[&str] = &["machine", "instance"];
const STOP_GRACE: Span = Span::from_secs(10);
