//! `cert`.

use clap::Subcommand;
use std::path::PathBuf;

/// `cert`.
#[derive(Subcommand)]
pub(crate) enum Cert {
    /// Store a certificate with its private key; it replaces the one with the same first name
    #[command(after_help = IMPORT_HELP)]
    Import {
        /// The whole chain in PEM, the certificate itself first
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
        /// Its private key in PEM, without a passphrase
        #[arg(
            long,
            value_name = "FILE",
            conflicts_with = "key_stdin",
            required_unless_present = "key_stdin"
        )]
        key: Option<PathBuf>,
        /// Read the private key from standard input
        #[arg(long)]
        key_stdin: bool,
    },
    /// List the certificates in the store: names, expiry, fingerprint; never the private keys
    #[command(visible_alias = "list")]
    Ls,
    /// Remove a certificate from the store
    #[command(visible_alias = "remove")]
    Rm {
        /// Its first name, as `cert ls` shows it
        name: String,
    },
}

const IMPORT_HELP: &str = "Every machine with `gateway_https_listen_addr` serves it to new connections within a second. Every \
machine of the network can read the private key, because each serves HTTPS with it.";
