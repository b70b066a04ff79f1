//! Files that are replaced whole: temporary file, fsync, rename, fsync of the directory. A power cut leaves the old or the new
//! content and never half of one.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Replaces a file with what `write` puts into the new one, whose mode is `mode` before it has the name. Two processes that
/// replace the same file at the same moment do not disturb each other: the last rename wins.
pub fn replace(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut prefix = name.to_owned();
    prefix.push(".");
    let mut temporary = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(TEMPORARY)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(parent(path))?;
    write(temporary.as_file_mut())?;
    // Once more, whatever the umask took away.
    temporary.as_file().set_permissions(Permissions::from_mode(mode))?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_parent(path)
}

/// Makes a rename or a removal in a file's directory last over a power cut.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

/// Removes the temporary files in a directory that a crash left, of any process: those older than `age`, which is longer than any
/// write takes, or zero where no other process writes.
pub fn sweep(dir: &Path, age: Duration) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let temporary = entry.file_name().to_str().is_some_and(|name| name.ends_with(TEMPORARY));
        let old = entry.metadata().is_ok_and(|meta| {
            meta.is_file() && meta.modified().is_ok_and(|at| at.elapsed().unwrap_or_default() >= age)
        });
        if temporary && old {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

const TEMPORARY: &str = ".tmp";

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::SystemTime;

    #[test]
    fn a_replaced_file_has_its_mode_and_leaves_no_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.json");
        for content in ["old", "new"] {
            replace(&path, 0o640, |file| file.write_all(content.as_bytes())).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.json");
        replace(&path, 0o600, |file| file.write_all(b"old")).unwrap();
        let full = |file: &mut File| {
            file.write_all(b"ha")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        assert_eq!(replace(&path, 0o600, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_sweep_removes_old_temporary_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - Duration::from_secs(3600);
        for (name, at) in [("a.json.Xy1.tmp", old), ("b.json.Zz2.tmp", SystemTime::now()), ("c.json", old)] {
            File::create(dir.path().join(name)).unwrap().set_modified(at).unwrap();
        }
        std::fs::create_dir(dir.path().join("d.tmp")).unwrap();
        sweep(dir.path(), Duration::from_secs(600));
        let left = ["a.json.Xy1.tmp", "b.json.Zz2.tmp", "c.json", "d.tmp"]
            .map(|name| dir.path().join(name).exists());
        assert_eq!(left, [false, true, true, true]);
        sweep(dir.path(), Duration::ZERO);
        assert!(!dir.path().join("b.json.Zz2.tmp").exists());
    }
}
