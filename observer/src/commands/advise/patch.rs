//! kubectl commands that set what is advised. Printed, never run.

use serde_json::{Value, json};

use crate::commands::advise::{Told, table::quantity};
use observer_core::advice::sizing::AdvisedLimit;

pub fn commands(told: &[Told]) -> String {
    let head = "# Read before you run: each line changes a workload, and a changed template is rolled out.\n";
    head.to_owned() + &told.iter().map(command).collect::<Vec<_>>().join("")
}

fn command(told: &Told) -> String {
    let of = &told.facts.workload;
    let numbers = &told.advice.numbers;
    let skip = |why: &str| format!("# {of}: {why}\n");
    let (Some(request), Some(limit)) = (numbers.request, numbers.limit) else {
        return skip(numbers.missing.as_deref().unwrap_or("too little is known"));
    };
    let limit = match limit {
        AdvisedLimit::Firm(bytes) => bytes,
        AdvisedLimit::Trial(_) => {
            return skip("every start-up was cut off; raise the limit by hand and ask again");
        }
    };
    let (now_request, now_limit) = (told.facts.current.request.flatten(), told.facts.current.limit.flatten());
    if (now_request, now_limit) == (Some(request), Some(limit)) {
        return skip("is set as advised");
    }
    let resources = json!({"requests": {"memory": quantity(request)}, "limits": {"memory": quantity(limit)}});
    let template = json!({"spec": {"containers": [{"name": of.container, "resources": resources}]}});
    let patch: Value = match of.workload_type.as_str() {
        "deployment" | "statefulset" | "daemonset" | "replicaset" => json!({"spec": {"template": template}}),
        "cronjob" => json!({"spec": {"jobTemplate": {"spec": {"template": template}}}}),
        "job" => return skip("the template of a Job cannot be changed; set it where the Job is made"),
        "rollout" => {
            return skip("kubectl cannot merge a Rollout's containers; set it where the Rollout is made");
        }
        "staticpod" => return skip("set it in the file on the node"),
        "pod" => return skip("nobody owns the pod; set it where it is made"),
        _ => return skip("not a workload of Kubernetes; set it where it is configured"),
    };
    let set = |bytes: Option<u64>| bytes.map_or("none".to_owned(), quantity);
    format!(
        "# {of}: request {} -> {}, limit {} -> {}, from {} start-ups\nkubectl --namespace {} patch {} {} --type strategic --patch '{patch}'\n",
        set(now_request),
        quantity(request),
        set(now_limit),
        quantity(limit),
        told.facts.startups.count,
        of.namespace,
        of.workload_type,
        of.workload,
    )
}
