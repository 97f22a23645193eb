//! End to end: an HPA scales a workload on the depth of a queue, its start-ups spike, some are OOM-killed; the deployed
//! observer reports it, a real Prometheus scrapes it, and every query that is shipped has an answer there. Beside
//! it, what the kubelet's metrics, `kubectl top` and the pods' statuses report of the same minutes.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_tests::{
    cluster::{
        Cluster, HOME,
        control::{GATEWAY, IMAGE},
    },
    group::{Group, Tree},
    prometheus::Prometheus,
    shell,
};

use crate::{Case, Deployed, Suite, case, deployed, links::KILLED, once, queries::queries, scrape};

const NAMESPACE: &str = "e2e";
const QUEUE_PORT: u16 = 18443;
/// Of one replica, and of as many as the HPA may have.
const DEPTH: [u32; 2] = [5, 60];
const REPLICAS: usize = 12;
/// What pods may take beyond what they hold. Eleven new ones hold 264 MiB when all of them have settled, so that with
/// any two spikes on top it is half of this, a stampede, however slowly they come; only if nearly all peak at once is
/// it not enough.
const ROOM: u64 = 700 << 20;
/// Peaks of 40 to 120 MiB below a limit of 88: two start-ups of five are killed, and none in 13 once in a thousand
/// runs.
const COMMAND: &str = r#"["/workload","spike","--peak","80","--spread","0.5","--steady","24","--ramp","1.5","--hold","0.5","--seconds","900"]"#;
/// Shares of a peak above which it counts as seen.
const SEEN: f64 = 0.9;

pub fn cases() -> Vec<Case> {
    let played = |what: fn(&Suite, &Prometheus) -> Result<()>| {
        move |suite: &Suite| what(suite, &once(&suite.scale_up, || play(suite))?.prometheus)
    };
    let name = "e2e::an_hpa_on_a_queue_scales_and_the_observer_reports_the_stampede_and_the_kills";
    vec![
        case(name, Deployed::WithLedger, played(compare)),
        case("e2e::every_query_shipped_has_something_to_show", Deployed::WithLedger, played(queries)),
        case(
            "e2e::advise_reports_the_fleet_and_kubectl_takes_its_patches",
            Deployed::WithLedger,
            played(advise),
        ),
    ]
}

/// The scale-up, once; the queue and Prometheus go on until the tests end.
pub struct Played {
    prometheus: Prometheus,
    _queue: Running,
}

fn play(suite: &Suite) -> Result<Played> {
    let home = Path::new(HOME).join("e2e");
    if home.exists() {
        fs::remove_dir_all(&home)?; // series of a run before would be taken for this one's
    }
    fs::create_dir_all(&home)?;
    let cluster = &suite.cluster;
    let play = || -> Result<Played> {
        let _queue = queue(suite, &home)?;
        let prometheus = prometheus(cluster, &home)?;
        scale_up(cluster, &home, &prometheus)?;
        Ok(Played { prometheus, _queue })
    };
    play().map_err(|error| {
        let said = cluster.kubectl(&["logs", "-n", "observer", "daemonset/observer", "--tail=200"]);
        error.context(format!("the agent said:\n{}", said.unwrap_or_else(|error| format!("{error:#}"))))
    })
}

pub fn remove(cluster: &Cluster) -> Result<()> {
    // The API first: while one does not answer, no namespace can be deleted.
    cluster.kubectl(&["delete", "apiservice", "v1beta1.external.metrics.k8s.io", "--ignore-not-found"])?;
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false"]).map(|_| ())
}

/// A child that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| format!("cannot start `{}`", shell::show(command)))?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // ended already is what is wanted
        let _ = self.0.wait();
    }
}

/// The queue, and the API that reports its depth to the HPA.
fn queue(suite: &Suite, home: &Path) -> Result<Running> {
    let cluster = &suite.cluster;
    set_depth(home, DEPTH[0])?;
    let file = |name: &str| home.join(name).display().to_string();
    let request = format!(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={GATEWAY} -keyout {} -out {}",
        file("queue.key"),
        file("queue.crt")
    );
    shell::output(Command::new("openssl").args(request.split(' ')))?;
    let mut command = Command::new(&suite.queue);
    command.arg("--listen").arg(format!("{GATEWAY}:{QUEUE_PORT}"));
    for option in ["cert", "key"] {
        command.arg(format!("--{option}")).arg(file(&format!("queue.{}", option.replace("cert", "crt"))));
    }
    let queue = Running::start(command.arg("--depth").arg(home.join("depth")), &home.join("queue.log"))?;
    cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: queue, namespace: {NAMESPACE}}}\nspec: {{type: ExternalName, externalName: {GATEWAY}, ports: [{{port: {QUEUE_PORT}}}]}}\n---\n\
         apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {{name: v1beta1.external.metrics.k8s.io}}\nspec:\n  group: external.metrics.k8s.io\n  version: v1beta1\n  \
         groupPriorityMinimum: 100\n  versionPriority: 100\n  insecureSkipTLSVerify: true\n  service: {{name: queue, namespace: {NAMESPACE}, port: {QUEUE_PORT}}}\n"
    ))?;
    let metric = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{NAMESPACE}/queue_depth");
    cluster.wait("the external metric", Duration::from_secs(60), || {
        Ok(cluster.kubectl(&["get", "--raw", &metric])?.contains("queue_depth"))
    })?;
    Ok(queue)
}

fn set_depth(home: &Path, depth: u32) -> Result<()> {
    fs::write(home.join("depth"), depth.to_string()).context("cannot set the queue's depth")
}

/// Scrapes as deploy/prometheus/scrape.yaml says, with the rules shipped; and the kubelet as others do.
fn prometheus(cluster: &Cluster, home: &Path) -> Result<Prometheus> {
    shell::apt(&["prometheus"])?;
    let scrape = scrape::job(cluster, home, "scrape.yaml")?;
    let kubelet = |name: &str, path: &str, interval: u32| {
        format!(
            "- job_name: {name}\n  scheme: https\n  metrics_path: {path}\n  scrape_interval: {interval}s\n  honor_labels: true\n  tls_config: {{insecure_skip_verify: true}}\n  static_configs: [{{targets: ['{GATEWAY}:10250']}}]\n"
        )
    };
    let prometheus = Prometheus::start(
        home,
        &format!(
            "global: {{scrape_interval: 5s, evaluation_interval: 5s}}\nrule_files: ['{}']\nscrape_configs:\n{scrape}{}{}",
            shell::root().join("deploy/prometheus/rules.yaml").display(),
            // As often as is usual: kube-prometheus asks every 30 s, metrics-server, which kubectl top reads, every 15
            // s.
            kubelet("cadvisor", "/metrics/cadvisor", 30),
            kubelet("top", "/metrics/resource", 15),
        ),
    )?;
    // Of the agent, not only of the ledger: what is asked next must not be 0 because nobody has reported it yet.
    cluster.wait("Prometheus's first scrape of the agent", Duration::from_secs(60), || {
        Ok(!prometheus.ask("observer_node_containers_starting")?.is_empty())
    })?;
    Ok(prometheus)
}

/// A node with little room for pods, as `systemReserved` makes one: the kubelet gives their common group such a limit.
pub struct SmallNode {
    pods: Group,
    before: u64,
}

impl SmallNode {
    pub fn with_room(bytes: u64) -> Result<Self> {
        let pods = Tree::find()?.group("kubepods")?; // the kubelet's, so it stays
        let small = Self { before: pods.limit_now()?, pods };
        small.pods.limit(small.pods.usage()? + bytes)?;
        Ok(small)
    }
}

impl Drop for SmallNode {
    fn drop(&mut self) {
        if let Err(error) = self.pods.limit(self.before) {
            eprintln!("the limit of all pods stays: {error:#}");
        }
    }
}

fn scale_up(cluster: &Cluster, home: &Path, prometheus: &Prometheus) -> Result<()> {
    // In so little room those before would be a stampede of their own, begun before anybody looks.
    cluster.wait("the end of the start-ups before", Duration::from_secs(90), || {
        Ok(prometheus.number("sum(observer_node_containers_starting)")? == 0.0)
    })?;
    let _small = SmallNode::with_room(ROOM)?;
    let deployment = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: {NAMESPACE}}}\nspec:\n  replicas: 1\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    \
         spec:\n      terminationGracePeriodSeconds: 0\n      automountServiceAccountToken: false\n      containers:\n        - name: main\n          image: {IMAGE}\n          imagePullPolicy: Never\n          command: {COMMAND}\n          \
         resources: {{requests: {{memory: 64Mi}}, limits: {{memory: 88Mi}}}}\n"
    );
    let per_replica = DEPTH[1] / REPLICAS as u32;
    cluster.apply(&deployment)?;
    cluster.apply(&format!(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: web, namespace: {NAMESPACE}}}\nspec:\n  minReplicas: 1\n  maxReplicas: {REPLICAS}\n  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}\n  \
         behavior: {{scaleUp: {{policies: [{{type: Pods, value: {REPLICAS}, periodSeconds: 15}}]}}}}\n  metrics: [{{type: External, external: {{metric: {{name: queue_depth}}, target: {{type: AverageValue, averageValue: \"{per_replica}\"}}}}}}]\n"
    ))?;
    let of = format!("namespace=\"{NAMESPACE}\", workload=\"web\"");
    // It may be killed too. Once it is remembered, the others can be foreseen.
    cluster.wait("the first start-up", Duration::from_secs(90), || {
        Ok(prometheus.number(&format!("sum(observer_workload_history_startups{{{of}}})"))? >= 1.0)
    })?;
    let stampedes = "sum(observer_node_stampedes_total)".to_owned();
    let before = prometheus.number(&stampedes)?;
    set_depth(home, DEPTH[1])?;
    let began = Instant::now();
    cluster.wait("twelve replicas", Duration::from_secs(60), || {
        let replicas = ["get", "deployment/web", "-n", NAMESPACE, "-o", "jsonpath={.status.replicas}"];
        Ok(cluster.kubectl(&replicas)? == REPLICAS.to_string())
    })?;
    eprintln!("   scaled by the HPA after {:.1} s", began.elapsed().as_secs_f64());
    let at_least = |what: &str, query: String, least: f64| {
        cluster.wait(what, Duration::from_secs(90), || Ok(prometheus.number(&query)? >= least))
    };
    let starts = format!("sum(observer_workload_starts_total{{{of}, cause=\"scale_up_hpa\"}})");
    at_least("eleven starts because of the HPA", starts, 11.0)?;
    at_least("the stampede", stampedes, before + 1.0)?;
    at_least("the scale event", format!("sum(observer_scale_events_total{{{of}, by=\"hpa\"}})"), 1.0)?;
    let victims = format!("sum(observer_scale_event_oom_kills_total{{{of}, by=\"hpa\", role=\"victim\"}})");
    at_least("OOM kills tied to the scale event", victims, 1.0)?;
    at_least("times to stable", format!("count(observer_container_time_to_stable_seconds{{{of}}})"), 4.0)?;
    at_least("peaks", format!("count(observer_container_startup_peak_bytes{{{of}}})"), REPLICAS as f64)?;
    // Until each has settled or waits for its next try, and the kubelet's metrics were scraped twice.
    sleep(Duration::from_secs(60));
    Ok(())
}

/// The same minutes, as reported by all.
fn compare(suite: &Suite, prometheus: &Prometheus) -> Result<()> {
    let cluster = &suite.cluster;
    let of = format!("namespace=\"{NAMESPACE}\", workload=\"web\"");
    let kills = || prometheus.number(&format!("sum(observer_workload_oom_kills_total{{{of}}})"));
    let tied =
        prometheus.number(&format!("sum(observer_scale_event_oom_kills_total{{{of}, role=\"victim\"}})"))?;
    let cadvisor =
        prometheus.number(&format!("sum(container_oom_events_total{{namespace=\"{NAMESPACE}\"}})"))?;
    let path = "jsonpath={range .items[*].status.containerStatuses[*]}{.restartCount} {.lastState.terminated.exitCode} {.lastState.terminated.reason}{\"\\n\"}{end}";
    let statuses = cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-o", path])?;
    let restarts: u32 = statuses.lines().filter_map(restarts_after_a_kill).sum();
    let last = statuses.lines().filter(|line| line.ends_with("OOMKilled")).count();
    let events = cluster.kubectl(&[
        "get",
        "events",
        "-A",
        "-o",
        "jsonpath={range .items[*]}{.reason}{\"\\n\"}{end}",
    ])?;
    let events = events.lines().filter(|reason| reason.contains("OOM")).count();
    // Prometheus is a scrape behind.
    let what =
        format!("as many OOM kills reported as there are restarts after one by the statuses, {restarts}");
    cluster.wait(&what, Duration::from_secs(20), || Ok(kills()? >= f64::from(restarts).max(1.0)))?;
    let kills = kills()?;

    // A pod's highest, by each: the kernel's watermark is the truth.
    let peaks = format!("max by (pod) (max_over_time(observer_container_startup_peak_bytes{{{of}}}[15m]))");
    let truth = prometheus.ask(&peaks)?.len();
    let seen = |job: &str| {
        let series = format!(
            "container_memory_working_set_bytes{{job=\"{job}\", namespace=\"{NAMESPACE}\", container=\"main\"}}"
        );
        prometheus.number(&format!("count(max by (pod) (max_over_time({series}[15m])) >= {SEEN} * {peaks})"))
    };
    let (cadvisor_spikes, top_spikes) = (seen("cadvisor")?, seen("top")?);
    let scraped = format!(
        "count(count by (pod) (container_memory_working_set_bytes{{namespace=\"{NAMESPACE}\", container=\"main\"}}))"
    );
    ensure!(
        prometheus.number(&scraped)? > 0.0,
        "the kubelet's metrics have nothing of these pods: nothing is compared"
    );
    eprintln!(
        "\nof {truth} pods, {kills} OOM kills                    observer   kubelet, 30 s   kubectl top   statuses   events\n\
         pods whose peak was seen to {:.0} %                  {truth:8}   {cadvisor_spikes:13}   {top_spikes:11}          -        -\n\
         OOM kills                                    {kills:8}   {cadvisor:13}             -   {last:8}   {events:6}\n\
         OOM kills tied to the scale-up               {tied:8}               -             -          -        -\n",
        SEEN * 100.0
    );
    Ok(())
}

/// Of a status: how often, how the last one ended. The runtime may have failed to start it: that was no kill.
fn restarts_after_a_kill(status: &str) -> Option<u32> {
    let mut words = status.split(' ');
    let restarts: u32 = words.next()?.parse().ok()?;
    let code: Option<i64> = words.next().and_then(|code| code.parse().ok());
    let failed_to_start = code.is_some_and(|code| code != KILLED);
    Some(restarts.saturating_sub(failed_to_start.into()))
}

/// What the fleet is advised, and whether the API server would take it.
fn advise(suite: &Suite, prometheus: &Prometheus) -> Result<()> {
    let cluster = &suite.cluster;
    let advise = |more: &[&str]| {
        let mut command = Command::new(&suite.observer);
        shell::output(command.arg("advise").args(more).stderr(Stdio::null()))
    };
    let fleet = ["--prometheus", &prometheus.url];
    let table = advise(&fleet)?;
    eprintln!("\n{table}");
    ensure!(table.contains("limit_covers_peak"), "the limit is not reported:\n{table}");
    let agent = deployed::agent(cluster)?;
    eprintln!("{}", advise(&["--node", &agent, "--namespace", NAMESPACE, "--explain", "deploy/web"])?);
    let mut patches = 0;
    for line in advise(&[&fleet[..], &["--output", "patch"]].concat())?
        .lines()
        .filter(|line| line.starts_with("kubectl "))
    {
        eprintln!("{line}");
        let mut sh = Command::new("sh");
        // The shell splits it as it will for whoever pastes it.
        sh.arg("-c")
            .arg(format!("{} --dry-run=server", line.replacen("kubectl", "\"$0\" --kubeconfig \"$1\"", 1)));
        shell::output(sh.arg(cluster.kubectl_command().get_program()).arg(cluster.kubeconfig()))?;
        patches += 1;
    }
    ensure!(patches > 0, "no patch was printed");
    Ok(())
}
