//! JSON records of scripts and of other tools: flat objects with a time and a size, in a list or one after another. The
//! names are those that columns may have (csv.rs).

use std::{fmt, io::BufRead};

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{
    super::rows::{BadInput, Rows},
    Format,
    csv::Table,
    json,
};

pub const FORMAT: Format = Format {
    name: "JSON records",
    expects: "at least one record with a time and a size is needed",
    recognises: json::is_json,
    read,
};

/// What a file that is JSON may be.
const SHAPES: &str = "JSON, but not of a known shape: Prometheus query_range, VictoriaMetrics export, cAdvisor stats, docker stats, \
                      or flat records with a time and a size; see docs/recording.md";

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut records = Records { table: None, count: 0, refused: None, rows };
    let is_list = loop {
        let start = input.fill_buf().map_err(BadInput::Read)?;
        match start.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(first) => break *first == b'[',
            None if start.is_empty() => return Ok(()),
            None => {
                let blanks = start.len();
                input.consume(blanks);
            }
        }
    };
    let mut json = serde_json::Deserializer::from_reader(input);
    let read = if is_list {
        (&mut records).deserialize(&mut json).and_then(|()| json.end())
    } else {
        json.into_iter::<Value>().try_for_each(|record| record.map(|record| records.take(&record)))
    };
    match (records.refused, read) {
        (Some(refused), _) => Err(refused),
        (None, Err(error)) if json::is_cut(&error, records.count > 0, records.rows) => Ok(()),
        (None, Err(error)) => Err(json::refused("JSON records", &error)),
        (None, Ok(())) => Ok(()),
    }
}

/// One record after another, so that a list of any length takes no memory.
struct Records<'a, 'b> {
    /// Names of the first record's fields, and what they mean.
    table: Option<(Vec<String>, Table)>,
    count: u64,
    /// The first record that cannot be read ends the reading.
    refused: Option<BadInput>,
    rows: &'a mut Rows<'b>,
}

impl Records<'_, '_> {
    fn take(&mut self, record: &Value) {
        self.count += 1;
        if self.refused.is_none() {
            self.refused = self.row(record).err();
        }
    }

    fn row(&mut self, record: &Value) -> Result<(), BadInput> {
        let Value::Object(record) = record else { return Err(BadInput::File(SHAPES.to_owned())) };
        let (names, table) = match &mut self.table {
            Some(table) => table,
            None => {
                let names: Vec<String> = record
                    .iter()
                    .filter(|(_, value)| !(value.is_object() || value.is_array()))
                    .map(|(name, _)| name.clone())
                    .collect();
                let header: Vec<&str> = names.iter().map(String::as_str).collect();
                let table =
                    Table::named(&header, self.rows).map_err(|_| BadInput::File(SHAPES.to_owned()))?;
                self.table.insert((names, table))
            }
        };
        let cells: Vec<String> = names.iter().map(|name| cell(record, name)).collect();
        let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
        let number = self.count;
        table
            .row(&cells, self.rows)
            .map_err(|why| BadInput::File(format!("record {number}: {why}; nothing was analysed")))
    }
}

/// A field that is absent is an empty cell.
fn cell(record: &Map<String, Value>, name: &str) -> String {
    match record.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(value) => value.to_string(),
    }
}

impl<'de> DeserializeSeed<'de> for &mut Records<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Records<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a list of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(record) = list.next_element::<Value>()? {
            self.take(&record);
        }
        Ok(())
    }
}
