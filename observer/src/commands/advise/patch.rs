//! Commands and manifest lines that set the advised numbers, the same as in the table. Printed, never run.
//!
//! Names come from the server that answered and are not trusted: a name that is not valid in Kubernetes is refused, any
//! other is quoted for the shell.

use serde_json::{Map, Value, json};

use crate::commands::advise::{WorkloadAdvice, table::quantity};
use observer_core::model::{advice::AdvisedLimit, kubernetes::Role, printable::printable};

pub fn commands(advised: &[WorkloadAdvice]) -> String {
    let head = "# Read before you run: each line changes a workload, and a changed template is rolled out.\n";
    head.to_owned() + &advised.iter().map(command).collect::<Vec<_>>().join("")
}

/// What to set.
struct Sizes {
    request: Option<u64>,
    limit: Option<u64>,
}

fn command(advised: &WorkloadAdvice) -> String {
    let name = advised.facts.workload.to_string();
    let name = printable(&name);
    let (numbers, current) = (&advised.advice.numbers, &advised.facts.current);
    let sizes = Sizes { request: numbers.request, limit: numbers.limit.map(AdvisedLimit::bytes) };
    let skip = |why: &str| format!("# {name}: {}\n", printable(why));
    if sizes.request.is_none() && sizes.limit.is_none() {
        return skip(numbers.missing.as_deref().unwrap_or("too little is known"));
    }
    let as_set = |now: Option<Option<u64>>, then: Option<u64>| then.is_none() || now == Some(then);
    if as_set(current.request, sizes.request) && as_set(current.limit, sizes.limit) {
        return skip("is set as advised");
    }
    let change = |what: &str, now: Option<Option<u64>>, then: Option<u64>| {
        let then = quantity(then?);
        Some(match now {
            Some(now) => format!("{what} {} -> {then}", now.map_or("none".to_owned(), quantity)),
            None => format!("{what} {then}"),
        })
    };
    let changes =
        [change("request", current.request, sizes.request), change("limit", current.limit, sizes.limit)];
    let changes: Vec<String> = changes.into_iter().flatten().collect();
    let startups = &advised.facts.startups;
    let mut text = format!("# {name}: {}, from {} start-ups\n", changes.join(", "), startups.count);
    if let Some(missing) = &numbers.missing {
        text += &format!("# {}\n", printable(missing));
    }
    let trial = matches!(numbers.limit, Some(AdvisedLimit::Trial(_)));
    if trial {
        text += "# every start-up was cut off by its limit: this one is to be tried, then ask again after the next start-up:\n";
    }
    for line in how(advised, &sizes).lines() {
        // A trial is a comment, so that running the whole output does not apply it.
        text += if trial && !line.starts_with('#') { "# " } else { "" };
        text += line;
        text.push('\n');
    }
    text
}

/// A command, or what to write where.
fn how(advised: &WorkloadAdvice, sizes: &Sizes) -> String {
    let of = &advised.facts.workload;
    let edit = |place: &str| format!("# {place}\n{}", lines(&printable(&of.container), sizes));
    // Where a pod's template has the container: a merge into the other list would add one without an image.
    let list = match advised.facts.current.role {
        Some(Role::Init | Role::Sidecar) => "initContainers",
        Some(Role::Ephemeral) => return "# an ephemeral container can be given no resources\n".to_owned(),
        Some(Role::Main) | None => "containers",
    };
    let template = || {
        let resources = resources(sizes);
        json!({"spec": {list: [{"name": of.container, "resources": resources}]}})
    };
    match of.workload_type.as_str() {
        "deployment" | "statefulset" | "daemonset" | "replicaset" => {
            kubectl(advised, json!({"spec": {"template": template()}}))
        }
        "cronjob" => kubectl(advised, json!({"spec": {"jobTemplate": {"spec": {"template": template()}}}})),
        "job" => edit("the template of a Job cannot be changed; where the Job is made:"),
        "rollout" => edit("kubectl cannot merge a Rollout's containers; where the Rollout is made:"),
        "staticpod" => edit("in the file on the node:"),
        "pod" => edit("no workload owns the pod; where it is made:"),
        "systemd_unit" => unit(&of.workload, sizes),
        "container" => limit_note(sizes, |limit| {
            format!(
                "where the container is made, such as docker run --memory={limit}; now: docker update --memory={limit} NAME"
            )
        }),
        _ if !of.namespace.is_empty() => edit("where it is made:"),
        _ => limit_note(sizes, |limit| {
            format!(
                "write {limit} to memory.max of its cgroup (v1: memory.limit_in_bytes), or set it where the cgroup is made"
            )
        }),
    }
}

fn limit_note(sizes: &Sizes, note: impl Fn(u64) -> String) -> String {
    sizes.limit.map_or(String::new(), |limit| format!("# {}\n", note(limit)))
}

fn resources(sizes: &Sizes) -> Value {
    let one = |bytes: Option<u64>| bytes.map(|bytes| json!({"memory": quantity(bytes)}));
    let both = [("requests", one(sizes.request)), ("limits", one(sizes.limit))];
    let set = both.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(set.collect::<Map<_, _>>())
}

/// To be put into a manifest.
fn lines(container: &str, sizes: &Sizes) -> String {
    let mut text = format!("#   - name: {container}\n#     resources:\n");
    for (what, bytes) in [("requests", sizes.request), ("limits", sizes.limit)] {
        if let Some(bytes) = bytes {
            text += &format!("#       {what}:\n#         memory: {}\n", quantity(bytes));
        }
    }
    text
}

fn kubectl(advised: &WorkloadAdvice, patch: Value) -> String {
    let of = &advised.facts.workload;
    let names = [&of.namespace, &of.workload, &of.container];
    if let Some(name) = names.into_iter().find(|name| !is_kubernetes_name(name)) {
        return format!("# refused: {:?} is no name of Kubernetes (DNS-1123)\n", printable(name));
    }
    let patch = patch.to_string();
    let words = [
        "kubectl",
        "--namespace",
        &of.namespace,
        "patch",
        &of.workload_type,
        &of.workload,
        "--type",
        "strategic",
        "--patch",
        &patch,
    ];
    quoted(&words)
}

/// As systemd counts: `M` is 1024 times 1024.
fn unit(name: &str, sizes: &Sizes) -> String {
    let size = |bytes: u64| quantity(bytes).trim_end_matches('i').to_owned();
    let (manager, unit) = name.rsplit_once('/').unwrap_or(("", name));
    let kinds = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];
    let is_unit = !unit.contains("@.") // a template
        && kinds.iter().any(|kind| unit.ends_with(kind))
        && unit.chars().all(|one| one.is_ascii_alphanumeric() || ":-_.\\@".contains(one));
    if !is_unit {
        return limit_note(sizes, |limit| {
            format!("it is no single unit: MemoryMax={} in the file of each", size(limit))
        });
    }
    let low = sizes.request.map_or(String::new(), |bytes| format!(" MemoryLow={}", size(bytes)));
    let max = sizes.limit.map_or(String::new(), |bytes| format!(" MemoryMax={}", size(bytes)));
    let command =
        quoted(&["systemctl", "set-property", "--", unit]).trim_end().to_owned() + &low + &max + "\n";
    match manager {
        "" => command,
        manager => format!("# of the systemd in {}, so run there: {command}", printable(manager)),
    }
}

fn quoted(words: &[&str]) -> String {
    match words.iter().map(|word| shlex::try_quote(word)).collect::<Result<Vec<_>, _>>() {
        Ok(words) => words.join(" ") + "\n",
        Err(_) => "# refused: a name with a NUL byte\n".into(),
    }
}

/// A DNS-1123 subdomain, as the API server demands of names.
fn is_kubernetes_name(name: &str) -> bool {
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use observer_core::{
        advice::Settings,
        model::{
            advice::{Advice, Facts, Startups, Steady},
            container::Workload,
        },
    };

    use super::*;

    const MIB: u64 = 1 << 20;

    fn advised(kind: &str, namespace: &str, workload: &str, container: &str) -> WorkloadAdvice {
        let startups = Startups {
            count: 5,
            whole: 5,
            stable: 5,
            need: Some([90 * MIB; 3]),
            steady: Some([40 * MIB; 3]),
            ..Startups::default()
        };
        let workload = Workload {
            namespace: namespace.into(),
            workload: workload.into(),
            workload_type: kind.into(),
            container: container.into(),
        };
        let facts = Facts { workload, steady: Steady::of(None, &startups), startups, ..Facts::default() };
        with(facts)
    }

    fn with(facts: Facts) -> WorkloadAdvice {
        let advice = Advice::of(&facts, &Settings::default());
        WorkloadAdvice { facts, advice }
    }

    #[test]
    fn each_kind_gets_what_can_be_done_with_it() {
        for (kind, namespace, workload, expected) in [
            (
                "deployment",
                "shop",
                "web",
                "\nkubectl --namespace shop patch deployment web --type strategic --patch '{",
            ),
            ("cronjob", "shop", "web", "jobTemplate"),
            ("job", "shop", "web", "#         memory: 100Mi\n"),
            ("rollout", "shop", "web", "#         memory: 100Mi\n"),
            ("somethingelse", "shop", "web", "#         memory: 100Mi\n"),
            (
                "systemd_unit",
                "",
                "a.service",
                "\nsystemctl set-property -- a.service MemoryLow=40M MemoryMax=100M\n",
            ),
            (
                "systemd_unit",
                "",
                "user@7.service/a.scope",
                "# of the systemd in user@7.service, so run there: systemctl",
            ),
            ("systemd_unit", "", "getty@.service", "# it is no single unit: MemoryMax=100M"),
            ("systemd_unit", "", "session-*.scope", "# it is no single unit: MemoryMax=100M"),
            ("systemd_unit", "", "dev-disk-by\\x2duuid.swap", " \"dev-disk-by\\\\x2duuid.swap\" "),
            ("cgroup", "", "/jobs/a", "# write 104857600 to memory.max"),
            ("container", "", "web", "--memory=104857600"),
        ] {
            let text = commands(&[advised(kind, namespace, workload, "app")]);
            assert!(text.contains(expected), "{kind} {workload}: {text}");
        }
    }

    #[test]
    fn a_container_is_patched_where_the_template_has_it() {
        for (role, expected) in [
            (None, r#"{"spec":{"template":{"spec":{"containers":[{"name":"app""#),
            (Some(Role::Sidecar), r#"{"spec":{"template":{"spec":{"initContainers":[{"name":"app""#),
            (Some(Role::Init), r#"{"spec":{"template":{"spec":{"initContainers":[{"name":"app""#),
            (Some(Role::Ephemeral), "# an ephemeral container"),
        ] {
            let mut facts = advised("deployment", "shop", "web", "app").facts;
            facts.current.role = role;
            let text = commands(&[with(facts)]);
            assert!(text.contains(expected), "{role:?}: {text}");
        }
    }

    #[test]
    fn what_is_tried_and_what_is_missing_is_said_as_in_the_table() {
        let mut cut = advised("cgroup", "", "/loop", "").facts;
        cut.startups = Startups { count: 4, oom_killed: 4, cut: Some(48 * MIB), ..Startups::default() };
        cut.steady = None;
        cut.current.limit = Some(Some(48 * MIB));
        let text = commands(&[with(cut.clone())]);
        assert!(text.contains("limit 48Mi -> 96Mi") && text.contains("every start-up was cut off"), "{text}");
        cut.workload.workload_type = "systemd_unit".into();
        cut.workload.workload = "a.service".into();
        let text = commands(&[with(cut.clone())]);
        assert!(text.contains("\n# systemctl set-property -- a.service MemoryMax=96M\n"), "{text}");
        cut.startups = Startups { count: 4, failed: 4, ..Startups::default() };
        let text = commands(&[with(cut)]);
        assert!(text.lines().count() == 2 && text.contains("4 of 4 start-ups failed"), "{text}");
    }

    proptest::proptest! {
        /// Whatever a name holds, it is in a comment or one word of the command; no line is of its making.
        #[test]
        fn no_name_is_more_than_a_word(
            kind in proptest::sample::select(vec!["deployment", "cronjob", "job", "rollout", "pod", "systemd_unit", "cgroup", "$(id)"]),
            name in "[a-z'\"`$();|&<>\\\\\n\r\t {}*!~#\u{1b}\u{2028}\u{202e}-]{0,12}(\\.service)?",
            namespace in "[a-z';\n ]{0,6}",
            container in "[a-z'$()\n ]{0,6}",
        ) {
            let text = commands(&[advised(kind, &namespace, &name, &container)]);
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let words = shlex::split(line).unwrap_or_default();
                let unit = name.rsplit('/').next().unwrap_or_default();
                match words.first().map(String::as_str) {
                    Some("kubectl") => {
                        proptest::prop_assert_eq!((words.len(), &words[2], &words[5]), (10, &namespace, &name));
                        proptest::prop_assert!(serde_json::from_str::<Value>(&words[9]).is_ok());
                    }
                    Some("systemctl") => proptest::prop_assert_eq!((words.len(), words[3].as_str()), (6, unit)),
                    _ => proptest::prop_assert!(false, "{:?}", line),
                }
            }
            let hostile = text.chars().any(|one| one.is_control() && one != '\n' || one == '\u{202e}');
            proptest::prop_assert!(!hostile);
        }
    }
}
