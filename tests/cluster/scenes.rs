//! Scenes whose every container start has a known cause: each in a namespace of its own, step by step.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;

use observer_tests::cluster::{Cluster, HOME, control::IMAGE};

/// In this namespace, containers that started in this time started because of this.
#[derive(Clone, Debug)]
pub struct Truth {
    pub namespace: String,
    pub from: f64,
    pub until: f64,
    /// Any of these is right: what the API does not distinguish is not held against anybody.
    pub causes: Vec<&'static str>,
    /// How many the step made.
    pub starts: usize,
}

pub struct Scene {
    pub name: &'static str,
    pub play: fn(&mut Stage) -> Result<()>,
    /// Why it is played only on request.
    pub on_request: Option<&'static str>,
}

const fn scene(name: &'static str, play: fn(&mut Stage) -> Result<()>) -> Scene {
    Scene { name, play, on_request: None }
}

pub const SCENES: &[Scene] = &[
    scene("deploy", deploy),
    scene("slow-rollout", slow_rollout),
    scene("hpa", hpa),
    scene(KEDA_STAGED, keda),
    scene("bot", bot),
    scene("sts", stateful),
    scene("singles", singles),
    scene("jobs", jobs),
    scene("restarts", restarts),
    scene(STORM, storm),
    Scene { on_request: BUILT, ..scene(ARGO, argo) },
    Scene { on_request: BUILT, ..scene(KEDA, keda_operator) },
];

const BUILT: Option<&str> = Some("its controller takes minutes to build: cargo xtask cluster test --full");

/// Scenes with a controller of others: Argo Rollouts', KEDA's operator.
pub const ARGO: &str = "argo";
pub const KEDA: &str = "keda-operator";
/// What KEDA does, staged: not beside the real one.
pub const KEDA_STAGED: &str = "keda";

/// The scene in which start-ups of one scale-up are OOM-killed.
pub const STORM: &str = "storm";

/// Where a scene is played.
pub fn namespace(scene: &str) -> String {
    format!("scene-{scene}")
}

/// One scene being played.
pub struct Stage<'a> {
    cluster: &'a Cluster,
    namespace: String,
    pub truths: Vec<Truth>,
}

pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

impl<'a> Stage<'a> {
    pub fn new(cluster: &'a Cluster, scene: &Scene) -> Result<Self> {
        let namespace = namespace(scene.name);
        cluster.kubectl(&["create", "namespace", &namespace])?;
        let stage = Self { cluster, namespace, truths: Vec::new() };
        cluster.wait("the service account", Duration::from_secs(30), || {
            Ok(stage.kubectl(&["get", "serviceaccount", "default"]).is_ok())
        })?;
        Ok(stage)
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["-n", &self.namespace], args].concat())
    }

    fn apply(&self, manifest: &str) -> Result<()> {
        let file = std::path::Path::new(HOME).join(format!("{}.yaml", self.namespace));
        fs::write(&file, manifest)?;
        self.kubectl(&["apply", "-f", &file.display().to_string()])
            .map(|_| ())
            .with_context(|| format!("while applying\n{manifest}"))
    }

    /// Does something that starts `starts` containers, waits until they run, and notes why.
    fn step(
        &mut self,
        causes: &[&'static str],
        starts: usize,
        act: impl Fn(&Self) -> Result<()>,
    ) -> Result<()> {
        let before = self.started()?;
        let from = now();
        act(self)?;
        let what = format!("{}: {starts} start(s) because of {}", self.namespace, causes.join(" or "));
        self.cluster
            .wait(&what, Duration::from_secs(150), || {
                let new = self.started()?.into_iter().filter(|id| !before.contains(id)).count();
                Ok(new >= starts && self.quiet()?)
            })
            .with_context(|| self.state())?;
        // The next step's starts must not fall into this one's time.
        std::thread::sleep(Duration::from_millis(500));
        let truth =
            Truth { namespace: self.namespace.clone(), from, until: now(), causes: causes.to_vec(), starts };
        self.truths.push(truth);
        Ok(())
    }

    /// Ids of all containers the statuses report, living and the last dead of each.
    fn started(&self) -> Result<Vec<String>> {
        let path = "jsonpath={range .items[*].status.containerStatuses[*]}{.containerID}{\"\\n\"}{.lastState.terminated.containerID}{\"\\n\"}{end}";
        let text = self.kubectl(&["get", "pods", "-o", path])?;
        Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// For a person who asks why nothing happens.
    fn state(&self) -> String {
        let reported = |args: &[&str]| self.kubectl(args).unwrap_or_else(|error| format!("{error:#}\n"));
        let conditions =
            "jsonpath={range .items[*].status.conditions[*]}{.type}={.status} {.message}{\"\\n\"}{end}";
        [
            reported(&["get", "pods", "-o", "wide"]),
            reported(&["get", "events", "--sort-by=.lastTimestamp"]),
            reported(&["get", "nodes", "-o", conditions]),
        ]
        .concat()
    }

    /// No pod is pending or going.
    fn quiet(&self) -> Result<bool> {
        let path = "jsonpath={range .items[*]}{.status.phase}{.metadata.deletionTimestamp}{\"\\n\"}{end}";
        let text = self.kubectl(&["get", "pods", "-o", path])?;
        Ok(text.lines().all(|line| matches!(line, "Running" | "Succeeded" | "Failed")))
    }

    fn first_pod(&self) -> Result<String> {
        let name = self.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"])?;
        ensure!(!name.is_empty(), "{} has no pod", self.namespace);
        Ok(name)
    }

    fn evict(&self, pod: &str) -> Result<()> {
        let file = std::path::Path::new(HOME).join(format!("{}-evict.json", self.namespace));
        let namespace = &self.namespace;
        fs::write(
            &file,
            format!(
                r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{pod}","namespace":"{namespace}"}}}}"#
            ),
        )?;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
        self.kubectl(&["create", "--raw", &path, "-f", &file.display().to_string()]).map(|_| ())
    }
}

/// A small start-up spike, so that there is something to see.
const SPIKE: &str =
    r#"["/workload","spike","--peak","24","--steady","12","--ramp","0.3","--hold","0.2","--seconds","900"]"#;

fn container(command: &str, more: &str) -> String {
    format!("{{name: main, image: \"{IMAGE}\", imagePullPolicy: Never, command: {command}{more}}}")
}

pub fn scalable(kind: &str, name: &str, replicas: u32, more_spec: &str, container_more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n{more_spec}  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      automountServiceAccountToken: false\n      containers: [{}]\n",
        container(SPIKE, container_more)
    )
}

fn scale(to: u32) -> impl Fn(&Stage) -> Result<()> {
    move |stage| stage.kubectl(&["scale", "deployment/web", &format!("--replicas={to}")]).map(|_| ())
}

/// Through the scale subresource, under somebody's name.
fn scale_as(manager: &'static str, to: u32) -> impl Fn(&Stage) -> Result<()> {
    move |stage| {
        let patch = format!("{{\"spec\":{{\"replicas\":{to}}}}}");
        let manager = format!("--field-manager={manager}");
        stage
            .kubectl(&[
                "patch",
                "deployment/web",
                "--subresource=scale",
                "--type=merge",
                &manager,
                "-p",
                &patch,
            ])
            .map(|_| ())
    }
}

fn new_revision(what: &'static str, value: &'static str) -> impl Fn(&Stage) -> Result<()> {
    move |stage| stage.kubectl(&["set", "env", what, &format!("REVISION={value}")]).map(|_| ())
}

fn deploy(stage: &mut Stage) -> Result<()> {
    stage.step(&["first_deploy"], 3, |stage| stage.apply(&scalable("Deployment", "web", 3, "", "")))?;
    stage.step(&["scale_up_manual"], 5, scale(8))?;
    stage.step(&["reschedule"], 1, |stage| {
        let pod = stage.first_pod()?;
        stage.kubectl(&["delete", "pod", &pod, "--wait=false"]).map(|_| ())
    })?;
    stage.step(&["reschedule"], 1, |stage| stage.evict(&stage.first_pod()?))?;
    stage.step(&["rollout"], 8, new_revision("deployment/web", "2"))?;
    stage.step(&["scale_up_manual"], 2, |stage| {
        // The whole object, as people's tools write it.
        stage.kubectl(&["patch", "deployment/web", "-p", "{\"spec\":{\"replicas\":10}}"]).map(|_| ())
    })?;
    // Back to a ReplicaSet that is older than everything else.
    stage
        .step(&["rollout"], 10, |stage| stage.kubectl(&["rollout", "undo", "deployment/web"]).map(|_| ()))?;
    // Fewer first, so that the last write of the controller is younger than the loss.
    scale(6)(stage)?;
    std::thread::sleep(Duration::from_secs(8));
    stage.step(&["reschedule"], 1, |stage| {
        let pod = stage.first_pod()?;
        stage.kubectl(&["delete", "pod", &pod, "--wait=false"]).map(|_| ())
    })
}

/// One pod after the other, each ready only after seconds: the last come long after the rollout began.
fn slow_rollout(stage: &mut Stage) -> Result<()> {
    let strategy = "  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}\n";
    let probe = ", readinessProbe: {exec: {command: [\"/workload\", \"exit\", \"--after\", \"0\", \"--size\", \"1\"]}, initialDelaySeconds: 3, periodSeconds: 1}";
    stage.step(&["first_deploy"], 4, |stage| {
        stage.apply(&scalable("Deployment", "web", 4, strategy, probe))
    })?;
    stage.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    stage.step(&["rollout"], 4, |stage| {
        new_revision("deployment/web", "2")(stage)?;
        stage.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]).map(|_| ())
    })
}

/// A real HorizontalPodAutoscaler needs no metrics to keep its minimum: it scales, writes and reports as always.
fn hpa(stage: &mut Stage) -> Result<()> {
    stage.step(&["first_deploy"], 1, |stage| stage.apply(&scalable("Deployment", "web", 1, "", "")))?;
    stage.apply(&autoscaler("web", "", DEPLOYMENT))?;
    for (to, starts) in [(4, 3), (8, 4)] {
        stage.step(&["scale_up_hpa"], starts, move |stage| {
            let patch = format!("{{\"spec\":{{\"minReplicas\":{to}}}}}");
            stage.kubectl(&["patch", "hpa/web", "-p", &patch]).map(|_| ())
        })?;
    }
    stage.step(&["reschedule"], 1, |stage| {
        std::thread::sleep(Duration::from_secs(8));
        let pod = stage.first_pod()?;
        stage.kubectl(&["delete", "pod", &pod, "--wait=false"]).map(|_| ())
    })?;
    stage.step(&["rollout"], 8, new_revision("deployment/web", "2"))
}

const DEPLOYMENT: &str = "apps/v1, kind: Deployment";

fn autoscaler(name: &str, owner: &str, target: &str) -> String {
    format!(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata:\n  name: {name}\n{owner}spec:\n  minReplicas: 1\n  maxReplicas: 12\n  scaleTargetRef: {{apiVersion: {target}, name: web}}\n  metrics: [{{type: External, external: {{metric: {{name: queue_depth}}, target: {{type: AverageValue, averageValue: \"5\"}}}}}}]\n"
    )
}

/// What the real operator does (see `keda_operator`), staged without it: a ScaledObject that owns an HPA, and the
/// activation from nothing under its manager's name.
fn keda(stage: &mut Stage) -> Result<()> {
    stage.cluster.wait("the ScaledObject definition", Duration::from_secs(20), || {
        Ok(stage.kubectl(&["get", "scaledobjects.keda.sh"]).is_ok())
    })?;
    stage.step(&["first_deploy"], 1, |stage| stage.apply(&scalable("Deployment", "web", 1, "", "")))?;
    stage.apply(
        "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: web}\nspec: {scaleTargetRef: {name: web}, triggers: [{type: rabbitmq}]}\n",
    )?;
    let uid = stage.kubectl(&["get", "scaledobject/web", "-o", "jsonpath={.metadata.uid}"])?;
    let owner = format!(
        "  ownerReferences: [{{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, name: web, uid: {uid}, controller: true}}]\n"
    );
    stage.apply(&autoscaler("keda-hpa-web", &owner, DEPLOYMENT))?;
    std::thread::sleep(Duration::from_secs(3));
    stage.step(&["scale_up_keda"], 3, |stage| {
        stage.kubectl(&["patch", "hpa/keda-hpa-web", "-p", "{\"spec\":{\"minReplicas\":4}}"]).map(|_| ())
    })?;
    stage.kubectl(&["delete", "hpa/keda-hpa-web"])?;
    scale_as("keda", 0)(stage)?;
    stage.cluster.wait("no pods", Duration::from_secs(60), || {
        Ok(stage.kubectl(&["get", "pods", "-o", "name"])?.is_empty())
    })?;
    stage.step(&["scale_up_keda"], 1, |stage| {
        scale_as("keda", 1)(stage)?;
        // What the operator reports when it has.
        let uid = stage.kubectl(&["get", "scaledobject/web", "-o", "jsonpath={.metadata.uid}"])?;
        stage.apply(&format!(
            "apiVersion: v1\nkind: Event\nmetadata: {{name: web.activated}}\ntype: Normal\nreason: KEDAScaleTargetActivated\naction: Activated\nreportingComponent: keda-operator\n\
             message: \"Scaled apps/v1.Deployment {}/web from 0 to 1, triggered by rabbitMQScaler\"\n\
             involvedObject: {{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, name: web, namespace: {}, uid: {uid}}}\n",
            stage.namespace, stage.namespace
        ))
    })
}

/// The real operator: it makes the HPA, takes the workload to nothing, and wakes it.
fn keda_operator(stage: &mut Stage) -> Result<()> {
    let paused = "autoscaling.keda.sh/paused-replicas";
    stage.step(&["first_deploy"], 1, |stage| stage.apply(&scalable("Deployment", "web", 1, "", "")))?;
    std::thread::sleep(Duration::from_secs(3));
    stage.step(&["scale_up_keda"], 2, |stage| {
        stage.apply(
            "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: web}\nspec:\n  scaleTargetRef: {name: web}\n  minReplicaCount: 3\n  maxReplicaCount: 12\n  \
             pollingInterval: 2\n  cooldownPeriod: 2\n  triggers: [{type: cron, metadata: {timezone: UTC, start: \"0 0 1 1 *\", end: \"59 23 31 12 *\", desiredReplicas: \"1\"}}]\n",
        )
    })?;
    stage.step(&["scale_up_keda"], 2, |stage| {
        stage
            .kubectl(&["patch", "so/web", "--type=merge", "-p", "{\"spec\":{\"minReplicaCount\":5}}"])
            .map(|_| ())
    })?;
    stage.kubectl(&["annotate", "so/web", &format!("{paused}=0")])?;
    stage.cluster.wait("no pods", Duration::from_secs(60), || {
        Ok(stage.kubectl(&["get", "pods", "-o", "name"])?.is_empty())
    })?;
    stage.step(&["scale_up_keda"], 5, |stage| {
        stage.kubectl(&["annotate", "so/web", &format!("{paused}-")]).map(|_| ())
    })
}

/// A real Argo Rollout: a canary of two steps, scaled by a person and by a real HPA, rolled back.
fn argo(stage: &mut Stage) -> Result<()> {
    const WEB: &str = "rollouts.argoproj.io/web";
    let strategy = "  strategy: {canary: {steps: [{setWeight: 50}, {pause: {duration: 3s}}]}}\n";
    let web = scalable("Rollout", "web", 4, strategy, "").replace("apps/v1", "argoproj.io/v1alpha1");
    let patch = |what: &'static str| {
        move |stage: &Stage| stage.kubectl(&["patch", WEB, "--type=json", "-p", what]).map(|_| ())
    };
    let all_new = |stage: &Stage| {
        stage.cluster.wait("the rollout's end", Duration::from_secs(90), || {
            Ok(stage.kubectl(&["get", WEB, "-o", "jsonpath={.status.phase}"])? == "Healthy")
        })
    };
    stage.step(&["first_deploy"], 4, |stage| stage.apply(&web))?;
    all_new(stage)?;
    stage
        .step(&["scale_up_manual"], 2, |stage| stage.kubectl(&["scale", WEB, "--replicas=6"]).map(|_| ()))?;
    stage.step(&["reschedule"], 1, |stage| {
        std::thread::sleep(Duration::from_secs(8));
        let pod = stage.first_pod()?;
        stage.kubectl(&["delete", "pod", &pod, "--wait=false"]).map(|_| ())
    })?;
    stage.step(&["rollout"], 6, |stage| {
        patch(
            r#"[{"op":"add","path":"/spec/template/spec/containers/0/env","value":[{"name":"REVISION","value":"2"}]}]"#,
        )(stage)?;
        std::thread::sleep(Duration::from_secs(2));
        all_new(stage)
    })?;
    stage.apply(&autoscaler("web", "", "argoproj.io/v1alpha1, kind: Rollout"))?;
    stage.step(&["scale_up_hpa"], 3, |stage| {
        stage.kubectl(&["patch", "hpa/web", "-p", "{\"spec\":{\"minReplicas\":9}}"]).map(|_| ())
    })?;
    stage.step(&["rollout"], 9, |stage| {
        patch(r#"[{"op":"remove","path":"/spec/template/spec/containers/0/env"}]"#)(stage)?;
        std::thread::sleep(Duration::from_secs(2));
        all_new(stage)
    })
}

/// Peaks of 10 to 30 MiB below a limit of 22: two start-ups of five are killed, and none of twenty once in 27,000 runs.
fn storm(stage: &mut Stage) -> Result<()> {
    let limit = ", resources: {limits: {memory: 22Mi}}";
    let spread = SPIKE.replace("\"24\"", "\"20\", \"--spread\", \"0.5\"").replace("\"12\"", "\"8\"");
    let web = scalable("Deployment", "web", 1, "", limit).replace(SPIKE, &spread);
    stage.step(&["first_deploy", "restart_after_oom_kill"], 1, |stage| stage.apply(&web))?;
    for to in [11, 21] {
        stage.step(&["scale_up_manual", "restart_after_oom_kill"], 10, scale(to))?;
    }
    Ok(())
}

fn bot(stage: &mut Stage) -> Result<()> {
    stage.step(&["first_deploy"], 1, |stage| stage.apply(&scalable("Deployment", "web", 1, "", "")))?;
    stage.step(&["scale_up_unknown"], 7, scale_as("my-autoscaler", 8))
}

fn stateful(stage: &mut Stage) -> Result<()> {
    let spec = "  serviceName: db\n  podManagementPolicy: Parallel\n";
    stage.step(&["first_deploy"], 2, |stage| stage.apply(&scalable("StatefulSet", "db", 2, spec, "")))?;
    stage.step(&["scale_up_manual"], 2, |stage| {
        stage.kubectl(&["scale", "statefulset/db", "--replicas=4"]).map(|_| ())
    })?;
    stage.step(&["reschedule"], 1, |stage| {
        std::thread::sleep(Duration::from_secs(8));
        stage.kubectl(&["delete", "pod", "db-1", "--wait=false"]).map(|_| ())
    })?;
    stage.step(&["rollout"], 4, |stage| {
        new_revision("statefulset/db", "2")(stage)?;
        stage.kubectl(&["rollout", "status", "statefulset/db", "--timeout=90s"]).map(|_| ())
    })
}

pub fn pod(name: &str, policy: &str, command: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {policy}\n  terminationGracePeriodSeconds: 1\n  automountServiceAccountToken: false\n  containers: [{}]\n---\n",
        container(command, more)
    )
}

fn singles(stage: &mut Stage) -> Result<()> {
    stage.step(&["standalone"], 4, |stage| {
        stage.apply(&(1..=4).map(|n| pod(&format!("alone-{n}"), "Always", SPIKE, "")).collect::<String>())
    })?;
    let daemon = scalable("DaemonSet", "agent", 1, "", "").replace("  replicas: 1\n", "");
    stage.step(&["daemonset"], 1, |stage| stage.apply(&daemon))?;
    stage.step(&["daemonset"], 1, new_revision("daemonset/agent", "2"))?;
    let manifest = std::path::Path::new(HOME).join("manifests/static.yaml");
    let namespace = stage.namespace.clone();
    stage.step(&["static_pod"], 1, |_| {
        let text = pod("static", "Always", SPIKE, "")
            .replace("{name: static}", &format!("{{name: static, namespace: {namespace}}}"));
        fs::write(&manifest, text.trim_end_matches("---\n")).context("cannot write the static pod")
    })?;
    fs::remove_file(&manifest)?;
    Ok(())
}

/// The pods of a Job.
pub fn template(command: &str) -> String {
    let container = container(command, "");
    format!(
        "{{spec: {{restartPolicy: Never, automountServiceAccountToken: false, containers: [{container}]}}}}"
    )
}

fn jobs(stage: &mut Stage) -> Result<()> {
    let short = r#"["/workload","exit","--after","2"]"#;
    stage.step(&["job"], 3, |stage| {
        stage.apply(&format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: import}}\nspec: {{completions: 3, parallelism: 3, template: {}}}\n",
            template(short)
        ))
    })?;
    stage.step(&["cronjob"], 1, |stage| {
        stage.apply(&format!(
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: report}}\nspec: {{schedule: \"* * * * *\", jobTemplate: {{spec: {{template: {}}}}}}}\n",
            template(short)
        ))
    })?;
    stage.kubectl(&["delete", "cronjob/report"]).map(|_| ())
}

/// Each pod starts once, and again and again for its own reason: the first is distinguished by its time.
fn restarts(stage: &mut Stage) -> Result<()> {
    let table: [(&str, &[&'static str], &str, &str); 4] = [
        ("crash", &["restart_after_failure"], r#"["/workload","exit","--code","3","--after","8"]"#, ""),
        ("done", &["restart_after_completion"], r#"["/workload","exit","--after","8"]"#, ""),
        (
            "oom",
            &["restart_after_oom_kill"],
            r#"["/workload","spike","--peak","400","--steady","10","--ramp","12"]"#,
            ", resources: {limits: {memory: 256Mi}}",
        ),
        (
            "probe",
            &["restart_after_kill"],
            SPIKE,
            ", livenessProbe: {exec: {command: [\"/workload\", \"exit\", \"--code\", \"1\", \"--after\", \"0\", \"--size\", \"1\"]}, initialDelaySeconds: 8, periodSeconds: 1, failureThreshold: 1}",
        ),
    ];
    for (name, causes, command, more) in table {
        let of = |stage: &Stage, what: &str| {
            let path = format!("jsonpath={{.status.containerStatuses[0].{what}}}");
            stage.kubectl(&["get", "pod", name, "-o", &path])
        };
        let restarts =
            |stage: &Stage| Ok::<u32, anyhow::Error>(of(stage, "restartCount")?.parse().unwrap_or(0));
        let wait = |stage: &Stage, wanted: u32| {
            let what = format!("restart {wanted} of {name}");
            stage.cluster.wait(&what, Duration::from_secs(120), || Ok(restarts(stage)? >= wanted))
        };
        let from = now();
        stage.apply(&pod(name, "Always", command, more))?;
        // Three starts: the first is the pod's, the others its restarts (the kubelet waits 10 s and 20 s between them).
        // The first started before that one's end and they after it, however late that is seen here.
        wait(stage, 1)?;
        let ended = of(stage, "lastState.terminated.finishedAt")?;
        ensure!(restarts(stage)? == 1, "{name} restarts faster than this machine is read");
        let ended: Timestamp = ended.parse().with_context(|| format!("{name} ended at {ended:?}"))?;
        let restarted = ended.as_second() as f64; // cut off, and seconds after it started
        wait(stage, 2)?;
        std::thread::sleep(Duration::from_millis(700));
        let mut truth = |from, until, causes: &[&'static str], starts| {
            let namespace = stage.namespace.clone();
            stage.truths.push(Truth { namespace, from, until, causes: causes.to_vec(), starts });
        };
        truth(from, restarted, &["standalone"], 1);
        truth(restarted, now(), causes, 2);
        stage.kubectl(&["delete", "pod", name, "--wait=true"])?;
    }
    Ok(())
}
