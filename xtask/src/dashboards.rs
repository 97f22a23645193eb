//! Grafana dashboards from one table: deploy/grafana/*.json. Committed, and checked fresh by a test; the end-to-end
//! test asks a real Prometheus every query.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::shell;

struct Dashboard {
    file: &'static str,
    title: &'static str,
    about: &'static str,
    /// Label, and the query whose values it takes.
    variables: &'static [(&'static str, &'static str)],
    /// Drawn across all lines.
    marks: &'static [Mark],
    panels: &'static [Panel],
}

/// A moment that explains a line: wherever the query has a value.
struct Mark {
    name: &'static str,
    text: &'static str,
    color: &'static str,
    query: &'static str,
}

struct Panel {
    title: &'static str,
    about: &'static str,
    kind: Kind,
    unit: &'static str,
    /// Of 24 columns.
    width: u64,
    queries: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Lines,
    Number,
    /// A bar for each set of labels, now.
    Bars,
}

const LINES: Kind = Kind::Lines;
const BARS: Kind = Kind::Bars;
const NUMBER: Kind = Kind::Number;
const BYTES: &str = "bytes";
const SECONDS: &str = "s";
const SHORT: &str = "short";

const fn panel(
    title: &'static str,
    about: &'static str,
    kind: Kind,
    unit: &'static str,
    width: u64,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel { title, about, kind, unit, width, queries }
}

const WORKLOADS: (&str, &str) =
    ("workload", "label_values(observer_workload_containers{namespace=~\"$namespace\"}, workload)");
const NAMESPACES: (&str, &str) = ("namespace", "label_values(observer_workload_containers, namespace)");

/// Where a counter grew within one step; one that is first scraped with something in it has grown, too.
macro_rules! fresh {
    ($counter:literal) => {
        concat!(
            $counter,
            " > (",
            $counter,
            " offset 1m) or (",
            $counter,
            " unless ",
            $counter,
            " offset 1m) > 0"
        )
    };
}

const DASHBOARDS: &[Dashboard] = &[
    Dashboard {
        file: "fleet.json",
        title: "Memory observer / Fleet",
        about: "Which workloads are at risk when they start, and what is advised.",
        variables: &[NAMESPACES],
        marks: &[],
        panels: &[
            panel(
                "Checks that fail",
                "By check; docs/advice.md says what each is.",
                BARS,
                SHORT,
                8,
                &[(
                    "{{check}}",
                    "count by (check) (max by (namespace, workload, workload_type, container, check) (observer_advice_grade{namespace=~\"$namespace\"}) == 3)",
                )],
            ),
            panel(
                "Worst need over limit",
                "Above 1 the next start-up like the worst one is OOM-killed. Workloads without a limit are not here.",
                BARS,
                "percentunit",
                8,
                &[(
                    "{{namespace}}/{{workload}}",
                    "topk(20, max by (namespace, workload, container) (observer_workload_history_startup_need_bytes{statistic=\"max\", namespace=~\"$namespace\"}) / min by (namespace, workload, container) (observer_workload_memory_limit_bytes))",
                )],
            ),
            panel(
                "Overshoot, worst",
                "Highest working set before the verdict over steady level, of the containers there are.",
                BARS,
                SHORT,
                8,
                &[(
                    "{{namespace}}/{{workload}}",
                    "topk(20, max by (namespace, workload) (observer_container_startup_overshoot_ratio{namespace=~\"$namespace\"}))",
                )],
            ),
            panel(
                "OOM kills by scale-up, an hour",
                "Kills of containers a scale-up made, by who scaled.",
                LINES,
                SHORT,
                12,
                &[(
                    "{{namespace}}/{{workload}} by {{by}}",
                    "sum by (namespace, workload, by) (increase(observer_scale_event_oom_kills_total{role=\"victim\", namespace=~\"$namespace\"}[1h]))",
                )],
            ),
            panel(
                "OOM kills by phase, an hour",
                "",
                LINES,
                SHORT,
                12,
                &[(
                    "{{phase}}",
                    "sum by (phase) (increase(observer_workload_oom_kills_by_phase_total{namespace=~\"$namespace\"}[1h]))",
                )],
            ),
            panel(
                "Starts by cause, an hour",
                "docs/causes.md says what each cause is.",
                LINES,
                SHORT,
                12,
                &[(
                    "{{cause}}",
                    "sum by (cause) (increase(observer_workload_starts_total{namespace=~\"$namespace\"}[1h]))",
                )],
            ),
            panel(
                "Time to stable, p95 by cause",
                "",
                LINES,
                SECONDS,
                12,
                &[(
                    "{{cause}}",
                    "histogram_quantile(0.95, sum by (cause, le) (observer_node_time_to_stable_seconds_bucket))",
                )],
            ),
            panel(
                "Requests, set and advised",
                "Of the containers alive whose workload has advice.",
                LINES,
                BYTES,
                12,
                &[
                    (
                        "set",
                        "sum((min by (namespace, workload) (observer_workload_memory_request_bytes{namespace=~\"$namespace\"}) and max by (namespace, workload) (observer_advice_request_bytes)) * on (namespace, workload) sum by (namespace, workload) (observer_workload_containers))",
                    ),
                    (
                        "advised",
                        "sum(max by (namespace, workload) (observer_advice_request_bytes{namespace=~\"$namespace\"}) * on (namespace, workload) sum by (namespace, workload) (observer_workload_containers))",
                    ),
                ],
            ),
            panel(
                "Observers",
                "Nodes that answer, probes not attached, data lost.",
                NUMBER,
                SHORT,
                12,
                &[
                    ("nodes", "count(observer_build_info)"),
                    ("probes broken", "sum(observer_probe_status{status=\"broken\"}) or vector(0)"),
                    ("lost, 1 h", "sum(increase(observer_lost_records_total[1h]))"),
                ],
            ),
        ],
    },
    Dashboard {
        file: "node.json",
        title: "Memory observer / Node",
        about: "What is starting on a node, and whether there is room for it.",
        variables: &[("instance", "label_values(observer_node_memory_total_bytes, instance)")],
        marks: &[
            Mark {
                name: "Scale-ups",
                text: "{{namespace}}/{{workload}} scaled up by {{by}}",
                color: "blue",
                query: fresh!("observer_scale_events_total{instance=~\"$instance\"}"),
            },
            Mark {
                name: "OOM kills",
                text: "{{namespace}}/{{workload}}, limit of: {{scope}}",
                color: "red",
                query: fresh!("observer_workload_oom_kills_total{instance=~\"$instance\"}"),
            },
        ],
        panels: &[
            panel(
                "Headroom, and what those starting will take",
                "When the forecast meets the headroom, the node will be short. Headroom is what is available or, if that is less, what pods may still take below node allocatable.",
                LINES,
                BYTES,
                12,
                &[
                    ("headroom", "observer_node_memory_headroom_bytes{instance=~\"$instance\"}"),
                    ("available", "observer_node_memory_available_bytes{instance=~\"$instance\"}"),
                    (
                        "held by those starting",
                        "observer_node_starting_memory_bytes{instance=~\"$instance\"}",
                    ),
                    ("they will take more", "observer_node_startup_forecast_bytes{instance=~\"$instance\"}"),
                ],
            ),
            panel(
                "Starting now",
                "",
                LINES,
                SHORT,
                12,
                &[
                    ("starting", "observer_node_containers_starting{instance=~\"$instance\"}"),
                    (
                        "without a history",
                        "observer_node_startup_forecast_unknown_containers{instance=~\"$instance\"}",
                    ),
                ],
            ),
            panel(
                "Stampedes and shortages ahead, an hour",
                "",
                LINES,
                SHORT,
                8,
                &[
                    ("stampedes", "increase(observer_node_stampedes_total{instance=~\"$instance\"}[1h])"),
                    (
                        "shortages ahead",
                        "increase(observer_node_memory_shortage_forecasts_total{instance=~\"$instance\"}[1h])",
                    ),
                ],
            ),
            panel(
                "Tasks freeing memory themselves",
                "Seconds a second, for a limit or for the node.",
                LINES,
                SECONDS,
                8,
                &[(
                    "{{reason}}",
                    "rate(observer_node_reclaim_stall_seconds_total{instance=~\"$instance\"}[5m])",
                )],
            ),
            panel(
                "OOM kills by whose limit, an hour",
                "",
                LINES,
                SHORT,
                8,
                &[(
                    "{{scope}}",
                    "sum by (scope) (increase(observer_node_oom_kills_by_scope_total{instance=~\"$instance\"}[1h]))",
                )],
            ),
            panel(
                "Page faults",
                "A second.",
                LINES,
                SHORT,
                12,
                &[
                    ("all", "rate(observer_node_page_faults_total{instance=~\"$instance\"}[5m])"),
                    ("from disk", "rate(observer_node_major_page_faults_total{instance=~\"$instance\"}[5m])"),
                ],
            ),
            panel(
                "The observer itself",
                "",
                LINES,
                BYTES,
                12,
                &[("resident", "observer_resident_memory_bytes{instance=~\"$instance\"}")],
            ),
        ],
    },
    Dashboard {
        file: "workload.json",
        title: "Memory observer / Workload",
        about: "One workload's start-ups: the curves, how they ended, and what they need.",
        variables: &[NAMESPACES, WORKLOADS],
        marks: &[
            Mark {
                name: "Scale-ups",
                text: "scaled up by {{by}}",
                color: "blue",
                query: fresh!(
                    "observer_scale_events_total{namespace=~\"$namespace\", workload=~\"$workload\"}"
                ),
            },
            Mark {
                name: "OOM kills",
                text: "limit of: {{scope}}",
                color: "red",
                query: fresh!(
                    "observer_workload_oom_kills_total{namespace=~\"$namespace\", workload=~\"$workload\"}"
                ),
            },
        ],
        panels: &[
            panel(
                "Memory of its containers",
                "As scraped; peaks between two scrapes are in the panel beside it.",
                LINES,
                BYTES,
                12,
                &[
                    (
                        "{{pod}}",
                        "observer_container_memory_usage_bytes{namespace=~\"$namespace\", workload=~\"$workload\"}",
                    ),
                    (
                        "limit {{pod}}",
                        "observer_container_memory_limit_bytes{namespace=~\"$namespace\", workload=~\"$workload\"}",
                    ),
                ],
            ),
            panel(
                "Start-up peaks and steady levels",
                "Exact, between any two scrapes.",
                BARS,
                BYTES,
                12,
                &[
                    (
                        "peak {{pod}}",
                        "observer_container_startup_peak_bytes{namespace=~\"$namespace\", workload=~\"$workload\"}",
                    ),
                    (
                        "steady {{pod}}",
                        "observer_container_memory_steady_bytes{namespace=~\"$namespace\", workload=~\"$workload\"}",
                    ),
                ],
            ),
            panel(
                "Time to stable, p95, by container",
                "Over the start-ups remembered; the worst node.",
                LINES,
                SECONDS,
                12,
                &[(
                    "{{container}}",
                    "max by (container) (observer_workload_history_time_to_stable_seconds{namespace=~\"$namespace\", workload=~\"$workload\"})",
                )],
            ),
            panel(
                "OOM kills by scale-up, an hour",
                "victim: it made the victim; under_way: it was starting when another was killed.",
                LINES,
                SHORT,
                12,
                &[(
                    "{{by}}, {{role}}",
                    "sum by (by, role) (increase(observer_scale_event_oom_kills_total{namespace=~\"$namespace\", workload=~\"$workload\"}[1h]))",
                )],
            ),
            panel(
                "Last scale-up: peaks together and overshoot, by node",
                "",
                LINES,
                BYTES,
                12,
                &[
                    (
                        "peaks {{instance}}",
                        "observer_scale_event_peak_sum_bytes{namespace=~\"$namespace\", workload=~\"$workload\"}",
                    ),
                    (
                        "overshoot {{instance}}",
                        "observer_scale_event_overshoot_sum_bytes{namespace=~\"$namespace\", workload=~\"$workload\"}",
                    ),
                ],
            ),
            panel(
                "Starting at one time, by node",
                "Most containers of the last scale-up.",
                LINES,
                SHORT,
                12,
                &[(
                    "{{instance}}",
                    "observer_scale_event_concurrent_starts_max{namespace=~\"$namespace\", workload=~\"$workload\"}",
                )],
            ),
            panel(
                "Request and limit, set and advised",
                "",
                BARS,
                BYTES,
                12,
                &[
                    (
                        "request",
                        "min by (container) (observer_workload_memory_request_bytes{namespace=~\"$namespace\", workload=~\"$workload\"})",
                    ),
                    (
                        "request advised",
                        "max by (container) (observer_advice_request_bytes{namespace=~\"$namespace\", workload=~\"$workload\"})",
                    ),
                    (
                        "limit",
                        "min by (container) (observer_workload_memory_limit_bytes{namespace=~\"$namespace\", workload=~\"$workload\"})",
                    ),
                    (
                        "limit advised",
                        "max by (container) (observer_advice_limit_bytes{namespace=~\"$namespace\", workload=~\"$workload\"})",
                    ),
                ],
            ),
            panel(
                "Checks",
                "2 warn, 3 fail; what passes is not shown.",
                BARS,
                SHORT,
                12,
                &[(
                    "{{check}}",
                    "max by (container, check) (observer_advice_grade{namespace=~\"$namespace\", workload=~\"$workload\"})",
                )],
            ),
        ],
    },
];

/// How often a mark is asked for: as far as its query looks back, so that each growth is one mark.
const STEP: &str = "1m";

/// Every file, and what should be in it.
pub fn files() -> Vec<(PathBuf, String)> {
    let folder = shell::root().join("deploy/grafana");
    let file = |dashboard: &Dashboard| {
        let text = serde_json::to_string_pretty(&json(dashboard)).unwrap_or_default();
        (folder.join(dashboard.file), text + "\n")
    };
    DASHBOARDS.iter().map(file).collect()
}

fn json(dashboard: &Dashboard) -> Value {
    let mut variables = vec![json!({"name": "datasource", "type": "datasource", "query": "prometheus"})];
    for (name, query) in dashboard.variables {
        variables.push(json!({
            "name": name, "type": "query", "datasource": source(), "query": {"query": query, "refId": name},
            "refresh": 2, "multi": true, "includeAll": true, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
        }));
    }
    let (mut x, mut y) = (0, 0);
    let mut panels = Vec::new();
    for (i, panel) in dashboard.panels.iter().enumerate() {
        const HEIGHT: u64 = 8;
        if x + panel.width > 24 {
            (x, y) = (0, y + HEIGHT);
        }
        panels.push(json!({
            "id": i + 1, "title": panel.title, "description": panel.about, "datasource": source(),
            "type": match panel.kind { Kind::Lines => "timeseries", Kind::Number => "stat", Kind::Bars => "bargauge" },
            "gridPos": {"x": x, "y": y, "w": panel.width, "h": HEIGHT},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "options": options(panel.kind),
            "targets": targets(panel),
        }));
        x += panel.width;
    }
    json!({
        "uid": format!("observer-{}", dashboard.file.trim_end_matches(".json")),
        "title": dashboard.title, "description": dashboard.about, "tags": ["memory-observer"],
        "schemaVersion": 39, "version": 1, "editable": true, "refresh": "30s", "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables}, "panels": panels,
        "annotations": {"list": dashboard.marks.iter().map(annotation).collect::<Vec<_>>()},
    })
}

/// All that a panel of this kind has, defaults too: what a newer Grafana takes for a default may be another.
fn options(kind: Kind) -> Value {
    let legend = json!({"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []});
    let last = json!({"calcs": ["lastNotNull"]});
    match kind {
        Kind::Lines => json!({"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}),
        Kind::Number => json!({
            "orientation": "auto", "graphMode": "none", "colorMode": "value", "justifyMode": "auto", "textMode": "auto",
            "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard", "reduceOptions": last,
        }),
        Kind::Bars => json!({
            "orientation": "horizontal", "displayMode": "basic", "valueMode": "color", "namePlacement": "auto",
            "showUnfilled": true, "sizing": "auto", "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 300,
            "legend": legend, "reduceOptions": last,
        }),
    }
}

fn annotation(mark: &Mark) -> Value {
    json!({
        "name": mark.name, "datasource": source(), "enable": true, "iconColor": mark.color,
        "expr": mark.query, "step": STEP, "titleFormat": mark.name, "textFormat": mark.text,
    })
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "$datasource"})
}

fn targets(panel: &Panel) -> Vec<Value> {
    let target = |(i, (legend, query)): (usize, &(&str, &str))| {
        json!({
            "refId": char::from(b'A' + u8::try_from(i).unwrap_or(25)).to_string(), "expr": query, "legendFormat": legend,
            "instant": panel.kind != Kind::Lines, "range": panel.kind == Kind::Lines,
        })
    };
    panel.queries.iter().enumerate().map(target).collect()
}
