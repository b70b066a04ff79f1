//! The daemon's command line and where its configuration comes from.

use clap::{Parser, Subcommand, ValueEnum};
use ployz_core::config::{BadConfig, Config, Layer};
use std::path::{Path, PathBuf};

/// The Ployz daemon. It is disposable: tunnels, store and workloads go on without it.
#[derive(Parser)]
#[command(name = "ployzd", version, propagate_version = true)]
pub struct Args {
    /// Configuration file [default: /etc/ployz/config.toml, then ~/.config/ployz/config.toml]
    #[arg(long, global = true, env = "PLOYZ_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the state
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// The operator socket
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Subcommand)]
pub enum Verb {
    /// Run the daemon
    Run {
        /// Where the data plane lives
        #[arg(long, value_enum, default_value_t = Runtime::Host)]
        runtime: Runtime,
        /// Who runs the sidecars: systemd units, or detached processes
        #[arg(long, value_enum, default_value_t = ServiceMode::Auto)]
        service_mode: ServiceMode,
        /// Port of the volume transfer listener
        #[arg(long, value_name = "PORT")]
        zfs_transfer_port: Option<String>,
    },
    /// Check the configuration and show every value with where it comes from
    CheckConfig,
    /// Check this machine without a running daemon; prints one JSON object (`ployzctl doctor` runs this)
    Doctor {
        /// Who runs the sidecars: systemd units, or detached processes
        #[arg(long, value_enum, default_value_t = ServiceMode::Auto)]
        service_mode: ServiceMode,
    },
}

/// Where the data plane lives.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// On this machine.
    Host,
}

/// Who runs the sidecars.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServiceMode {
    /// systemd where it is PID 1, else detached processes.
    Auto,
    /// systemd.
    System,
    /// Detached processes.
    User,
}

impl Args {
    /// The effective configuration and its layers.
    pub fn configuration(&self) -> Result<(Config, Vec<Layer>), BadConfig> {
        let mut layers = Vec::new();
        if let Some((path, text)) = self.file()? {
            layers.push(Layer::from_toml(&path.display().to_string(), &text)?);
        }
        layers.push(Layer::from_environment(std::env::vars()));
        let mut flags = Layer::default();
        flags.flag("data_dir", "--data-dir", self.data_dir.clone());
        flags.flag("socket", "--socket", self.socket.clone());
        if let Verb::Run { zfs_transfer_port, .. } = &self.verb {
            flags.flag("zfs_transfer_port", "--zfs-transfer-port", zfs_transfer_port.clone());
        }
        layers.push(flags);
        Ok((Config::resolve(&layers)?, layers))
    }

    /// The configuration without the file, as far as that can be had: to look around with when the file is refused.
    pub fn without_file(&self) -> Config {
        let mut flags = Layer::default();
        flags.flag("data_dir", "--data-dir", self.data_dir.clone());
        let defaults = || Config::resolve(&[]).expect("the defaults are valid");
        Config::resolve(&[flags]).unwrap_or_else(|_| defaults())
    }

    /// The file's text. One that was named must be there; the usual ones need not.
    fn file(&self) -> Result<Option<(PathBuf, String)>, BadConfig> {
        let usual = || {
            let home =
                std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/ployz/config.toml"));
            let candidates = [Some(PathBuf::from("/etc/ployz/config.toml")), home];
            candidates.into_iter().flatten().find(|path| path.exists())
        };
        let Some(path) = self.config.clone().or_else(usual) else { return Ok(None) };
        let text = std::fs::read_to_string(&path).map_err(|error| BadConfig {
            place: path.display().to_string(),
            what: format!("cannot be read: {error}"),
        })?;
        Ok(Some((path, text)))
    }
}

/// Prints every value with its origin.
pub fn describe(config: &Config, layers: &[Layer]) {
    let rows = config.describe(layers);
    let width = rows.iter().map(|(key, value, _)| key.len() + value.len() + 3).max().unwrap_or(0);
    for (key, value, origin) in rows {
        println!("{:<width$}  # {origin}", format!("{key} = {value}"));
    }
}
