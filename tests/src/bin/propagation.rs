//! Times how fast commits reach every gateway and DNS server; see [`ployz_tests::propagation`].

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use ployz_core::id::MachineId;
use ployz_core::routing::ServiceRef;
use ployz_tests::propagation::{Plan, Store, fill, follow};

const HELP: &str = "\
propagation fill STORE NETWORK-DIRECTORY SERVICES MACHINE...
             write routes of so many services with an instance on each machine
propagation follow STORE NETWORK-DIRECTORY NAMESPACE SERVICE COMMITS --gateway ADDRESS... --dns ADDRESS...
             time so many commits of a service (`VERSION` in its environment, route `v<VERSION>.<namespace>.example.org`),
             from the store's acknowledgement until every gateway and DNS server answers; prints `begun` when it listens,
             and at the end lines `what:median:p99:longest` in milliseconds
STORE is the client address of the founder's server.
";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match dispatch().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("propagation: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch() -> Result<()> {
    let mut args = env::args().skip(1);
    let mut next = || args.next().context(HELP);
    let verb = next()?;
    let (server, network) = (next()?, PathBuf::from(next()?));
    let store = Store::connect(&server, &network).await?;
    match verb.as_str() {
        "fill" => {
            let services = next()?.parse().context("SERVICES")?;
            let machines = args.map(|name| name.parse()).collect::<Result<Vec<MachineId>, _>>()?;
            fill(&store, services, &machines).await
        }
        "follow" => {
            let service = ServiceRef { namespace: next()?.parse()?, service: next()?.parse()? };
            let mut plan = Plan {
                service,
                count: next()?.parse().context("COMMITS")?,
                gateways: Vec::new(),
                resolvers: Vec::new(),
            };
            while let (Some(option), Some(value)) = (args.next(), args.next()) {
                let address = value.parse().with_context(|| format!("{option} {value}"))?;
                match option.as_str() {
                    "--gateway" => plan.gateways.push(address),
                    "--dns" => plan.resolvers.push(address),
                    _ => bail!("`{option}` is no option\n{HELP}"),
                }
            }
            follow(&store, &plan).await?.iter().for_each(|line| println!("{line}"));
            Ok(())
        }
        _ => bail!("`{verb}` is no command\n{HELP}"),
    }
}
