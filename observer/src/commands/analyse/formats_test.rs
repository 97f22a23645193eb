//! One start-up as every known tool records it: 300 MiB after 10 s, 200 MiB from 15 s on, a reading every 5 s.

use proptest::prelude::*;

use super::{Options, Reading, Report, analyse};

/// What each fixture is recognised as.
const FIXTURES: [(&str, &str, &[u8]); 46] = [
    ("columns", "plain", include_bytes!("fixtures/plain.csv")),
    ("columns", "tabs", include_bytes!("fixtures/tabs.tsv")),
    ("columns", "blanks", include_bytes!("fixtures/blanks.txt")),
    ("columns", "decimal comma", include_bytes!("fixtures/decimal_comma.csv")),
    ("columns", "Grafana dates", include_bytes!("fixtures/grafana_dates.csv")),
    ("columns", "Grafana milliseconds", include_bytes!("fixtures/grafana_milliseconds.csv")),
    ("columns", "Grafana rows", include_bytes!("fixtures/grafana_rows.csv")),
    ("Prometheus range query", "", include_bytes!("fixtures/prometheus.json")),
    ("VictoriaMetrics export", "", include_bytes!("fixtures/victoriametrics.jsonl")),
    ("kubectl top", "", include_bytes!("fixtures/kubectl_top.txt")),
    ("kubectl top", "--containers", include_bytes!("fixtures/kubectl_top_containers.txt")),
    ("kubectl top", "--no-headers", include_bytes!("fixtures/kubectl_top_prefixed.txt")),
    ("docker stats", "", include_bytes!("fixtures/docker_stats.txt")),
    ("docker stats JSON", "", include_bytes!("fixtures/docker_stats.jsonl")),
    ("psrecord", "", include_bytes!("fixtures/psrecord.txt")),
    ("psrecord", "csv", include_bytes!("fixtures/psrecord.csv")),
    ("mprof", "", include_bytes!("fixtures/mprofile.dat")),
    ("pidstat", "-h", include_bytes!("fixtures/pidstat_h.txt")),
    ("pidstat", "AM", include_bytes!("fixtures/pidstat.txt")),
    ("cAdvisor stats", "v1.3", include_bytes!("fixtures/cadvisor_v1.json")),
    ("cAdvisor stats", "v2.0", include_bytes!("fixtures/cadvisor_v2.json")),
    ("cAdvisor stats", "Docker's API", include_bytes!("fixtures/docker_api.jsonl")),
    ("JSON records", "a list", include_bytes!("fixtures/records.json")),
    ("JSON records", "one a line", include_bytes!("fixtures/records.jsonl")),
    ("columns", "comments", include_bytes!("fixtures/comments.txt")),
    ("columns", "Grafana short", include_bytes!("fixtures/grafana_short.csv")),
    ("columns", "grouped", include_bytes!("fixtures/grouped.csv")),
    ("Prometheus range query", "instant, in a loop", include_bytes!("fixtures/prometheus_instant.jsonl")),
    ("Prometheus range query", "its result", include_bytes!("fixtures/prometheus_result.json")),
    ("Prometheus text", "an exporter", include_bytes!("fixtures/exporter.txt")),
    ("Prometheus text", "promtool", include_bytes!("fixtures/promtool.txt")),
    ("kubectl top", "--sum", include_bytes!("fixtures/kubectl_top_sum.txt")),
    ("kubectl top", "node", include_bytes!("fixtures/kubectl_top_node.txt")),
    ("docker stats", "columns", include_bytes!("fixtures/docker_stats_columns.txt")),
    ("docker stats JSON", "its own time", include_bytes!("fixtures/docker_stats_dated.jsonl")),
    ("docker stats JSON", "podman", include_bytes!("fixtures/podman_stats.txt")),
    ("Kubernetes JSON", "metrics API", include_bytes!("fixtures/metrics_api.jsonl")),
    ("Kubernetes JSON", "kubelet", include_bytes!("fixtures/kubelet_summary.jsonl")),
    ("Kubernetes JSON", "crictl", include_bytes!("fixtures/crictl_stats.jsonl")),
    ("crictl stats", "", include_bytes!("fixtures/crictl_stats.txt")),
    ("process table", "ps aux", include_bytes!("fixtures/ps_aux.txt")),
    ("process table", "ps -o rss", include_bytes!("fixtures/ps_rss.txt")),
    ("process table", "top", include_bytes!("fixtures/top.txt")),
    ("process table", "smem", include_bytes!("fixtures/smem.txt")),
    ("/proc/PID/status", "", include_bytes!("fixtures/proc_status.txt")),
    ("times and sizes in turn", "", include_bytes!("fixtures/in_turn.txt")),
];

fn report(bytes: &[u8], reading: Reading) -> Result<Report, String> {
    let options = Options { reading, ..Options::default() };
    analyse(bytes, &options).map(|done| done.report).map_err(|error| error.to_string())
}

fn read(text: &str) -> Result<Report, String> {
    report(text.as_bytes(), Reading::default())
}

#[test]
fn one_start_up_is_the_same_from_every_tool() {
    for (format, variant, bytes) in FIXTURES {
        let report =
            report(bytes, Reading::default()).unwrap_or_else(|why| panic!("{format} {variant}: {why}"));
        let first = &report.first;
        let stable = first.time_to_stable_seconds.unwrap_or(f64::NAN);
        assert_eq!(
            (report.format, first.verdict, first.samples),
            (format, "stable", 25),
            "{format} {variant}"
        );
        assert_eq!(first.peak_bytes, 300 << 20, "{format} {variant}");
        assert!(
            (first.peak_seconds - 10.0).abs() < 0.1,
            "{format} {variant}: peak after {}",
            first.peak_seconds
        );
        assert!((stable - 15.0).abs() < 0.1, "{format} {variant}: stable after {stable}");
        assert!((first.duration_seconds - 120.0).abs() < 0.1, "{format} {variant}");
    }
}

#[test]
fn parts_are_read_where_the_tool_has_them() {
    for (format, variant, bytes) in FIXTURES {
        let first = report(bytes, Reading::default()).unwrap().first;
        let steady = first.steady_bytes.unwrap() >> 20;
        let has_both = format == "cAdvisor stats" || ["tabs", "kubelet", "crictl"].contains(&variant);
        if format == "/proc/PID/status" {
            assert_eq!((first.peak_anon_bytes, steady), (Some(280 << 20), 200), "{format} {variant}");
        } else if has_both {
            assert_eq!((first.peak_anon_bytes, steady), (Some(280 << 20), 192), "{format} {variant}");
        } else {
            assert_eq!((first.peak_anon_bytes, steady), (None, 200), "{format} {variant}");
        }
    }
}

#[test]
fn the_encoding_makes_no_difference() {
    for (format, variant, bytes) in FIXTURES {
        let expected = report(bytes, Reading::default()).unwrap();
        let text = std::str::from_utf8(bytes).unwrap();
        let units =
            |text: &str, of: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(of).collect::<Vec<u8>>();
        for (name, bytes) in [
            ("UTF-8 with a mark", [b"\xef\xbb\xbf", bytes].concat()),
            ("UTF-16LE with a mark", units(&format!("\u{feff}{text}"), u16::to_le_bytes)),
            ("UTF-16BE with a mark", units(&format!("\u{feff}{text}"), u16::to_be_bytes)),
            ("UTF-16LE", units(text, u16::to_le_bytes)),
            ("UTF-16BE", units(text, u16::to_be_bytes)),
            ("CRLF", text.replace('\n', "\r\n").into_bytes()),
        ] {
            let read = report(&bytes, Reading::default());
            assert_eq!(read.as_ref(), Ok(&expected), "{format} {variant} as {name}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_in_one_short_line() {
    let table = [
        ("", "no samples"),
        (" \n\n", "no samples"),
        ("seconds,usage_bytes\n", "no samples"),
        ("0,0\n1,0\n", "no samples: every row says 0 bytes"),
        ("0,NaN\n", "line 1: usage_bytes \"NaN\" is not"),
        ("0,1\n1,-5\n", "line 2: usage_bytes \"-5\" is not"),
        ("0,1\n-1,5\n", "line 2: time -1 cannot be"),
        ("0,1\nNaN,5\n", "line 2: time NaN cannot be"),
        ("0,1\n2,5\n1,5\n", "line 3: time goes back, 1 after 2"),
        ("0,1\n1,lots\n", "line 2: usage_bytes \"lots\" is not a size"),
        ("0,1\n1,1e30\n", "line 2: usage_bytes \"1e30\" is more memory"),
        ("0,1\n1\n", "line 2: 1 fields, expected 2"),
        ("seconds,cpu_percent\n0,1\n", "do not name usage_bytes"),
        ("5\n", "do not name usage_bytes"),
        ("0,5\n1000,5\n", "line 2: time is 1000 further than in the first row; are these milliseconds?"),
        ("time,usage\n250,5\n500,5\n", "line 3: time is 250 further"),
        ("hello world\n", "do not name seconds"),
        ("0,1\n1e300,5\n", "line 2: time 1e300 cannot be"),
        ("0,1\n-1e-300,5\n", "line 2: time -1e-300 cannot be"),
        ("seconds,usage_bytes\n100000000000,5\n", "line 2: time 100000000000 cannot be"),
        ("seconds,usage_bytes\n0,5\n1716307200,5\n", "line 3: time 1716307200 cannot be"),
        ("time,usage\n2024-05-21 16:00:00,5\n12,6\n", "line 3: the time is of another kind"),
        (
            "seconds,usage_bytes,anon_bytes\n0,1000,10\n1,1000,2000\n",
            "line 3: anonymous memory of 2000 B is more than the usage of 1000 B",
        ),
        (
            "seconds,usage_bytes,anon_bytes,inactive_file_bytes\n0,1000,10,1500\n",
            "line 2: inactive file cache of 1500 B",
        ),
        ("time,a,b\n0,1,\n1,1,1\n", "a series at a time: \"a\""),
        ("{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"bad query\"}", "bad query"),
        ("{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[]}}", "query_range"),
        (
            "{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[]}}",
            "no samples: the query matched",
        ),
        (
            "{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[{},{}]}}",
            "2 series with the same labels",
        ),
        ("{\"a\":1}", "JSON, but not of a known shape"),
        ("[1,2]", "JSON, but not of a known shape"),
        ("[{\"ts\":0,\"rss\":5},{\"ts\":1,\"rss\":\"lots\"}]", "record 2: usage_bytes"),
        ("{\"ts\":0,\"rss\":5}\n{\"ts\":1,\"rss\":-5}\n", "record 2: usage_bytes"),
        ("[{\"ts\":0", "not JSON records: EOF"),
        ("[]", "at least one record"),
        ("NAME   CPU(cores)   MEMORY(bytes)\nweb-0  5m  12Mi\n", "no time of its own"),
        (
            "1716307200 web-0 5m 12Mi\n1716307205 web-0 5m lots\n",
            "line 2: \"web-0 5m lots\" is no line of kubectl top",
        ),
        ("web  12.5MiB / 1GiB\n", "no time of its own"),
        ("MEM -5 1716307200\n", "-5"),
    ];
    for (text, expected) in table {
        let error = read(text).unwrap_err();
        let expected = if expected.starts_with("a series") { "more than one series" } else { expected };
        assert!(error.contains(expected), "{text:?}: {error}");
        assert!(error.len() < 400 && !error.contains(char::is_control), "{error}");
    }
}

#[test]
fn what_is_cut_at_the_end_is_left_out_with_a_note() {
    let of = |row: &dyn Fn(u32) -> String, last: &str| {
        let rows: String = (0..60).map(row).collect();
        let report = read(&(rows + last)).unwrap();
        assert_eq!(report.first.verdict, "stable", "{last}: {}", report.story());
        (report.first.samples, report.notes.iter().any(|note| note.contains("left out")))
    };
    let commas = |t: u32| format!("{},104857600\n", 10 + t);
    for (last, expected) in [
        ("70,1048", (60, true)),
        ("70,10485760", (60, true)),
        ("70", (60, true)),
        ("70,104857600", (61, false)),
        ("70,104857600\n", (61, false)),
    ] {
        assert_eq!(of(&commas, last), expected, "{last}");
        let blanks = |t: u32| commas(t).replace(',', " ");
        // Blanks: what is only a time is what a loop writes for a process that is gone.
        let expected = if last == "70" { (60, false) } else { expected };
        assert_eq!(of(&blanks, &last.replace(',', " ")), expected, "{last}");
    }
    let records = |t: u32| format!("{{\"ts\":{t},\"rss\":104857600}}\n");
    assert_eq!(of(&records, "{\"ts\":60,\"rss\":1048"), (60, true));
    let metrics = |t: u32| {
        format!(
            "{{\"metric\":{{\"pod\":\"a\"}},\"values\":[104857600],\"timestamps\":[{}]}}\n",
            1_790_000_000_000 + u64::from(t) * 1000
        )
    };
    assert_eq!(of(&metrics, "{\"metric\":{\"pod\":\"a\"},\"values\":[104"), (60, true));
}

#[test]
fn a_value_of_prometheus_that_is_none_is_passed_over() {
    let points: Vec<String> = (0..60)
        .map(|t| {
            let value = match t {
                30 => "\"NaN\"",
                31 => "null",
                _ => "\"104857600\"",
            };
            format!("[{},{value}]", 1_790_000_000 + t)
        })
        .collect();
    let answer = format!(
        r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{}},"values":[{}]}}]}}}}"#,
        points.join(",")
    );
    let report = read(&answer).unwrap();
    assert_eq!((report.first.samples, report.first.verdict), (58, "stable"));
    assert!(
        report.notes.iter().any(|note| note == "2 rows without a value were passed over"),
        "{:?}",
        report.notes
    );
}

#[test]
fn a_stale_part_of_what_was_freed_a_moment_ago_is_no_mistake() {
    let report = read("seconds,usage_bytes,anon_bytes\n0,300,290\n1,100,290\n2,100,90\n").unwrap();
    assert_eq!(report.first.peak_anon_bytes, Some(290));
    assert!(read("seconds,usage_bytes,anon_bytes\n0,300,290\n1,100,290\n9,100,290\n").is_err());
}

#[test]
fn sizes_are_of_the_unit_that_the_tool_means() {
    let head = "16:00:00  UID  PID  minflt/s  majflt/s  VSZ  RSS  %MEM  Command\n";
    let pidstat =
        |rss: &str| read(&format!("{head}16:00:01  0  1  2.00  0.00  16.2M  {rss}  0.1  java\n")).unwrap();
    assert_eq!(pidstat("13.0M").first.peak_bytes, 13 << 20);
    assert_eq!(pidstat("13312").first.peak_bytes, 13 << 20);
    let of = |header: &str, cell: &str| read(&format!("time;{header}\n0;{cell}\n")).unwrap().first.peak_bytes;
    for (header, cell, expected) in [
        ("rss_kib", "1024", 1 << 20),
        ("RSS (MiB)", "1,5", 3 << 19),
        ("usageBytes", "1048576", 1 << 20),
        ("Memory Usage (MB)", "2", 2_000_000),
        ("memory.usage_in_bytes", "7", 7),
        ("Usage", "64Mi", 64 << 20),
        ("working_set_mib", "64 KiB", 64 << 10),
    ] {
        assert_eq!(of(header, cell), expected, "{header} {cell}");
    }
    let small = read("0,12345\n1,12346\n").unwrap();
    assert!(small.notes.iter().any(|note| note.contains("read as bytes")), "{:?}", small.notes);
}

#[test]
fn a_page_of_many_containers_is_refused_before_it_is_read() {
    let mut text = String::new();
    for scrape in 0..3 {
        for container in 0..2000 {
            text +=
                &format!("container_memory_rss{{id=\"{container}\"}} 5 {}\n", 1_716_307_200_000_u64 + scrape);
        }
    }
    let error = read(&text).unwrap_err();
    assert!(error.contains("series that differ in id"), "{error}");
    let gone =
        "1716307200\nweb 5MiB / 1GiB\n1716307201\nError response from daemon: No such container: web\n";
    assert_eq!(read(gone).unwrap().first.samples, 1);
}

#[test]
fn comments_are_no_rows_and_may_be_the_header() {
    let peak = |text: &str| read(text).map(|report| report.first.peak_bytes);
    for text in [
        "# recorded on web-0\n# time usage\nseconds,usage_bytes\n0,1000\n# paused\n1,2000\n",
        "# seconds,usage_bytes\n0,1000\n1,2000\n",
        "# elapsed rss_kb\n0 1\n# paused\n1 2\n",
        "time,name,mem\n1716307200,web,1000B / 1GiB\n1716307201,web,2000B / 1GiB\n",
    ] {
        assert_eq!(peak(text), Ok(2000), "{text}");
    }
    assert!(peak("# elapsed rss_kb\n0 1\n1 lots\n").is_err_and(|why| why.contains("line 3")));
}

#[test]
fn a_loop_that_asked_for_what_was_gone_read_nothing() {
    let report = read("1716307200 5Mi\n1716307201 \n1716307202 6Mi\n").unwrap();
    assert_eq!(report.first.samples, 2);
    assert!(report.notes.iter().any(|note| note.contains("1 rows without a value")), "{:?}", report.notes);
    let pods = "Tue May 21 16:00:00 UTC 2024\nerror: metrics not available yet\nTue May 21 16:00:15 UTC 2024\nweb-0 5m 12Mi\n";
    assert_eq!(read(pods).unwrap().first.peak_bytes, 12 << 20);
}

#[test]
fn the_labels_that_differ_are_named() {
    let series = |labels: &str, from: u64| {
        let values: Vec<String> =
            (0..30).map(|i| format!("[{},\"2e8\"]", 1_716_307_200 + from + i * 5)).collect();
        format!("{{\"metric\":{{{labels}}},\"values\":[{}]}}", values.join(","))
    };
    let answer = |a: &str, b: &str, from: u64| {
        let (a, b) = (series(a, 0), series(b, from));
        read(&format!(
            "{{\"status\":\"success\",\"data\":{{\"resultType\":\"matrix\",\"result\":[{b},{a}]}}}}"
        ))
    };
    let (one, two) = (r#""pod":"web-0","id":"/a/1""#, r#""pod":"web-0","id":"/a/2""#);
    let report = answer(one, two, 200).unwrap();
    assert_eq!((report.starts_total, report.starts.len()), (2, 2));
    assert!(report.notes.iter().any(|note| note.contains("differ in id only")), "{:?}", report.notes);
    let error = answer(one, two, 100).unwrap_err();
    assert!(error.contains("2 series that differ in id,"), "{error}");
    let error = answer(r#""container":"a""#, r#""container":"b""#, 200).unwrap_err();
    assert!(error.contains("differ in container") && error.contains("--series"), "{error}");
}

#[test]
fn one_of_several_series_can_be_chosen_and_missing_times_be_given() {
    let text = "time,web,db\n0,100,7\n5,200,7\n";
    assert!(read(text).is_err());
    let reading = Reading { series: Some("web".to_owned()), interval: None };
    assert_eq!(report(text.as_bytes(), reading).unwrap().first.peak_bytes, 200);
    let reading = Reading { series: None, interval: Some(2.5) };
    let report = report(b"web  12MiB / 1GiB\nweb  13MiB / 1GiB\n", reading).unwrap();
    assert_eq!((report.first.peak_seconds, report.first.peak_bytes), (2.5, 13 << 20));
    let restarted = "time,\"{pod=\"\"a\"\"}\",\"{pod=\"\"b\"\"}\"\n0,100,\n5,200,\n10,,50\n15,,70\n";
    assert_eq!(read(restarted).unwrap().starts_total, 2);
}

#[test]
fn a_first_row_far_from_zero_is_said_and_proves_nothing() {
    for from in [30.0, 100.0, 86400.25] {
        let rows: String = (0..21).map(|i| format!("{},100000000\n", from + f64::from(i) / 10.0)).collect();
        let report = read(&format!("seconds,usage_bytes\n{rows}")).unwrap();
        assert_eq!(report.first.verdict, "settling", "{from}");
        assert_eq!(report.first_row_seconds, Some(from));
        assert!((report.first.duration_seconds - 2.0).abs() < 1e-6);
        assert!(report.story().contains(&format!("first row is {from} s from zero")), "{}", report.story());
    }
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let fixture = (0..FIXTURES.len(), any::<Vec<(u16, u8)>>()).prop_map(|(which, changes)| {
        let mut bytes = FIXTURES[which].2.to_vec();
        for (at, byte) in changes {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        bytes
    });
    let long = "[\\[{\"a-z0-9,;:. \t\u{1b}\u{e9}-]{0,12}".prop_map(|text| text.repeat(300).into_bytes());
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..300), long, fixture]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_an_answer_or_a_short_refusal(bytes in hostile()) {
        match report(&bytes, Reading::default()) {
            Ok(report) => {
                let story = report.story();
                prop_assert!(story.lines().count() < 60);
                prop_assert!(!story.contains(|c: char| c.is_control() && c != '\n'));
                prop_assert!(report.first.overshoot_ratio.is_none_or(|ratio| ratio >= 1.0));
            }
            Err(why) => {
                prop_assert!(why.len() < 500, "{} bytes: {}", why.len(), why);
                prop_assert!(!why.contains(char::is_control));
            }
        }
    }
}
