//! `deploy` and `service` as operators type them. What is in a manifest is judged in `ployz_core`, not here.
//!
//! The doc comments below are the help texts and, through clap_mangen, the manual pages.

use crate::complete::{namespaces, service_names, services};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use jiff::Timestamp;
use ployz_core::id::{DeployId, InstanceId, Namespace, ServiceName};
use ployz_core::wire::v1::manifest::MAX_REPLICAS;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `deploy`.
#[derive(Args)]
pub(crate) struct Deploy {
    #[command(flatten)]
    pub(crate) file: File,
    /// Show the plan and change nothing, like `deploy preview`
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Refuse unless this is still the namespace's latest deploy (`baseline` of a preview)
    #[arg(long, value_name = "DEPLOY", conflicts_with = "dry_run")]
    pub(crate) expect_baseline: Option<DeployId>,
    #[command(subcommand)]
    pub(crate) verb: Option<DeployVerb>,
}

/// Where the manifest is.
#[derive(Args)]
pub(crate) struct File {
    /// The manifest, TOML or JSON; `-` reads standard input [default: ./ployz.toml or ./ployz.json]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// `deploy preview`, `deploy service`, `deploy attach`.
#[derive(Subcommand)]
pub(crate) enum DeployVerb {
    /// Show what a deploy would do: every service and slot, the machines, the phases. Changes nothing
    Preview(File),
    /// Deploy one service from flags instead of a manifest; other services of its namespace stay as they are
    #[command(after_help = SERVICE_HELP)]
    Service(Box<OneService>),
    /// Follow a running deploy from its first line, or show how one ended
    #[command(after_help = ATTACH_HELP)]
    Attach(Attach),
}

/// `deploy attach`.
#[derive(Args)]
pub(crate) struct Attach {
    /// The deploy [default: the latest running on this machine, else the latest that ended]
    pub(crate) deploy: Option<DeployId>,
    /// Undo it; refused once it is committed
    #[arg(long)]
    pub(crate) abort: bool,
}

/// A service as flags.
#[derive(Args)]
pub(crate) struct OneService {
    /// Its name, also its DNS name
    #[arg(add = ArgValueCompleter::new(service_names))]
    pub(crate) name: String,
    /// The image, as each machine's own engine or its registry knows it
    #[arg(long)]
    pub(crate) image: String,
    /// When the image is pulled from its registry [default: missing]
    #[arg(long, value_parser = PULLS)]
    pub(crate) pull: Option<String>,
    /// Its namespace
    #[arg(long, add = ArgValueCompleter::new(namespaces))]
    pub(crate) namespace: String,
    /// Publish a container port on the machine: 8080:80, 53:53/udp
    #[arg(short, long, value_name = "HOST:CONTAINER[/PROTOCOL]")]
    pub(crate) publish: Vec<String>,
    /// Environment variable; other users of this machine can see it in the process list
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    /// Read more variables from standard input, one KEY=VALUE per line
    #[arg(long)]
    pub(crate) env_stdin: bool,
    /// Mount a volume of the namespace into the containers
    #[arg(short, long, value_name = "SRC:DST[:ro]")]
    pub(crate) volume: Vec<String>,
    /// When Docker restarts a container [default: unless-stopped]
    #[arg(long, value_parser = RESTARTS)]
    pub(crate) restart: Option<String>,
    /// How many containers, spread over the machines [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_REPLICAS)))]
    pub(crate) replicas: Option<u32>,
    /// Show the plan and change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Command and arguments, instead of the image's own
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// `service`.
#[derive(Subcommand)]
pub(crate) enum Service {
    /// List the services: image, how many of the wanted instances are ready, routes
    #[command(visible_alias = "list")]
    Ls {
        /// Only this namespace
        #[arg(long, add = ArgValueCompleter::new(namespaces))]
        namespace: Option<Namespace>,
    },
    /// Show one service: the committed spec, and each instance with its machine, address and state
    Inspect {
        /// The service
        #[arg(value_name = "NAMESPACE/SERVICE", add = ArgValueCompleter::new(services))]
        service: Named,
    },
    /// Print a service's logs, each line prefixed with the instance's name
    #[command(after_help = LOGS_HELP)]
    Logs(Logs),
    /// Remove a service: its routes and DNS names, then, after draining, its containers
    #[command(visible_alias = "remove")]
    Rm {
        /// The service
        #[arg(value_name = "NAMESPACE/SERVICE", add = ArgValueCompleter::new(services))]
        service: Named,
        /// Show the plan and change nothing
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
}

/// `service logs`.
#[derive(Args)]
pub(crate) struct Logs {
    /// The service
    #[arg(value_name = "NAMESPACE/SERVICE", add = ArgValueCompleter::new(services))]
    pub(crate) service: Named,
    /// Only this instance
    #[arg(long)]
    pub(crate) instance: Option<InstanceId>,
    /// Newest N lines of each instance [default: 100; with --since, all of them]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) tail: Option<u32>,
    /// Only lines newer than this age, or printed after this time: 90s, 10m, 2h, 3d, 2026-07-01T12:00:00Z, @1782907200
    #[arg(long, value_name = "AGE|TIME")]
    pub(crate) since: Option<Since>,
    /// Keep printing new lines, also from instances started later, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
}

/// `NAMESPACE/SERVICE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) namespace: Namespace,
    pub(crate) service: ServiceName,
}

/// A time: an age, a date of RFC 3339, or seconds since 1970 behind an `@`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// So long ago.
    Ago(Duration),
    /// So long after 1970.
    At(Duration),
}

impl FromStr for Named {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, service) =
            text.split_once('/').ok_or("expected NAMESPACE/SERVICE; `ployzctl service ls` lists them")?;
        let namespace = namespace.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { namespace, service: service.parse().map_err(|error| format!("{error}"))? })
    }
}

impl FromStr for Since {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "expected an age such as 90s, 10m, 2h or 3d, or a time such as 2026-07-01T12:00:00Z or @1782907200";
        since(text).ok_or_else(|| wrong.to_owned())
    }
}

impl Since {
    /// In nanoseconds since 1970, as machines date lines.
    pub(crate) fn nanos(self) -> u64 {
        let since_1970 = match self {
            Self::At(since_1970) => since_1970,
            Self::Ago(age) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                now.saturating_sub(age)
            }
        };
        u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
    }
}

fn since(text: &str) -> Option<Since> {
    // `parse` alone would take a sign.
    let whole = |digits: &str| {
        digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if let Some(seconds) = text.strip_prefix('@') {
        return whole(seconds).map(|seconds| Since::At(Duration::from_secs(seconds)));
    }
    if let Ok(date) = text.parse::<Timestamp>() {
        return Some(Since::At(Duration::try_from(date.as_duration()).unwrap_or_default()));
    }
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let (digits, scale) =
        units.into_iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    Some(Since::Ago(Duration::from_secs(whole(digits)?.checked_mul(scale)?)))
}

/// Here for the help and the completion; what they mean is the manifest's.
const RESTARTS: [&str; 4] = ["unless-stopped", "always", "on-failure", "no"];
const PULLS: [&str; 3] = ["missing", "always", "never"];

pub(super) const DEPLOY_HELP: &str = "\
A manifest lists everything that runs in one namespace; services it does not name are removed.
  ployzctl deploy preview                 the plan for ./ployz.toml or ./ployz.json
  ployzctl deploy -f shop.toml
  render-manifest | ployzctl deploy -f -
All participating machines are checked before anything changes, and new containers must be ready
before the deploy is committed. If it fails before that, it is undone.
Ctrl-C ends this command, not the deploy: `deploy attach` follows it again. A second Ctrl-C undoes
a deploy that is not committed yet.";

const ATTACH_HELP: &str = "\
A deploy continues in ployzd after its command ends. The exit code is the deploy's. Deploys that
ended within the last hour are shown too; for a deploy on another machine, only its phases.
  ployzctl deploy attach
  ployzctl deploy attach 0011223344556677 --abort";

const SERVICE_HELP: &str = "\
Example:
  ployzctl deploy service web --namespace shop --image shop-web:42 --replicas 3 -p 8080:80 -- serve
Pass secrets on standard input:
  ployzctl deploy service web --namespace shop --image shop-web:42 --env-stdin < secrets.env
Routes, readiness, placement and limits need a manifest.";

const LOGS_HELP: &str = "\
Examples:
  ployzctl service logs shop/web --tail 20 -f
  ployzctl service logs shop/web --since 10m --plain | grep -c stderr
With --json and --follow, each line is one JSON object.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_an_age_or_a_date() {
        let ago = |seconds| Ok(Since::Ago(Duration::from_secs(seconds)));
        for (text, want) in [("0s", ago(0)), ("90s", ago(90)), ("10m", ago(600)), ("3d", ago(259_200))] {
            assert_eq!(text.parse(), want);
        }
        let noon = Since::At(Duration::from_secs(1_782_907_200));
        for text in ["@1782907200", "2026-07-01T12:00:00Z", "2026-07-01T14:00:00+02:00"] {
            assert_eq!(text.parse(), Ok(noon), "{text}");
        }
        let precise: Since = "2026-07-01T12:00:00.5Z".parse().unwrap();
        assert_eq!(precise.nanos(), noon.nanos() + 500_000_000);
        let before_1970: Since = "1969-07-20T20:17:40Z".parse().unwrap();
        assert_eq!(before_1970.nanos(), 0);
        for bad in [
            "",
            "s",
            "10",
            "-5m",
            "+5m",
            "5 m",
            "@",
            "@x",
            "1w",
            "99999999999999999999s",
            "2026-07-01",
            "2026-13-01T00:00:00Z",
        ] {
            assert!(bad.parse::<Since>().is_err(), "{bad}");
        }
    }

    #[test]
    fn restarts_are_those_of_a_manifest() {
        use ployz_core::wire::v1::manifest::{Pull, Restart};
        assert!(RESTARTS.iter().all(|word| word.parse::<Restart>().is_ok()));
        assert!(PULLS.iter().all(|word| word.parse::<Pull>().is_ok()));
    }

    #[test]
    fn a_time_before_1970_is_1970() {
        assert_eq!(Since::Ago(Duration::MAX).nanos(), 0);
        assert_eq!(Since::At(Duration::MAX).nanos(), u64::MAX);
    }
}
