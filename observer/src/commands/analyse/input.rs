//! A recorded file of any known format -> rows.
//!
//! Streams: memory does not grow with the file, except for JSON documents that are one value.

use std::io::{BufReader, Cursor, Read};

use encoding_rs_io::DecodeReaderBytesBuilder;

use super::{
    format,
    rows::{BadInput, Reading, Row, Rows, Source},
};

/// What a format is recognised by: the beginning of the file.
const HEAD_BYTES: u64 = 64 * 1024;

/// Calls `each` for every row. Times are relative to time zero; equal times are allowed, earlier ones are an error.
pub fn read(input: impl Read, reading: &Reading, mut each: impl FnMut(Row)) -> Result<Source, BadInput> {
    let mut raw = Vec::new();
    let mut input = BufReader::new(input);
    input.by_ref().take(4).read_to_end(&mut raw)?;
    // Without a byte-order mark, UTF-16 shows by the other half of its first letters.
    let encoding = match raw[..] {
        [first, 0, ..] if first != 0 => Some(utf16(true)),
        [0, second, ..] if second != 0 => Some(utf16(false)),
        _ => None,
    };
    let mut text = DecodeReaderBytesBuilder::new()
        .encoding(encoding)
        .utf8_passthru(true)
        .strip_bom(true)
        .bom_override(true)
        .build(Cursor::new(raw).chain(input));
    let mut head = Vec::new();
    text.by_ref().take(HEAD_BYTES).read_to_end(&mut head)?;
    let shape = String::from_utf8_lossy(&head).into_owned();
    if shape.trim().is_empty() {
        return Err(BadInput::Empty("the file is empty"));
    }
    let format = format::of(&shape)?;
    let mut rows = Rows::new(reading, &mut each);
    let mut text = BufReader::new(Cursor::new(head).chain(text));
    (format.read)(&mut text, &mut rows)?;
    rows.finish(format.name, format.expects)
}

fn utf16(little: bool) -> &'static encoding_rs::Encoding {
    if little { encoding_rs::UTF_16LE } else { encoding_rs::UTF_16BE }
}
