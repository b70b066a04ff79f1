//! `deploy service NAME --image I --namespace N -p H:C -e K=V -v S:D --restart R -- COMMAND` as a manifest of one
//! service, judged by the same rules; refusals name the flag instead of a place in a document.

use crate::wire::v1::manifest::read::{BadManifest, Problem};
use crate::wire::v1::manifest::tree::{Node, Tree};
use crate::wire::v1::manifest::{Manifest, VERSION};
use std::collections::BTreeMap;

/// The flags as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceFlags {
    /// `NAME`.
    pub name: String,
    /// `--image`.
    pub image: String,
    /// `--pull`.
    pub pull: Option<String>,
    /// `--namespace`.
    pub namespace: String,
    /// `-p HOST:CONTAINER[/PROTOCOL]`.
    pub publish: Vec<String>,
    /// `-e KEY=VALUE`.
    pub env: Vec<String>,
    /// `-v VOLUME:PATH[:ro]`.
    pub volumes: Vec<String>,
    /// `--restart`.
    pub restart: Option<String>,
    /// What follows `--`.
    pub command: Vec<String>,
}

impl TryFrom<&ServiceFlags> for Manifest {
    type Error = BadManifest;
    fn try_from(flags: &ServiceFlags) -> Result<Self, BadManifest> {
        Self::from_node(PLACE, &document(flags)?).map_err(flag_of)
    }
}

fn document(flags: &ServiceFlags) -> Result<Node, BadManifest> {
    let ports = flags.publish.iter().map(|text| publish(text)).collect::<Result<Vec<_>, _>>()?;
    let mounts = flags.volumes.iter().map(|text| mount(text)).collect::<Result<Vec<_>, _>>()?;
    let mut service = BTreeMap::from([
        ("name".to_owned(), Node::text(&flags.name)),
        ("image".to_owned(), Node::text(&flags.image)),
        ("command".to_owned(), Node::list(flags.command.iter().map(Node::text))),
        ("env".to_owned(), env(&flags.env)?),
        ("ports".to_owned(), Node::list(ports)),
        ("volumes".to_owned(), Node::list(mounts.iter().map(|(_, node)| node.clone()))),
    ]);
    if let Some(pull) = &flags.pull {
        service.insert("pull".into(), Node::text(pull));
    }
    if let Some(restart) = &flags.restart {
        service.insert("restart".into(), Node::text(restart));
    }
    let volumes: BTreeMap<&String, Node> =
        mounts.iter().map(|(name, _)| (name, Node::table([("name", Node::text(name))]))).collect();
    Ok(Node::table([
        ("version", Node { line: None, value: Tree::Integer(i64::from(VERSION)) }),
        ("namespace", Node::text(&flags.namespace)),
        ("services", Node::list([Node::table(service)])),
        ("volumes", Node::list(volumes.into_values())),
    ]))
}

fn env(pairs: &[String]) -> Result<Node, BadManifest> {
    let mut table = BTreeMap::new();
    for pair in pairs {
        // The text is not repeated: its value may be a secret.
        let (key, value) = pair.split_once('=').ok_or_else(|| bad("--env", "expected KEY=VALUE".into()))?;
        if table.insert(key, Node::text(value)).is_some() {
            return Err(bad("--env", format!("{key} is given twice")));
        }
    }
    Ok(Node::table(table))
}

fn publish(text: &str) -> Result<Node, BadManifest> {
    let wrong = || bad("--publish", format!("{text:?} is not HOST:CONTAINER[/PROTOCOL], such as 8080:80"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (host, container) = ports.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| match text.parse::<u16>() {
        Ok(number) if number > 0 && !text.starts_with('+') => {
            Ok(Node { line: None, value: Tree::Integer(number.into()) })
        }
        _ => Err(wrong()),
    };
    Ok(Node::table([
        ("port", number(container)?),
        ("publish", number(host)?),
        ("protocol", Node::text(protocol)),
        ("name", Node::text(format!("{protocol}-{container}"))),
    ]))
}

fn mount(text: &str) -> Result<(String, Node), BadManifest> {
    let wrong = || bad("--volume", format!("{text:?} is not VOLUME:PATH[:ro]"));
    let (source, rest) = text.split_once(':').ok_or_else(wrong)?;
    if source.starts_with(['/', '.', '~']) {
        let what = format!("{source:?} is a path of the machine; only volumes can be mounted");
        return Err(bad("--volume", what));
    }
    let (target, read_only) = match rest.strip_suffix(":ro") {
        Some(target) => (target, true),
        None => (rest, false),
    };
    let node = Node::table([
        ("source", Node::text(source)),
        ("target", Node::text(target)),
        ("read_only", Node { line: None, value: Tree::Bool(read_only) }),
    ]);
    Ok((source.to_owned(), node))
}

/// The flag that a place in the made-up document stands for.
fn flag_of(error: BadManifest) -> BadManifest {
    let flag = FLAGS.iter().find(|(path, _)| error.path.starts_with(path)).map(|(_, flag)| *flag);
    BadManifest { path: flag.unwrap_or("").to_owned(), ..error }
}

fn bad(flag: &str, why: String) -> BadManifest {
    BadManifest { file: PLACE.into(), line: None, path: flag.to_owned(), problem: Problem::Value(why) }
}

const PLACE: &str = "deploy service";

const FLAGS: [(&str, &str); 9] = [
    ("services[0].name", "NAME"),
    ("services[0].image", "--image"),
    ("services[0].pull", "--pull"),
    ("services[0].command", "COMMAND"),
    ("services[0].env", "--env"),
    ("services[0].ports", "--publish"),
    ("services[0].restart", "--restart"),
    ("namespace", "--namespace"),
    ("", "--volume"),
];
