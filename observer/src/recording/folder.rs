//! The folder of what is kept over restarts.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::Path};

/// Makes the folders above this file that are not there, for their owner only: workloads are named in it. One that is
/// there stays as it is. What cannot be made shows when the file is written.
pub fn make_above(file: &Path) {
    if let Some(folder) = file.parent()
        && let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(folder)
    {
        tracing::warn!("cannot make the folder {} of the state: {error}", folder.display());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_folder_that_is_made_is_its_owners_and_one_that_is_there_stays() {
        let above = std::env::temp_dir().join(format!("observer-folder-{}", std::process::id()));
        fs::create_dir(&above).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let before = mode(&above);
        make_above(&above.join("private/state.json"));
        let found = (mode(&above), mode(&above.join("private")));
        fs::remove_dir_all(&above).unwrap();
        assert_eq!(found, (before, 0o700));
    }
}
