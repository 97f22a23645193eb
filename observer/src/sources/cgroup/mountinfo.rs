//! Mounts as /proc/self/mountinfo lists them.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

use procfs::process::MountInfo;

/// A line that cannot be read is left out: any user of the host may have mounted something under a name that is not
/// UTF-8, and the tree of cgroups is none the less there.
pub fn mounts(mountinfo: &[u8]) -> impl Iterator<Item = MountInfo> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(|line| {
        let mount = MountInfo::from_line(str::from_utf8(line).ok()?).ok()?;
        let mount_point = unescape(mount.mount_point.as_os_str().as_bytes());
        Some(MountInfo { mount_point: PathBuf::from(mount_point), ..mount })
    })
}

/// The kernel writes a space, a tab, a line feed and a backslash as a backslash and three octal digits
/// (fs/seq_file.c, `mangle_path`), and the library leaves them so.
fn unescape(path: &[u8]) -> OsString {
    let mut rest = path;
    let mut plain = Vec::with_capacity(path.len());
    while let [byte, after @ ..] = rest {
        let digits = after.get(..3).filter(|digits| *byte == b'\\' && digits.iter().all(u8::is_ascii_digit));
        let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                plain.push(escaped);
                rest = &after[3..];
            }
            None => {
                plain.push(*byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(mountinfo: &[u8]) -> Vec<String> {
        mounts(mountinfo).map(|mount| mount.mount_point.display().to_string()).collect()
    }

    #[test]
    fn a_mount_that_cannot_be_read_hides_no_other() {
        let good = b"2 1 0:31 / /sys/fs/cgroup ro,relatime - cgroup2 cgroup2 rw\n";
        for odd in [
            &b"3 1 0:32 / /mnt/\xe9 rw - tmpfs tmpfs rw\n"[..],
            b"3 1 0:32 / /mnt rw shared:x - tmpfs\n",
            b"\n",
        ] {
            assert_eq!(places(&[odd, good].concat()), ["/sys/fs/cgroup"], "{}", odd.escape_ascii());
        }
    }

    #[test]
    fn a_place_with_a_space_is_the_one_that_is_mounted() {
        for (written, place) in [
            (r"/my\040cgroups\011\134", "/my cgroups\t\\"),
            (r"/\0", r"/\0"),
            (r"/\777\+40", r"/\777\+40"),
            (r"/\é040", r"/\é040"),
        ] {
            let line = format!("2 1 0:31 / {written} ro - cgroup2 cgroup2 rw\n");
            assert_eq!(places(line.as_bytes()), [place]);
        }
    }
}
