//! Which clients run against which servers, and for how long.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Target;
use super::dns::{self, Name};
use super::tally::Tally;
use super::tls::Https;
use super::{PATIENCE, download, http1, http2, websocket};

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    host: String,
    gateways: Vec<SocketAddr>,
    resolvers: Vec<SocketAddr>,
    names: Vec<Name>,
    tcp: Option<u16>,
    https_port: Option<u16>,
    authorities: Option<PathBuf>,
    https: Option<Https>,
    kinds: Vec<String>,
    clients: usize,
    download: u64,
    seconds: Option<u64>,
}

/// Every kind of client.
pub(super) const KINDS: [&str; 12] = [
    "http1",
    "connect",
    "http2",
    "websocket",
    "download",
    "https1",
    "https-connect",
    "https2",
    "wss",
    "tcp",
    "dns-udp",
    "dns-tcp",
];

impl Plan {
    /// Reads `--option value` pairs.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut plan = Self {
            host: String::new(),
            gateways: Vec::new(),
            resolvers: Vec::new(),
            names: Vec::new(),
            tcp: None,
            https_port: None,
            authorities: None,
            https: None,
            kinds: KINDS.map(str::to_owned).to_vec(),
            clients: 1,
            download: 20,
            seconds: None,
        };
        while let Some(option) = args.next() {
            let value = args.next().with_context(|| format!("{option} needs a value"))?;
            plan.set(&option, &value).with_context(|| format!("{option} {value}"))?;
        }
        ensure!(plan.gateways.is_empty() || !plan.host.is_empty(), "which --host do the gateways serve?");
        ensure!(plan.resolvers.is_empty() || !plan.names.is_empty(), "which --name are the resolvers asked?");
        plan.https = match (plan.https_port, &plan.authorities) {
            (Some(port), Some(path)) => {
                Some(Https::new(port, path).with_context(|| path.display().to_string())?)
            }
            (None, None) => None,
            _ => bail!("--https and --ca belong together"),
        };
        Ok(plan)
    }

    fn set(&mut self, option: &str, value: &str) -> Result<()> {
        match option {
            "--host" => value.clone_into(&mut self.host),
            "--gateway" => self.gateways.push(server(value, 80)?),
            "--dns" => self.resolvers.push(server(value, 53)?),
            "--name" => {
                let (name, answer) = value.split_once('=').context("NAME=ADDRESS")?;
                self.names.push(Name { name: name.to_owned(), answer: answer.to_owned() });
            }
            "--tcp" => self.tcp = Some(value.parse()?),
            "--https" => self.https_port = Some(value.parse()?),
            "--ca" => self.authorities = Some(value.into()),
            "--kinds" => {
                self.kinds = value.split(',').map(str::to_owned).collect();
                let unknown = self.kinds.iter().find(|kind| !KINDS.contains(&kind.as_str()));
                ensure!(unknown.is_none(), "there are {KINDS:?}");
            }
            "--clients" => self.clients = value.parse()?,
            "--download" => self.download = value.parse()?,
            "--seconds" => self.seconds = Some(value.parse()?),
            _ => bail!("no such option"),
        }
        Ok(())
    }

    fn has(&self, kind: &str) -> bool {
        self.kinds.iter().any(|wanted| wanted == kind)
    }

    fn start(&self, tally: &Tally, stop: &CancellationToken) -> TaskTracker {
        let tasks = TaskTracker::new();
        for _ in 0..self.clients {
            for &server in &self.gateways {
                self.start_gateway(server, tally, stop, &tasks);
            }
            for &server in &self.resolvers {
                self.start_resolver(server, tally, stop, &tasks);
            }
        }
        tasks.close();
        tasks
    }

    fn start_gateway(
        &self,
        server: SocketAddr,
        tally: &Tally,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) {
        for kind in KINDS.into_iter().filter(|kind| self.has(kind)) {
            let Some(target) = self.target(kind, server) else { continue };
            let (server, stop) = (target.server, stop.clone());
            let score = || tally.score(kind, server);
            match kind {
                "http1" | "https1" => tasks.spawn(http1::keep_alive(score(), target, stop)),
                "connect" | "https-connect" => tasks.spawn(http1::connects(score(), target, stop)),
                "http2" | "https2" => tasks.spawn(http2::streams(score(), target, stop)),
                // On a TCP route to the service itself: the gateway only passes its bytes.
                "websocket" | "wss" | "tcp" => tasks.spawn(websocket::echo(score(), target, stop)),
                "download" => tasks.spawn(download::downloads(score(), target, self.download, stop)),
                _ => continue,
            };
        }
    }

    /// What clients of this kind ask of a gateway, if the plan says where.
    fn target(&self, kind: &str, server: SocketAddr) -> Option<Target> {
        let target = Target::new(server, self.host.clone());
        match kind {
            "tcp" => Some(Target { server: SocketAddr::new(server.ip(), self.tcp?), ..target }),
            "https1" | "https-connect" | "https2" | "wss" => {
                Some(target.with_tls(self.https.as_ref()?.of(kind, server)))
            }
            _ => Some(target),
        }
    }

    fn start_resolver(
        &self,
        server: SocketAddr,
        tally: &Tally,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) {
        for kind in KINDS.into_iter().filter(|kind| self.has(kind)) {
            let (names, stop) = (self.names.clone(), stop.clone());
            let score = || tally.score(kind, server);
            match kind {
                "dns-udp" => tasks.spawn(dns::udp(score(), server, names, stop)),
                "dns-tcp" => tasks.spawn(dns::tcp(score(), server, names, stop)),
                _ => continue,
            };
        }
    }
}

/// Runs the clients until SIGTERM, or for as long as the plan says; prints `begun` when each has got an answer.
pub async fn run(plan: Plan) -> Result<Value> {
    let mut terminated = signal(SignalKind::terminate()).context("SIGTERM")?;
    let (tally, stop) = (Tally::new(), CancellationToken::new());
    let tasks = plan.start(&tally, &stop);
    let end = async {
        match plan.seconds {
            Some(seconds) => sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = end => {}
        _ = terminated.recv() => {}
        () = begun(&tally) => {}
    }
    stop.cancel();
    tokio::time::timeout(PATIENCE * 3, tasks.wait()).await.context("a client does not end")?;
    Ok(tally.report())
}

/// Says so when every client has got an answer; never ends.
async fn begun(tally: &Tally) {
    while !tally.all_begun() {
        sleep(Duration::from_millis(20)).await;
    }
    println!("begun");
    std::future::pending().await
}

fn server(text: &str, port: u16) -> Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    Ok(SocketAddr::new(text.parse::<IpAddr>().context("an address, with or without a port")?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan> {
        Plan::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn addresses_have_the_usual_ports() {
        let plan = plan(
            "--host a --gateway 192.0.2.1 --gateway [2001:db8::1]:8080 --dns 2001:db8::2 --name a=1.2.*",
        );
        let plan = plan.unwrap();
        assert_eq!(plan.gateways, ["192.0.2.1:80".parse().unwrap(), "[2001:db8::1]:8080".parse().unwrap()]);
        assert_eq!(plan.resolvers, ["[2001:db8::2]:53".parse::<SocketAddr>().unwrap()]);
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        assert!(plan("--gateway 192.0.2.1").is_err(), "no host");
        assert!(plan("--dns 192.0.2.1").is_err(), "no name");
        assert!(plan("--kinds http1,http9").is_err());
        assert!(plan("--seconds").is_err());
        assert!(plan("--https 443").is_err() && plan("--ca /dev/null").is_err(), "they belong together");
        assert!(plan("--https 443 --ca /dev/null").is_err(), "nobody is trusted");
    }

    #[tokio::test]
    async fn every_kind_of_http_client_is_answered_by_the_service() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let service = tokio::spawn(super::super::serve(port));
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        let (https, authority) = encrypted(port, "answered").await;
        let plan = plan(&format!(
            "--host a.example --gateway 127.0.0.1:{port} --tcp {port} --https {https} --ca {authority} \
             --kinds http1,connect,websocket,download,https1,https-connect,wss,tcp --seconds 3 --download 1"
        ));
        let told = run(plan.unwrap()).await.unwrap();
        assert_eq!(told["failed"], 0, "{told:#}");
        for kind in ["http1", "connect", "websocket", "download", "https1", "https-connect", "wss", "tcp"] {
            assert!(told["kinds"][kind]["right"].as_u64() > Some(0), "{kind}: {told:#}");
        }
        service.abort();
    }

    #[tokio::test]
    async fn who_is_not_trusted_or_speaks_another_protocol_is_no_answer() {
        let (https, authority) = encrypted(1, "trusted").await;
        let (_, other) = encrypted(1, "other").await;
        for (kind, authority) in [("https1", other), ("https2", authority)] {
            let plan = plan(&format!(
                "--host a.example --gateway 127.0.0.1 --https {https} --ca {authority} --kinds {kind} --seconds 1"
            ));
            let told = run(plan.unwrap()).await.unwrap();
            let counts = &told["kinds"][kind];
            assert_eq!(counts["right"], 0, "{counts:#}");
            assert!(counts["failures"][0]["reason"].as_str().unwrap().contains("TLS"), "{counts:#}");
        }
    }

    /// TLS for `a.example` before this port, with HTTP/1.1 only; its own port, and the file of who has signed it.
    async fn encrypted(port: u16, name: &str) -> (u16, String) {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let path = std::env::temp_dir().join(format!("ployz-load-{}-{name}.crt", std::process::id()));
        std::fs::write(&path, made.cert.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec!["http/1.1".into()];
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let https = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    let mut service = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
                    tokio::io::copy_bidirectional(&mut stream, &mut service).await
                });
            }
        });
        (https, path.display().to_string())
    }

    #[tokio::test]
    async fn what_nobody_answers_is_lost() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (_, authority) = encrypted(port, "lost").await;
        let plan = plan(&format!(
            "--host a --gateway 127.0.0.1:{port} --tcp {port} --https {port} --ca {authority} \
             --dns 127.0.0.1:{port} --name a=* --seconds 1"
        ));
        let told = run(plan.unwrap()).await.unwrap();
        for kind in KINDS {
            let counts = &told["kinds"][kind];
            assert!(
                counts["failed"].as_u64() > Some(0) && counts["failed"] == counts["asked"],
                "{kind}: {counts:#}"
            );
        }
    }
}
