//! Which socket: `--socket` or `PLOYZ_SOCKET`, else `socket` of the configuration, else the built-in default.

use crate::args::Global;
use crate::failure::Failure;
use ployz_core::config::{Config, Layer};
use std::io;
use std::path::{Path, PathBuf};

/// The socket these flags lead to.
pub(crate) fn find(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(socket) = &global.socket {
        return Ok(socket.clone());
    }
    let layer = match &global.config {
        Some(path) => read(path)?.ok_or_else(|| missing(path))?,
        None => first_of(&usual_places())?.unwrap_or_default(),
    };
    let config = Config::resolve(&[layer]).map_err(|error| Failure::Config { cause: error.to_string() })?;
    Ok(config.socket)
}

/// The one that is meant when nobody says otherwise.
pub(crate) fn usual() -> PathBuf {
    Config::resolve(&[]).expect("the defaults are valid").socket
}

fn first_of(places: &[PathBuf]) -> Result<Option<Layer>, Failure> {
    for place in places {
        if let Some(layer) = read(place)? {
            return Ok(Some(layer));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Option<Layer>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::Config { cause: format!("{}: {error}", path.display()) }),
    };
    let layer = Layer::from_toml(&path.display().to_string(), &text);
    layer.map(Some).map_err(|error| Failure::Config { cause: error.to_string() })
}

fn missing(path: &Path) -> Failure {
    Failure::Config { cause: format!("{}: there is no such file", path.display()) }
}

fn usual_places() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let own = own.or_else(|| home.map(|home| home.join(".config")));
    let own = own.map(|directory| directory.join("ployz/config.toml"));
    [PathBuf::from("/etc/ployz/config.toml")].into_iter().chain(own).collect()
}
