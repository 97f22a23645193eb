//! Where a command's file goes: written beside, then renamed, so that no half of it is ever there; and nothing of
//! others is replaced by mistake.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

#[derive(Debug)]
pub enum Unwritten {
    /// It could not be written.
    Failed(String),
    /// Nothing to write, or a file in the way.
    BadInput(String),
}

pub struct Target {
    path: PathBuf,
    force: bool,
    /// Whether a file is one of these, which may be replaced.
    ours: fn(&Path) -> bool,
}

impl Target {
    /// Looked at before the work: what cannot be written need not be made. The source is never replaced.
    pub fn at(path: &Path, source: &Path, force: bool, ours: fn(&Path) -> bool) -> Result<Self, Unwritten> {
        // A link stays, and what it points to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if fs::canonicalize(source).is_ok_and(|source| source == path) {
            return Err(Unwritten::BadInput(format!(
                "{}: that is the recording itself: give another name with -o",
                path.display()
            )));
        }
        let target = Self { path, force, ours };
        target.may_be_replaced()?;
        Ok(target)
    }

    fn may_be_replaced(&self) -> Result<(), Unwritten> {
        let refused = |why: &str| Unwritten::BadInput(format!("{}: {why}", self.path.display()));
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(refused(&error.to_string())),
            Ok(found) if !found.is_file() => {
                Err(refused("it is there, and not a file; -o - writes to standard output"))
            }
            Ok(_) if self.force || (self.ours)(&self.path) => Ok(()),
            Ok(_) => Err(refused("it is there, and not an earlier one of these; --force replaces it")),
        }
    }

    pub fn write(&self, content: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Unwritten> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = PathBuf::from(name);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
            content(&mut file)?;
            file.sync_all()
        };
        let failed = |path: &Path, error: io::Error| {
            let _ = fs::remove_file(&new); // half of it is of no use
            Unwritten::Failed(format!("cannot write {}: {error}", path.display()))
        };
        write().map_err(|error| failed(&self.path, error))?;
        // It may have come meanwhile.
        self.may_be_replaced().inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })?;
        fs::rename(&new, &self.path).map_err(|error| failed(&self.path, error))
    }
}
