//! `ployz-sockets`: opens sockets to the host's resolvers in the namespace it runs in, the host's, for `ployz-dns`, which runs in
//! another. systemd starts it at the first question and holds its listener, so that it can end at any time.

use anyhow::Context;
use listenfd::ListenFd;
use ployz_dns::outside;
use std::process::ExitCode;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    ployz_host::journal::init("info");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.context("cannot start the runtime").and_then(|runtime| runtime.block_on(run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ployz-sockets failed");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let passed = ListenFd::from_env().take_unix_listener(0).context("taking over the listener")?;
    let passed = passed.context("no listener was passed (LISTEN_FDS)")?;
    passed.set_nonblocking(true)?;
    let listener = UnixListener::from_std(passed)?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let stopped = async move {
        let _ = terminate.recv().await;
    };
    outside::serve(listener, stopped).await;
    Ok(())
}
