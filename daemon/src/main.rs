//! `ployzd`: reads its configuration, picks its hands, takes up what runs, serves the operator.
//!
//! It is disposable: when it ends, however it ends, the data plane goes on.

mod api;
mod args;
mod bounded;
mod certificates;
mod compose;
mod deploy;
mod descriptors;
mod doctor;
mod failure;
mod http;
mod image;
mod keys;
mod lifecycle;
mod membership;
mod network;
mod node;
mod progress;
mod pull;
mod reach;
mod state;
mod transfer;

use anyhow::Context;
use args::{Args, Verb};
use clap::Parser;
use lifecycle::Daemon;
use state::Disk;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
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
    descriptors::raise();
    let disk = Disk::open(&config.data_dir)?;
    if let Err(error) = disk.sweep() {
        // What is left lying is no reason to have no daemon.
        tracing::error!(error = %ployz_core::text::chain(&error), "cannot remove leftover temporary files");
    }
    let seen = ployz_netns::underlay::observe().await.context("cannot read this machine's addresses")?;
    let shared = compose::shared(mode, config, disk, &seen);
    let mode = shared.reconciler.supervisor().service_mode();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), mode, "ployzd starting");
    let socket = shared.around.config.socket.clone();
    let listener =
        api::server::listen(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let daemon = Daemon::new(Arc::new(shared), compose::rooms);
    let shutdown = tokio_util::sync::CancellationToken::new();
    let until = shutdown.clone().cancelled_owned();
    let serving = tokio::spawn(api::server::serve(listener, daemon.clone(), until));
    if let Some(at) = daemon.shared.around.config.daemon_metrics_listen_addr {
        tokio::spawn(api::metrics::serve(at, daemon.clone()));
    }
    daemon.resume().await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    stopped().await?;
    tracing::info!("ployzd stops; the data plane keeps running");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    daemon.detach().await;
    shutdown.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(2), serving).await;
    let _ = std::fs::remove_file(&socket);
    Ok(())
}

fn look_around(args: &Args, mode: args::ServiceMode) -> ExitCode {
    let (config, refused) = match args.configuration() {
        Ok((config, _)) => (config, None),
        Err(error) => (args.without_file(), Some(error)),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let found = runtime.block_on(async {
        let seen = ployz_netns::underlay::observe().await.unwrap_or_default();
        let disk = Disk::at(&config.data_dir);
        doctor::alone(&compose::shared(mode, config, disk, &seen), refused).await
    });
    println!("{}", serde_json::to_string(&found).expect("an envelope is plain data"));
    ExitCode::SUCCESS
}

async fn stopped() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Cancel-safe: signals that are not received here end the process anyway.
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    Ok(())
}
