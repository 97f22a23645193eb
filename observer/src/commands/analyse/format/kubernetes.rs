//! JSON of Kubernetes in a loop: the metrics API (`kubectl get --raw`), the kubelet's `/stats/summary`, and
//! `crictl stats -o json`.

use std::io::BufRead;

use serde_json::Value;

use super::{
    super::{
        clock::Stamp,
        labels::Labels,
        rows::{BadInput, Rows, Sizes},
    },
    Format, json,
};
use observer_core::model::units::parse_size;

pub const FORMAT: Format = Format {
    name: "Kubernetes JSON",
    expects: "no container in it has a reading of memory",
    recognises: |head| {
        json::is_json(head)
            && ["\"metrics.k8s.io/", "\"workingSetBytes\"", "\"podRef\""]
                .iter()
                .any(|name| head.contains(name))
    },
    read,
};

fn read(input: &mut dyn BufRead, rows: &mut Rows) -> Result<(), BadInput> {
    let answers = serde_json::Deserializer::from_reader(input).into_iter::<Value>();
    for (before, answer) in answers.enumerate() {
        let answer = match answer {
            Err(error) if json::is_cut(&error, before > 0, rows) => break,
            answer => answer.map_err(|error| json::refused("JSON of Kubernetes", &error))?,
        };
        each(&answer, rows)
            .map_err(|why| BadInput::File(format!("answer {}: {why}; nothing was analysed", before + 1)))?;
    }
    Ok(())
}

fn each(answer: &Value, rows: &mut Rows) -> Result<(), String> {
    // Lists of pods in the metrics API and the kubelet's summary; of containers in crictl's.
    for list in ["items", "pods"] {
        if let Some(pods) = answer.get(list).and_then(Value::as_array) {
            return pods.iter().try_for_each(|pod| each(pod, rows));
        }
    }
    if let Some(stats) = answer.get("stats").and_then(Value::as_array) {
        return stats.iter().try_for_each(|container| crictl(container, rows));
    }
    let pod = ["metadata", "podRef"].iter().find_map(|of| text(answer.get(of)?, "name")).unwrap_or_default();
    let containers = answer.get("containers").and_then(Value::as_array);
    containers.into_iter().flatten().try_for_each(|container| {
        let labels = Labels::of(&[("pod", pod), ("container", text(container, "name").unwrap_or_default())]);
        if let Some(usage) = container.get("usage").and_then(|usage| text(usage, "memory")) {
            let stamp = Stamp::parse(text(answer, "timestamp").unwrap_or_default())?;
            return rows.push(&labels, Some(stamp), Sizes { usage: parse_size(usage)?, ..Sizes::default() });
        }
        let memory = container.get("memory").unwrap_or(&Value::Null);
        let bytes = |name: &str| json::bytes(memory.get(name));
        let Some(usage) = bytes("usageBytes").or(bytes("workingSetBytes")) else {
            rows.pass_over();
            return Ok(());
        };
        let sizes = Sizes {
            usage,
            anon: bytes("rssBytes"),
            inactive_file: bytes("workingSetBytes").map(|set| usage.saturating_sub(set)),
            active_file: None,
        };
        rows.push(&labels, Some(Stamp::parse(text(memory, "time").unwrap_or_default())?), sizes)
    })
}

fn crictl(container: &Value, rows: &mut Rows) -> Result<(), String> {
    let of = container.get("attributes").and_then(|of| of.get("metadata")).unwrap_or(&Value::Null);
    let labels = Labels::of(&[("container", text(of, "name").unwrap_or_default())]);
    let memory = container.get("memory").unwrap_or(&Value::Null);
    let value = |name: &str| {
        let value = memory.get(name)?.get("value")?;
        json::bytes(Some(value)).or_else(|| value.as_str()?.parse().ok())
    };
    let Some(usage) = value("usageBytes").or(value("workingSetBytes")) else {
        rows.pass_over();
        return Ok(());
    };
    let sizes = Sizes {
        usage,
        anon: value("rssBytes"),
        inactive_file: value("workingSetBytes").map(|set| usage.saturating_sub(set)),
        active_file: None,
    };
    rows.push(&labels, Some(Stamp::parse(text(memory, "timestamp").unwrap_or_default())?), sizes)
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str()
}
