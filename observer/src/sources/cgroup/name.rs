//! Paths of cgroups as text. What is not UTF-8 is escaped, so that two names stay two and the directory is found again:
//! U+FFFD and two hex digits are one byte. A U+FFFD of the name itself is escaped likewise, all else is as it is.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

const MARK: char = char::REPLACEMENT_CHARACTER;

pub fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            text.push_str(&format!("{MARK}{byte:02x}"));
        }
    };
    for chunk in path.utf8_chunks() {
        for (at, part) in chunk.valid().split(MARK).enumerate() {
            if at > 0 {
                escape(&mut text, MARK.encode_utf8(&mut [0; 4]).as_bytes());
            }
            text.push_str(part);
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// The bytes of an escaped path. What `escape` did not write is taken as it is.
pub fn unescape(text: &str) -> OsString {
    let mut parts = text.split(MARK);
    let mut path = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => {
                path.push(byte);
                path.extend(&part.as_bytes()[2..]);
            }
            None => {
                path.extend(MARK.encode_utf8(&mut [0; 4]).as_bytes());
                path.extend(part.as_bytes());
            }
        }
    }
    OsString::from_vec(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_are_as_they_are() {
        for name in ["/system.slice/dev-disk-by\\x2dlabel.scope", "/café/同", "/a b\t{x=\"y\"}", "/", ""] {
            assert_eq!(escape(name.as_bytes()), name);
        }
        assert_eq!(escape(b"/latin-\xe9"), "/latin-\u{fffd}e9");
    }

    proptest::proptest! {
        #[test]
        fn every_name_is_found_again(name in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            proptest::prop_assert_eq!(unescape(&escape(&name)).into_vec(), name);
        }

        #[test]
        fn so_are_names_that_look_escaped(name in "[\u{fffd}/0-9a-gé]{0,20}") {
            proptest::prop_assert_eq!(unescape(&escape(name.as_bytes())).into_vec(), name.into_bytes());
        }
    }
}
