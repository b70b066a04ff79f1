//! `ployzd`: reads its configuration, picks its hands, takes up what runs, serves the operator.
//!
//! It is disposable: when it ends, however it ends, the data plane goes on.

mod args;
mod bounded;
mod certificates;
mod daemon;
mod deploy;
mod disk;
mod doctor;
mod failure;
mod host;
mod http;
mod image;
mod keys;
mod membership;
mod mesh;
mod metrics;
mod nats;
mod pull;
mod reach;
mod reconcile;
mod rpc;
mod supervisor;
mod transfer;

use anyhow::Context;
use args::{Args, Verb};
use clap::Parser;
use daemon::Daemon;
use disk::Disk;
use mesh::Shared;
use mesh::desired::Surroundings;
use reconcile::Reconciler;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use supervisor::Supervisor;
use supervisor::process::Processes;
use supervisor::systemd::Systemd;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let args = Args::parse();
    if let Verb::Doctor { service_mode } = args.verb {
        return look_around(&args, service_mode);
    }
    let (config, layers) = match args.configuration() {
        Ok(found) => found,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let done = match args.verb {
        Verb::CheckConfig => {
            args::describe(&config, &layers);
            Ok(())
        }
        Verb::Doctor { .. } => Ok(()),
        Verb::Run { service_mode, .. } => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.context("cannot start the runtime").and_then(|runtime| {
                let done = runtime.block_on(run(config, service_mode));
                runtime.shutdown_timeout(Duration::from_secs(1));
                done
            })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: ployz_core::config::Config, mode: args::ServiceMode) -> anyhow::Result<()> {
    ployz_host::journal::init("info,async_nats=warn");
    let disk = Disk::open(&config.data_dir)?;
    if let Err(error) = disk.sweep() {
        // What is left lying is no reason to have no daemon.
        tracing::error!("{}", ployz_core::text::chain(&error));
    }
    let supervisor = supervisor(mode, &config.data_dir);
    let seen = ployz_netns::underlay::observe().await.context("cannot read this machine's addresses")?;
    let around = surroundings(mode, config, &seen);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), mode = supervisor.service_mode(), "ployzd starts");
    let socket = around.config.socket.clone();
    let listener =
        rpc::server::listen(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let shared = Arc::new(Shared {
        around,
        disk,
        reconciler: Reconciler::new(supervisor),
        identities: Default::default(),
    });
    let daemon = Daemon::new(shared);
    let shutdown = tokio_util::sync::CancellationToken::new();
    let until = shutdown.clone().cancelled_owned();
    let serving = tokio::spawn(rpc::server::serve(listener, daemon.clone(), until));
    if let Some(at) = daemon.shared.around.config.daemon_metrics_listen_addr {
        tokio::spawn(metrics::serve(at, daemon.clone()));
    }
    daemon.resume().await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    stopped().await?;
    tracing::info!("ployzd ends; the data plane goes on");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    daemon.detach().await;
    shutdown.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(2), serving).await;
    let _ = std::fs::remove_file(&socket);
    Ok(())
}

fn look_around(args: &Args, mode: args::ServiceMode) -> ExitCode {
    let config = args.configuration().map(|(config, _)| config);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let found = runtime.block_on(doctor::alone(args, mode, config));
    println!("{}", serde_json::to_string(&found).expect("an envelope is plain data"));
    ExitCode::SUCCESS
}

fn surroundings(
    mode: args::ServiceMode,
    config: ployz_core::config::Config,
    seen: &[ployz_core::address::Observed],
) -> Surroundings {
    let offered = ployz_core::address::candidates(seen, &[], config.wireguard_listen_port, |_| false);
    Surroundings {
        libexec: libexec(),
        nats_user: is_system(mode).then(|| NATS_USER.to_owned()),
        underlay_mtu: ployz_netns::underlay::smallest_mtu(seen, &offered),
        config,
    }
}

fn is_system(mode: args::ServiceMode) -> bool {
    match mode {
        args::ServiceMode::System => true,
        args::ServiceMode::User => false,
        args::ServiceMode::Auto => Systemd::is_init(),
    }
}

fn supervisor(mode: args::ServiceMode, data_dir: &std::path::Path) -> Supervisor {
    if is_system(mode) {
        Supervisor::Systemd(Systemd::default())
    } else {
        Supervisor::Process(Processes::new(data_dir))
    }
}

async fn stopped() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Cancel-safe: signals that are not received here end the process anyway.
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    Ok(())
}

/// Where `nats-server` and `ployz-wireguard` are: `PLOYZ_LIBEXEC_DIR`, the package's directory, or beside us.
fn libexec() -> PathBuf {
    if let Some(dir) = std::env::var_os("PLOYZ_LIBEXEC_DIR") {
        return PathBuf::from(dir);
    }
    let packaged = PathBuf::from("/usr/lib/ployz");
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    match beside {
        Some(dir) if !packaged.join("nats-server").exists() => dir,
        _ => packaged,
    }
}

const NATS_USER: &str = "ployz-nats";
