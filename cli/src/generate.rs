//! Manual pages and completion scripts for the packages, all from the same definition as the parser.

use crate::args::{Cli, Shell};
use crate::complete::write_script;
use clap::CommandFactory;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Writes `man/*.1` and `completions/{bash,zsh,fish}/...`, named as the shells look them up, below `dir`.
pub(crate) fn write_all(dir: &Path) -> io::Result<()> {
    let man = dir.join("man");
    fs::create_dir_all(&man)?;
    clap_mangen::generate_to(Cli::command(), &man)?;
    for (shell, file) in
        [(Shell::Bash, "ployzctl"), (Shell::Zsh, "_ployzctl"), (Shell::Fish, "ployzctl.fish")]
    {
        let directory = dir.join("completions").join(shell.name());
        fs::create_dir_all(&directory)?;
        write_script(shell, &mut File::create(directory.join(file))?)?;
    }
    Ok(())
}
