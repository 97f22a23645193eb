//! Where the report goes: written beside, then renamed, so that no half of it is ever there; and nothing of others is
//! replaced by mistake.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{NoReport, page::MARK};

pub struct Target {
    path: PathBuf,
    force: bool,
}

impl Target {
    /// Looked at before the recording is read: what cannot be written need not be made.
    pub fn at(path: &Path, recording: &Path, force: bool) -> Result<Self, NoReport> {
        // A link stays, and what it points to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if fs::canonicalize(recording).is_ok_and(|recording| recording == path) {
            return Err(NoReport::BadInput(format!(
                "{}: that is the recording itself: give another name with -o",
                path.display()
            )));
        }
        let target = Self { path, force };
        target.may_be_replaced()?;
        Ok(target)
    }

    fn may_be_replaced(&self) -> Result<(), NoReport> {
        let refused = |why: &str| NoReport::BadInput(format!("{}: {why}", self.path.display()));
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(refused(&error.to_string())),
            Ok(found) if !found.is_file() => {
                Err(refused("it is there, and not a file; -o - writes to standard output"))
            }
            Ok(_) if self.force || self.is_ours() => Ok(()),
            Ok(_) => Err(refused("it is there, and not an earlier report; --force replaces it")),
        }
    }

    fn is_ours(&self) -> bool {
        let mut start = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(4096).read_to_end(&mut start));
        read.is_ok() && start.windows(MARK.len()).any(|part| part == MARK.as_bytes())
    }

    pub fn write(&self, html: &str) -> Result<(), NoReport> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = PathBuf::from(name);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
            file.write_all(html.as_bytes())?;
            file.sync_all()
        };
        let failed = |path: &Path, error: io::Error| {
            let _ = fs::remove_file(&new); // half of it is of no use
            NoReport::Failed(format!("cannot write {}: {error}", path.display()))
        };
        write().map_err(|error| failed(&self.path, error))?;
        // It may have come meanwhile.
        self.may_be_replaced().inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })?;
        fs::rename(&new, &self.path).map_err(|error| failed(&self.path, error))
    }
}
