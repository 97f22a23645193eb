//! The first version: one JSON object with all workloads. Read as a stream, so that what comes before damage can be
//! used.

use std::{
    fmt,
    io::{self, BufRead, Read},
};

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{Entry, Restored};

/// Bytes from one quotation mark to the next; a longer text would have to be held whole. Lists of numbers are shorter.
const LONGEST_TEXT: usize = 256 << 10;

pub fn read(bytes: &mut impl BufRead, now: f64, restored: &mut Restored) {
    let mut json = serde_json::Deserializer::from_reader(ShortTexts { bytes, since: 0 });
    if let Err(error) = (Whole { now, restored }).deserialize(&mut json).and_then(|()| json.end()) {
        restored.lost(error.to_string());
    }
}

/// Fails on a text that is too long.
struct ShortTexts<'a, R> {
    bytes: &'a mut R,
    since: usize,
}

impl<R: BufRead> Read for ShortTexts<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        self.since = match buffer[..read].iter().rposition(|byte| *byte == b'"') {
            Some(at) => read - at,
            None => self.since + read,
        };
        match self.since > LONGEST_TEXT {
            true => Err(io::Error::new(io::ErrorKind::InvalidData, "a text or list in it is too long")),
            false => Ok(read),
        }
    }
}

struct Whole<'a> {
    now: f64,
    restored: &'a mut Restored,
}

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a state of version 1")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut version = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => {
                    version = Some(map.next_value::<u32>()?);
                    if version != Some(1) {
                        return Err(A::Error::custom(format!("version {}", version.unwrap_or(0))));
                    }
                }
                "workloads" if version.is_some() => {
                    map.next_value_seed(Workloads { now: self.now, restored: &mut *self.restored })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        version.map(drop).ok_or_else(|| A::Error::missing_field("version"))
    }
}

struct Workloads<'a> {
    now: f64,
    restored: &'a mut Restored,
}

impl<'de> DeserializeSeed<'de> for Workloads<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Workloads<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of workloads")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(entry) = list.next_element::<Entry>()? {
            self.restored.take(entry, self.now);
        }
        Ok(())
    }
}
