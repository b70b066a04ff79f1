//! What the words of other formats (Compose, Kubernetes, Nomad) are called here, and shapes that are common there.
//!
//! It is asked only about what is refused already, so it decides nothing but the words of an error.

use crate::wire::v1::manifest::tree::Tree;

/// What to write in place of a key that another format has: its name, or why there is none.
pub(super) fn advice(path: &str, key: &str) -> Option<&'static str> {
    let (place, word) = (place(path), plain(key));
    let of = |wanted: Place| {
        let mut rows = WORDS.iter().filter(|(at, _, _)| *at == wanted);
        rows.find(|(_, words, _)| words.contains(&word.as_str())).map(|(_, _, advice)| *advice)
    };
    // Extension fields of Compose, which hold whatever their author likes.
    let extension = key.starts_with("x-").then_some("remove it: there are no extension fields");
    of(place).or_else(|| of(Place::Any)).or(extension)
}

/// How a value of this type is written here, where another format has another shape for it.
pub(super) fn shape(path: &str, have: &Tree) -> Option<&'static str> {
    let place = plain_path(path);
    let found = SHAPES.iter().find(|(at, kind, _)| *at == place && *kind == have.kind());
    found.map(|(_, _, advice)| *advice)
}

/// A key without what differs between the ways of writing it: `stopGracePeriod`, `stop-grace-period`.
pub(super) fn plain(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect()
}

/// Which table a key stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Any,
    Document,
    Service,
    Port,
    Placement,
    Readiness,
    Rollout,
    Resources,
}

fn place(path: &str) -> Place {
    match plain_path(path).as_str() {
        "" => Place::Document,
        "services" => Place::Service,
        "services.ports" => Place::Port,
        "services.placement" => Place::Placement,
        "services.readiness" => Place::Readiness,
        "services.rollout" => Place::Rollout,
        "services.resources" => Place::Resources,
        _ => Place::Any,
    }
}

/// `services[0].ports[1]` as `services.ports`.
fn plain_path(path: &str) -> String {
    let mut inside = false;
    let outside = path.chars().filter(|c| {
        let kept = !inside && *c != '[';
        inside = (inside || *c == '[') && *c != ']';
        kept
    });
    outside.collect()
}

type Word = (Place, &'static [&'static str], &'static str);

/// Words as [`plain`] gives them.
const WORDS: &[Word] = &[
    (Place::Document, &["name", "project"], "did you mean namespace?"),
    (Place::Document, &["service"], "did you mean services? Each is one [[services]]"),
    (Place::Document, &["apiversion", "kind", "metadata", "spec"], KUBERNETES),
    (Place::Document, &["job", "group", "task"], NOMAD),
    (Place::Document, &["include", "extends"], "one manifest is one file: write the services into it"),
    (
        Place::Service,
        &["environment", "envs", "envvars", "variables"],
        "did you mean env? It is a table: env = { LOG = \"info\" }",
    ),
    (
        Place::Service,
        &["envfile", "envfrom"],
        "did you mean env? Files are not read: write the variables into env",
    ),
    (
        Place::Service,
        &["healthcheck", "health", "readinessprobe", "startupprobe", "check", "checks"],
        "did you mean readiness? With kind = \"http\", \"tcp\" or \"exec\"",
    ),
    (
        Place::Service,
        &["livenessprobe"],
        "did you mean readiness? A container that is not ready gets no traffic; it is restarted when its program ends",
    ),
    (
        Place::Service,
        &["dependson", "links"],
        "remove it: services start in any order, so a program must retry until its dependencies answer; readiness says when it takes traffic",
    ),
    (Place::Service, &["replicas", "scale", "count"], "did you mean placement? placement = { replicas = 3 }"),
    (Place::Service, &["mode"], "did you mean placement? placement = { mode = \"global\" }"),
    (
        Place::Service,
        &["nodeselector", "constraints", "constraint", "affinity", "nodename"],
        "did you mean placement? placement = { labels = { disk = \"ssd\" } } or { machines = [\"node-1\"] }",
    ),
    (
        Place::Service,
        &["deploy"],
        "did you mean placement (how many, where), rollout (how they are replaced) and resources (limits)?",
    ),
    (
        Place::Service,
        &["updateconfig", "update", "strategy", "rollbackconfig"],
        "did you mean rollout? rollout = { order = \"start-first\", parallelism = 1 }; a failed deploy is undone automatically",
    ),
    (
        Place::Service,
        &["expose", "containerport", "containerports"],
        "did you mean ports? ports = [{ port = 80 }]; services of a namespace reach every port of one another",
    ),
    (Place::Service, &["publish", "hostport"], "did you mean ports? ports = [{ port = 80, publish = 8080 }]"),
    (
        Place::Service,
        &["ingress", "hosts", "domain", "domains", "host"],
        "did you mean routes? routes = [{ host = \"shop.example.org\" }]",
    ),
    (
        Place::Service,
        &["args", "arguments", "cmd"],
        "did you mean command? command = [\"serve\", \"--quiet\"]",
    ),
    (Place::Service, &["entrypoint"], "the image's own entrypoint is kept; command replaces its arguments"),
    (
        Place::Service,
        &["restartpolicy"],
        "did you mean restart? One of unless-stopped, always, on-failure, no",
    ),
    (Place::Service, &["mount", "mounts", "volumemounts"], "did you mean volumes?"),
    (
        Place::Service,
        &["memory", "memlimit", "mem", "cpus", "cpu", "limits"],
        "did you mean resources? resources = { cpus = 0.5, memory = \"256M\" }",
    ),
    (
        Place::Service,
        &["memreservation", "reservations", "requests"],
        "did you mean resources? They are limits; nothing is reserved",
    ),
    (
        Place::Service,
        &["terminationgraceperiodseconds", "killtimeout", "stoptimeout"],
        "did you mean stop_grace_period? stop_grace_period = \"20s\"",
    ),
    (
        Place::Service,
        &["imagepullpolicy", "pullpolicy"],
        "images are what each machine's own engine has; see docs/deploy.md, Images",
    ),
    (
        Place::Service,
        &["build"],
        "images are not built here: docker build, then ployzctl image push; image names it",
    ),
    (
        Place::Service,
        &["containername", "hostname"],
        "remove it: containers are named by ployz, a service is found by its name",
    ),
    (
        Place::Service,
        &["networks", "network", "networkmode"],
        "remove it: services of one namespace see one another by name, and all share one network",
    ),
    (
        Place::Service,
        &["dns", "extrahosts", "dnssearch"],
        "remove it: names are the mesh's, services are found as NAME or NAME.NAMESPACE",
    ),
    (
        Place::Service,
        &["labels", "annotations", "tags"],
        "containers take no labels of your own; placement.labels chooses machines",
    ),
    (Place::Service, &["secrets", "configs", "secret"], "not supported: put it into env, or into the image"),
    (
        Place::Service,
        &[
            "privileged",
            "capadd",
            "capdrop",
            "devices",
            "pid",
            "ipc",
            "securityopt",
            "securitycontext",
            "sysctls",
            "ulimits",
            "readonly",
            "tmpfs",
            "init",
            "user",
            "workingdir",
            "logging",
            "platform",
            "profiles",
            "stopsignal",
            "stdinopen",
            "tty",
            "shmsize",
            "runtime",
        ],
        "not supported: the image decides",
    ),
    (
        Place::Service,
        &["initcontainers", "containers", "sidecars"],
        "a service is one container: make each a service of its own",
    ),
    (Place::Port, &["target", "containerport", "to"], "did you mean port? It is the number in the container"),
    (
        Place::Port,
        &["published", "hostport", "nodeport", "static"],
        "did you mean publish? It is the port of the machine",
    ),
    (
        Place::Port,
        &["mode", "hostip"],
        "remove it: a published port is a port of every machine with an instance, on all its addresses",
    ),
    (Place::Placement, &["count", "scale"], "did you mean replicas?"),
    (
        Place::Placement,
        &["constraints", "nodeselector", "constraint", "preferences"],
        "did you mean labels or machines?",
    ),
    (Place::Placement, &["nodes", "hosts", "node"], "did you mean machines?"),
    (Place::Readiness, &["test", "cmd", "exec"], "did you mean command? With kind = \"exec\""),
    (
        Place::Readiness,
        &["http", "httpget", "url", "uri", "endpoint"],
        "did you mean path? With kind = \"http\", and host, headers, scheme where they matter",
    ),
    (Place::Readiness, &["tcp", "tcpsocket"], "did you mean port? With kind = \"tcp\""),
    (Place::Readiness, &["type"], "did you mean kind? One of http, tcp, exec"),
    (
        Place::Readiness,
        &["retries", "failurethreshold"],
        "three failures in a row take a container out of service; threshold is how many successes in a row make it ready",
    ),
    (Place::Readiness, &["successthreshold"], "did you mean threshold?"),
    (Place::Readiness, &["periodseconds", "startinterval"], "did you mean interval?"),
    (Place::Readiness, &["timeoutseconds"], "did you mean timeout?"),
    (
        Place::Readiness,
        &["startperiod", "initialdelayseconds", "graceperiod"],
        "did you mean deadline? Until then a new container may fail the check",
    ),
    (Place::Readiness, &["httpheaders", "header"], "did you mean headers? headers = { X-Probe = \"yes\" }"),
    (
        Place::Readiness,
        &["status", "expectedstatus", "codes", "statuscodes"],
        "did you mean statuses? statuses = [200, \"300-399\"]",
    ),
    (
        Place::Readiness,
        &["disable", "disabled"],
        "leave readiness out: then a container is ready as long as it runs",
    ),
    (Place::Rollout, &["maxsurge", "maxunavailable", "maxparallel", "batch"], "did you mean parallelism?"),
    (Place::Rollout, &["strategy", "type"], "did you mean order? One of start-first, stop-first"),
    (
        Place::Rollout,
        &["failureaction", "autorevert", "monitor", "delay"],
        "remove it: a deploy that is not ready in time is undone automatically",
    ),
    (Place::Resources, &["limits"], "write cpus and memory here: they are limits"),
    (
        Place::Resources,
        &["reservations", "requests"],
        "remove it: nothing is reserved; cpus and memory are limits",
    ),
    (Place::Resources, &["cpu"], "did you mean cpus?"),
    (Place::Resources, &["mem", "memorymax", "memlimit"], "did you mean memory?"),
    (
        Place::Any,
        &["networks"],
        "remove it: all services share one network, and those of a namespace see one another by name",
    ),
    (Place::Any, &["secrets", "configs"], "not supported: put it into env, or into the image"),
];

const KUBERNETES: &str = "this is no Kubernetes object: a manifest has version, namespace and services";
const NOMAD: &str = "this is no Nomad job: a manifest has version, namespace and services";

/// By the place of the value, and the type that was found there.
const SHAPES: &[(&str, &str, &str)] = &[
    ("services", "a table", "each service is one [[services]] with its name in it"),
    ("services.command", "a string", "program and arguments one by one: [\"serve\", \"--quiet\"]"),
    ("services.readiness.command", "a string", "program and arguments one by one: [\"pg_isready\", \"-q\"]"),
    ("services.env", "a list", "KEY = \"value\" pairs: { LOG = \"info\" }"),
    ("services.ports", "an integer", "{ port = 80 }"),
    ("services.ports", "a string", "{ port = 80, publish = 8080 }"),
    ("services.volumes", "a string", "{ source = \"data\", target = \"/var/lib/data\" }"),
    ("services.readiness", "a string", "{ kind = \"http\", path = \"/healthz\" }"),
    ("services.placement", "an integer", "{ replicas = 3 }"),
    ("services.restart", "a boolean", "one of unless-stopped, always, on-failure, no, in quotes"),
    ("services.stop_grace_period", "an integer", "with its unit: \"20s\""),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_word_has_one_meaning_in_a_place_and_is_written_plain() {
        let mut seen = BTreeSet::new();
        for (place, words, advice) in WORDS {
            assert!(!advice.ends_with('.'), "{advice}");
            for word in *words {
                assert_eq!(*word, plain(word));
                assert!(seen.insert((*place as u8, *word)), "{word} is there twice");
            }
        }
    }

    #[test]
    fn places_are_paths_without_their_numbers() {
        assert_eq!(plain_path("services[0].ports[12]"), "services.ports");
        assert_eq!(plain_path("services[0]"), "services");
        assert_eq!(plain_path(""), "");
    }
}
