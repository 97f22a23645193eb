//! `kubectl top pod` in a loop: `NAME CPU(cores) MEMORY(bytes)`, with --containers, -A or --no-headers, and times by
//! `date`.

use std::io::BufRead;

use super::{
    super::{
        labels::Labels,
        rows::{BadInput, Lines, LoopTimes, Rows, Sizes},
    },
    Format,
};
use observer_core::model::units::{parse_size, quoted};

pub const FORMAT: Format = Format {
    name: "kubectl top",
    expects: "kubectl top printed no pod",
    recognises: |head| {
        let mut times = LoopTimes::default();
        head.lines().take(100).any(|line| is_header(line) || row(times.strip(line)).is_some())
    },
    read,
};

fn is_header(line: &str) -> bool {
    line.contains("MEMORY(bytes)") && line.contains("CPU(cores)")
}

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let mut times = LoopTimes::default();
    let mut columns: Vec<String> = Vec::new();
    // --sum: a line, and the sum below it.
    let mut sum_follows = false;
    Lines::new(input).each(|line| {
        let rest = times.strip(line);
        if rest.starts_with("____") || std::mem::take(&mut sum_follows) {
            sum_follows = rest.starts_with("____");
            return Ok(());
        }
        if is_header(rest) {
            columns = rest.split_whitespace().map(str::to_owned).collect();
            return Ok(());
        }
        if rest.is_empty() {
            return Ok(());
        }
        // What kubectl says of a pod that is not there (yet): nothing was read.
        const REFUSALS: [&str; 6] = [
            "error:",
            "Error from server",
            "No resources found",
            "Warning:",
            "Unable to connect",
            "The connection to the server",
        ];
        if REFUSALS.iter().any(|refusal| rest.starts_with(refusal)) || rest.contains("<unknown>") {
            rows.pass_over();
            return Ok(());
        }
        let (names, memory) =
            row(rest).ok_or_else(|| format!("{} is no line of kubectl top", quoted(rest)))?;
        let labels = labels(&columns, &names);
        let usage = parse_size(memory)?;
        rows.push(&labels, times.of(&labels), Sizes { usage, ..Sizes::default() })?;
        rows.note(
            "kubectl top shows the working set as metrics-server last read it, every 15 s at best".to_owned(),
        );
        Ok(())
    })
}

fn labels(columns: &[String], names: &[&str]) -> Labels {
    // POD NAME with --containers, NAMESPACE in front with -A; without a header, the count decides.
    let with_containers = columns.iter().any(|column| column == "POD");
    let with_namespace = columns.iter().any(|column| column == "NAMESPACE");
    let kinds: &[&str] = match (names.len(), with_namespace, with_containers) {
        (1, ..) => &["pod"],
        (2, true, _) => &["namespace", "pod"],
        (2, false, _) => &["pod", "container"],
        _ => &["namespace", "pod", "container"],
    };
    let pairs: Vec<(&str, &str)> = kinds.iter().copied().zip(names.iter().copied()).collect();
    Labels::of(&pairs)
}

/// Names and memory of a row: one to three names, millicores, and a quantity.
fn row(line: &str) -> Option<(Vec<&str>, &str)> {
    // Of a node there are percentages too.
    let words: Vec<&str> = line.split_whitespace().filter(|word| !word.ends_with('%')).collect();
    let memory = words.iter().rposition(|word| {
        word.ends_with("Ki") || word.ends_with("Mi") || word.ends_with("Gi") || *word == "0"
    })?;
    let cpu = words.get(memory.checked_sub(1)?)?;
    let is_cpu = cpu.trim_end_matches(['m', 'u', 'n']).parse::<u64>().is_ok();
    let names = &words[..memory - 1];
    (is_cpu
        && (1..=3).contains(&names.len())
        && words.len() == memory + 1
        && words[memory].starts_with(|c: char| c.is_ascii_digit()))
    .then(|| (names.to_vec(), words[memory]))
}
