//! `image` as operators type it.
//!
//! The doc comments below are the help texts and, through clap_mangen, the manual pages.

use crate::complete::machine_names;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::manifest::ImageRef;

/// `image`.
#[derive(Subcommand)]
pub(crate) enum Image {
    /// Send an image of this machine's Docker engine to other machines, over the overlay
    #[command(after_help = PUSH_HELP)]
    Push(Push),
}

/// `image push`.
#[derive(Args)]
pub(crate) struct Push {
    /// Image name in this machine's Docker engine; the tag defaults to `latest`
    pub(crate) image: ImageRef,
    /// Send to this machine only; repeatable [default: all machines of the network]
    #[arg(long, value_name = "MACHINE", add = ArgValueCompleter::new(machine_names))]
    pub(crate) to: Vec<MachineId>,
    /// Show which machines have it and which would get it; change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

const PUSH_HELP: &str = "\
No registry is needed: machines fetch the image from this one. Machines that have it are skipped, so repeat a push
that was interrupted or failed for some machines. A failure on one machine does not stop the others.
  docker build -t shop-web:43 . && ployzctl image push shop-web:43 && ployzctl deploy";
