//! Files that may change while they are in use.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

/// What changes whenever a file's content does, whether it is written or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp([i128; 5]);

impl Stamp {
    /// The present one; `None` while there is no such file. Links are followed.
    pub fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        let (device, inode, size) = (file.dev().into(), file.ino().into(), file.size().into());
        Some(Self([device, inode, size, file.mtime().into(), file.mtime_nsec().into()]))
    }

    fn is_same_file(&self, other: &Self) -> bool {
        self.0[..2] == other.0[..2]
    }
}

/// Notices that a file has become another one, by whatever means: written in place, replaced by a rename, or reached over
/// a symbolic link that was exchanged (as a ConfigMap's is).
///
/// Looking at the file every now and then sees all of these, also on file systems that tell of nothing. The kernel is
/// only asked whether somebody is still writing: half a configuration may be a valid one.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    /// As it was when it was last reported, or at the beginning.
    reported: Option<Stamp>,
    /// As the last look found it.
    seen: Option<Stamp>,
    writer: Writer,
}

impl FileWatch {
    /// Watches the file from its present content on.
    pub fn new(path: &Path) -> Self {
        let (stamp, mut writer) = (Stamp::of(path), Writer::default());
        writer.watch(path);
        Self { path: path.to_owned(), reported: stamp.clone(), seen: stamp, writer }
    }

    /// Whether the file is another one than was last reported. To be asked about once a second: what is found must have
    /// stood still since the last look.
    pub fn has_changed(&mut self) -> bool {
        let now = Stamp::of(&self.path);
        let before = std::mem::replace(&mut self.seen, now.clone());
        let Some(stamp) = &now else { return false };
        if self.writer.is_blind() || !before.as_ref().is_some_and(|before| before.is_same_file(stamp)) {
            self.writer.watch(&self.path);
        }
        let stands_still = !self.writer.is_at_work() && before == now;
        let is_new = stands_still && self.reported != now;
        if is_new {
            self.reported = now;
        }
        is_new
    }
}

/// Whether somebody has written to a file and not closed it yet. Where the kernel cannot tell, nobody has.
#[derive(Debug, Default)]
struct Writer {
    inotify: Option<OwnedFd>,
    is_writing: bool,
}

impl Writer {
    /// From now on it is this file. What was told of the one before is forgotten with it.
    fn watch(&mut self, path: &Path) {
        self.is_writing = false;
        self.inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok();
        if let Some(inotify) = &self.inotify {
            // Of a file that has gone meanwhile there is nothing to tell.
            let _ = inotify::add_watch(inotify, path, WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE);
        }
    }

    fn is_at_work(&mut self) -> bool {
        // Room for some dozens of events; those of a file itself carry no name.
        let mut buffer = [MaybeUninit::uninit(); 1024];
        if let Some(inotify) = &self.inotify {
            let mut events = Reader::new(inotify, &mut buffer);
            let mut gone = false;
            while let Ok(event) = events.next() {
                // Told last of a file that was removed: the next one may get its very number.
                gone |= event.events().contains(ReadFlags::IGNORED);
                self.is_writing = event.events().contains(ReadFlags::MODIFY);
            }
            if gone {
                *self = Self::default();
            }
        }
        self.is_writing
    }

    fn is_blind(&self) -> bool {
        self.inotify.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    /// What the next looks find.
    fn looks(watch: &mut FileWatch, times: usize) -> Vec<bool> {
        (0..times).map(|_| watch.has_changed()).collect()
    }

    #[test]
    fn a_file_is_reported_once_it_has_stood_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let mut watch = FileWatch::new(&path);
        assert_eq!(looks(&mut watch, 3), [false; 3]);
        fs::read(&path).unwrap();
        assert_eq!(looks(&mut watch, 2), [false; 2], "reading it is no change");
        fs::write(&path, "three").unwrap();
        assert_eq!(looks(&mut watch, 3), [false, true, false]);
        fs::write(&path, "four, five").unwrap();
        assert!(!watch.has_changed());
        fs::write(&path, "six, seven, eight").unwrap();
        assert_eq!(looks(&mut watch, 3), [false, true, false], "it changed again before it stood still");
    }

    #[test]
    fn a_file_that_is_being_written_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let mut watch = FileWatch::new(&path);
        let mut writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(b"half").unwrap();
        assert_eq!(looks(&mut watch, 5), [false; 5]);
        writer.write_all(b" and half").unwrap();
        drop(writer);
        assert_eq!(looks(&mut watch, 3), [false, true, false]);
    }

    #[test]
    fn a_file_may_be_replaced_or_go_and_come() {
        let folder = tempfile::tempdir().unwrap();
        let [path, beside] = ["file", "file.new"].map(|name| folder.path().join(name));
        fs::write(&path, "one").unwrap();
        let mut watch = FileWatch::new(&path);
        for text in ["two, two", "three, three, three"] {
            fs::write(&beside, text).unwrap();
            fs::rename(&beside, &path).unwrap();
            assert_eq!(looks(&mut watch, 3), [false, true, false]);
        }
        fs::rename(&path, &beside).unwrap();
        assert_eq!(looks(&mut watch, 3), [false; 3], "there is nothing to take over");
        fs::rename(&beside, &path).unwrap();
        assert_eq!(looks(&mut watch, 3), [false; 3], "and nothing new");
        fs::write(&path, "four").unwrap();
        assert_eq!(looks(&mut watch, 3), [false, true, false]);
    }

    #[test]
    fn a_file_in_the_place_of_one_that_was_removed_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let mut watch = FileWatch::new(&path);
        for text in ["two, two", "three, three, three"] {
            // Most file systems give the number of the one to the other.
            fs::remove_file(&path).unwrap();
            fs::write(&path, text).unwrap();
            assert!(looks(&mut watch, 4).contains(&true), "{text}");
        }
    }

    #[test]
    fn links_are_followed_as_config_maps_need_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("file"), text).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/file", at("file")).unwrap();
        let mut watch = FileWatch::new(&at("file"));
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(looks(&mut watch, 3), [false, true, false]);
        fs::remove_dir_all(at("..1")).unwrap();
        assert_eq!(looks(&mut watch, 2), [false; 2]);
    }
}
