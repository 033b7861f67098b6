//! Another program's file: changed as a whole or not at all, and as that program wants it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::config::files::Stamp;

/// What kubectl gives a file that it makes: there are keys in it, sooner or later.
const NEW_MODE: u32 = 0o600;
/// All that a mode has beside the kind of file.
const MODE: u32 = 0o7777;

/// Puts `edit` of a file's text in the place of the file; `None` stands for one that is not there yet. Mode and owner
/// stay, and links are followed. Returns whether anything has changed.
pub(super) fn update(path: &Path, edit: impl FnOnce(Option<&str>) -> anyhow::Result<String>) -> anyhow::Result<bool> {
    let _lock = Lock::take(path)?;
    let target = target(path)?;
    let before = Stamp::of(&target);
    let (text, metadata) = match &before {
        None => (None, None),
        Some(_) => {
            let metadata = fs::metadata(&target)?;
            ensure!(metadata.is_file(), "it is no file");
            (Some(fs::read_to_string(&target).context("cannot read it")?), Some(metadata))
        }
    };
    let edited = edit(text.as_deref())?;
    if text.is_some_and(|text| text == edited) {
        return Ok(false);
    }
    let mut draft = Draft::beside(&target).context("cannot write beside it")?;
    draft.file.write_all(edited.as_bytes())?;
    if let Some(metadata) = metadata {
        let made = draft.file.metadata()?;
        if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
            fchown(&draft.file, Some(metadata.uid()), Some(metadata.gid())).context("cannot keep its owner")?;
        }
        draft.file.set_permissions(Permissions::from_mode(metadata.mode() & MODE))?;
    }
    draft.file.sync_all()?;
    ensure!(Stamp::of(&target) == before, "somebody else has just changed it: try again");
    draft.take_the_place_of(&target)?;
    Ok(true)
}

/// The file itself where `path` is a link.
fn target(path: &Path) -> anyhow::Result<PathBuf> {
    match fs::canonicalize(path) {
        Ok(target) => Ok(target),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        Err(_) if path.is_symlink() => bail!("it is a link that leads nowhere"),
        Err(_) => Ok(path.to_owned()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// A file as kubectl makes one while it writes to a kubeconfig; gone when dropped.
struct Lock(PathBuf);

impl Lock {
    fn take(path: &Path) -> anyhow::Result<Self> {
        let lock = beside(path, ".lock");
        match OpenOptions::new().write(true).create_new(true).mode(0o000).open(&lock) {
            Ok(_) => Ok(Self(lock)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let lock = lock.display();
                bail!("kubectl is writing to it, or one that was cut short has left {lock}: try again, or remove that")
            }
            Err(error) => Err(error).context("cannot write beside it"),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // If it is gone already, that is what was wanted.
        let _ = fs::remove_file(&self.0);
    }
}

/// What will be the file; gone when dropped before that.
struct Draft {
    path: PathBuf,
    file: File,
}

impl Draft {
    fn beside(target: &Path) -> io::Result<Self> {
        // Under the lock nobody else makes one; what a process cut short has left is in nobody's way.
        let path = beside(target, &format!(".snigate-{}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(NEW_MODE).open(&path)?;
        Ok(Self { path, file })
    }

    fn take_the_place_of(self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        // So that the change outlives a crash of the machine; a file system that cannot do that has other ways.
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // There is none any more when it took its place.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn append(path: &Path) -> anyhow::Result<bool> {
        update(path, |text| Ok(format!("{}more\n", text.unwrap_or("new\n"))))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & MODE
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_where_its_link_leads() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| folder.path().join(name));
        assert!(append(&file).unwrap());
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("new\nmore\n", NEW_MODE));
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        let inode = fs::metadata(&file).unwrap().ino();
        assert!(append(&link).unwrap());
        assert!(link.is_symlink());
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("new\nmore\nmore\n", 0o640));
        let replaced = fs::metadata(&file).unwrap().ino();
        assert_ne!(inode, replaced, "it was written to in place");
        assert!(!update(&file, |text| Ok(text.unwrap().to_owned())).unwrap());
        assert_eq!(fs::metadata(&file).unwrap().ino(), replaced);
        assert_eq!(names(folder.path()), ["file", "link"]);
    }

    #[test]
    fn what_goes_wrong_changes_nothing_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "text\n").unwrap();
        fs::write(path("latin1"), b"\xe9").unwrap();
        fs::write(path("locked"), "").unwrap();
        fs::write(path("locked.lock"), "").unwrap();
        fs::create_dir(path("folder")).unwrap();
        symlink("nowhere", path("link")).unwrap();
        let before = names(folder.path());
        for (name, told) in [
            ("locked", "kubectl is writing to it"),
            ("latin1", "cannot read it: stream did not contain valid UTF-8"),
            ("folder", "it is no file"),
            ("link", "it is a link that leads nowhere"),
            ("none/file", "cannot write beside it: No such file"),
        ] {
            let error = format!("{:#}", append(&path(name)).unwrap_err());
            assert!(error.starts_with(told), "{name}: {error}");
        }
        assert!(update(&path("file"), |_| bail!("no")).is_err());
        let meddle = |text: Option<&str>| {
            fs::write(path("file"), "another text\n")?;
            Ok(format!("{text:?}"))
        };
        let error = update(&path("file"), meddle).unwrap_err().to_string();
        assert!(error.starts_with("somebody else has just changed it"), "{error}");
        assert_eq!(fs::read_to_string(path("file")).unwrap(), "another text\n");
        assert_eq!(names(folder.path()), before);
    }
}
