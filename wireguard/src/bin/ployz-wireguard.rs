//! `ployz-wireguard`: userspace WireGuard for one interface. Arguments and logging; the work is in
//! [`ployz_wireguard`].

use clap::Parser;
use ployz_wireguard::{Options, UAPI_DIR};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// WireGuard in user space, for kernels that have none. Configure it with wg(8).
///
/// UDP sockets are opened in the network namespace the process is started in, the interface is made in the one
/// given. The interface disappears with the process.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Name of the interface to make; it must not exist
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// Network namespace to make the interface in, such as /run/netns/ployz
    #[arg(long, value_name = "FILE")]
    netns: PathBuf,
    /// Directory of the control socket NAME.sock; wg(8) knows only the default
    #[arg(long, value_name = "DIR", default_value = UAPI_DIR)]
    uapi_dir: PathBuf,
    /// Threads that encrypt; each gets its own queue of the interface
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // boringtun reports as errors what is every idle tunnel's life, such as a session that ran out.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,boringtun=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let options = Options {
        interface: arguments.interface,
        netns: arguments.netns,
        uapi_dir: arguments.uapi_dir,
        threads: arguments.threads.into(),
    };
    match ployz_wireguard::run(&options, ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %ployz_core::text::chain(&error), "ployz-wireguard failed");
            ExitCode::FAILURE
        }
    }
}

fn ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
