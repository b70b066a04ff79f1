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
    /// The image, by a name of this machine's engine; without a tag it is `latest`
    pub(crate) image: ImageRef,
    /// Only to this machine; may be given more than once [default: all machines of the network]
    #[arg(long, value_name = "MACHINE", add = ArgValueCompleter::new(machine_names))]
    pub(crate) to: Vec<MachineId>,
    /// Show which machines have it and which would get it, and do nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

const PUSH_HELP: &str = "\
No registry is needed: machines fetch the image from this one. Those that have it are skipped, so a push that was
cut off or failed for some machines is simply repeated. What fails on one machine does not keep the others from it.
  docker build -t shop-web:43 . && ployzctl image push shop-web:43 && ployzctl deploy";
