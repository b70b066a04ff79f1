//! Load for scenarios: clients that check every answer, and the service that gives them.

use std::env;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use ployz_tests::load::{Plan, run, serve};

const HELP: &str = "\
load run --host NAME [--gateway ADDR]... [--dns ADDR]... [--name NAME=ADDRESS]... [--tcp PORT] [--https PORT --ca FILE]
         [--kinds LIST] [--clients N] [--download SECONDS] [--seconds N]
             run clients against gateways and DNS servers until SIGTERM or for N seconds; prints `begun` when every client
             has got its first answer, and at the end one JSON object: what was asked, answered and lost. ADDRESS may end
             in `*`. Exit code 1 when something was lost
             kinds (default: all): http1,connect,http2,websocket,download; with --https and --ca, the authorities that must
             have signed what the gateways show: https1,https-connect,https2,wss; with --tcp, the port of a TCP route to the
             same service: tcp; dns-udp,dns-tcp
load serve PORT
             the service they ask: /echo/TOKEN, /download/SECONDS, /ws
";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match dispatch().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn dispatch() -> Result<ExitCode> {
    let mut args = env::args().skip(1);
    match args.next().unwrap_or_default().as_str() {
        "run" => {
            let told = run(Plan::parse(args)?).await?;
            println!("{told}");
            Ok(if told["failed"] == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        "serve" => {
            let port = args.next().context("load serve PORT")?.parse().context("the port")?;
            serve(port).await.map(|()| ExitCode::SUCCESS)
        }
        "" | "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        verb => bail!("`{verb}` is no command\n{HELP}"),
    }
}
