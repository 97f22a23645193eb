//! Starting and stopping the cluster's processes. Each is found again by its pid file; what a hard stop leaves behind
//! (shims, mounts, groups) is removed by name, and only what lies under the cluster's own home.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{
    API, Cluster, HOME, NODE,
    binaries::{self, Controller, KEDA, ROLLOUTS},
};
use crate::{oci, shell};

/// The pause container and every workload of the tests: one static program.
pub const IMAGE: &str = "observer.test/workload:1";
const BRIDGE: &str = "observer0";
pub const GATEWAY: &str = "10.244.0.1";
/// What the cluster writes in its life, and what its kubelet wants left.
const ROOM: u64 = 1 << 30;
const TOKEN: &str = "observer-test-admin";

/// Starts the cluster unless it runs; `workload` is the program of its pods, statically linked.
pub fn up(workload: &Path) -> Result<Cluster> {
    if let Some(cluster) = Cluster::running() {
        return Ok(cluster);
    }
    down()?; // what an interrupted run left
    shell::apt(&["etcd-server", "containerd", "runc", "containernetworking-plugins", "iproute2", "openssl"])?;
    let cluster = Cluster { home: HOME.into(), binaries: binaries::build()? };
    eprintln!("starting the cluster");
    let began = Instant::now();
    fs::create_dir_all(cluster.home.join("pids")).context("cannot make the cluster's home: run as root")?;
    fs::create_dir_all(cluster.home.join("manifests"))?;
    has_room()?;
    bridge()?;
    configure(&cluster)?;
    oci::write(
        &cluster.home.join("workload.tar"),
        IMAGE,
        oci::HOST,
        &[("workload", workload.to_owned())],
        &["/workload", "pause"],
    )?;
    start_all(&cluster)?;
    eprintln!("   node ready after {} s", began.elapsed().as_secs());
    Ok(cluster)
}

fn start_all(cluster: &Cluster) -> Result<()> {
    let home = cluster.home.display();
    let binary = |name: &str| cluster.binaries.join(name);
    let own = |args: &str| -> Vec<String> { args.split_whitespace().map(str::to_owned).collect() };
    start(
        "etcd",
        "etcd".as_ref(),
        &own(&format!(
            "--data-dir {home}/etcd --listen-client-urls http://127.0.0.1:22379 --advertise-client-urls http://127.0.0.1:22379 \
         --listen-peer-urls http://127.0.0.1:22380 --initial-advertise-peer-urls http://127.0.0.1:22380 \
         --initial-cluster default=http://127.0.0.1:22380 --unsafe-no-fsync"
        )),
    )?;
    start_api(cluster)?;
    let config = format!("{home}/admin.kubeconfig");
    start(
        "kube-controller-manager",
        &binary("kube-controller-manager"),
        &own(&format!(
            "--kubeconfig={config} --service-account-private-key-file={home}/sa.key --root-ca-file={home}/api/apiserver.crt \
         --use-service-account-credentials=true --leader-elect=false --horizontal-pod-autoscaler-sync-period=2s \
         --horizontal-pod-autoscaler-downscale-stabilization=5s --cert-dir={home}/kcm --bind-address=127.0.0.1"
        )),
    )?;
    start(
        "kube-scheduler",
        &binary("kube-scheduler"),
        &own(&format!(
            "--kubeconfig={config} --leader-elect=false --cert-dir={home}/scheduler --bind-address=127.0.0.1"
        )),
    )?;
    start("containerd", "containerd".as_ref(), &own(&format!("--config {home}/containerd.toml")))?;
    let socket = cluster.home.join("containerd/containerd.sock");
    cluster.wait("containerd", Duration::from_secs(30), || Ok(socket.exists()))?;
    import(&cluster.home.join("workload.tar"))?;
    start_kubelet(cluster)?;
    cluster.wait("the node", Duration::from_secs(90), || {
        let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        Ok(cluster.kubectl(&["get", "node", NODE, "-o", ready])? == "True")
    })?;
    cluster.wait("the default service account", Duration::from_secs(30), || {
        Ok(cluster.kubectl(&["get", "serviceaccount", "default"]).is_ok())
    })
}

fn start_kubelet(cluster: &Cluster) -> Result<()> {
    let home = cluster.home.display();
    let args = format!(
        "--config={home}/kubelet.yaml --kubeconfig={} --hostname-override={NODE} --node-ip={GATEWAY} \
         --root-dir={home}/kubelet --cert-dir={home}/kubelet-pki",
        cluster.kubeconfig().display()
    );
    let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
    start("kubelet", &cluster.binaries.join("kubelet"), &args)
}

/// SIGKILL for the kubelet, and a new one a while later; pods go on.
pub fn kill_kubelet(cluster: &Cluster, away: Duration) -> Result<()> {
    kill_process(pid_of("kubelet").context("no kubelet runs")?, Signal::KILL)?;
    sleep(away);
    start_kubelet(cluster)
}

/// Starts the API server and waits until it answers.
pub fn start_api(cluster: &Cluster) -> Result<()> {
    let home = cluster.home.display();
    let args = format!(
        "--etcd-servers=http://127.0.0.1:22379 --bind-address={API} --advertise-address={API} --secure-port=443 \
         --cert-dir={home}/api --token-auth-file={home}/tokens.csv --authorization-mode=Node,RBAC \
         --service-account-key-file={home}/sa.pub --service-account-signing-key-file={home}/sa.key \
         --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=10.96.0.0/24 \
         --kubelet-preferred-address-types=InternalIP --audit-policy-file={home}/audit.yaml --audit-log-path={home}/audit.log \
         --audit-log-maxsize=100"
    );
    let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
    start("kube-apiserver", &cluster.binaries.join("kube-apiserver"), &args)?;
    cluster.wait("the API server", Duration::from_secs(90), || {
        Ok(cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok())
    })
}

/// A node on a full disk takes no pods, and says so only in its conditions.
fn has_room() -> Result<()> {
    let disk = rustix::fs::statvfs(HOME).with_context(|| format!("cannot look at the disk of {HOME}"))?;
    let free = disk.f_bavail * disk.f_frsize;
    ensure!(
        free >= ROOM,
        "only {} MiB are free on the disk of {HOME}, and its kubelet takes no pods on a full disk: make {} MiB free",
        free >> 20,
        ROOM >> 20
    );
    Ok(())
}

/// Installs a controller that is not Kubernetes' own: its definitions, and itself as a plain process.
pub fn install(
    cluster: &Cluster,
    controller: &Controller,
    args: &[&str],
    env: &[(&str, &str)],
) -> Result<()> {
    if pid_of(controller.name).is_some_and(|pid| test_kill_process(pid).is_ok()) {
        return Ok(());
    }
    let (binary, definitions) = controller.build()?;
    let definitions = fs::read_dir(&definitions)
        .with_context(|| format!("cannot list {}", definitions.display()))?
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .filter(|path| path.ends_with(".yaml") && !path.ends_with("kustomization.yaml"));
    for definition in definitions {
        cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &definition])?;
    }
    let config = format!("--kubeconfig={}", cluster.kubeconfig().display());
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).chain([config]).collect();
    start_with(controller.name, &binary, &args, env)
}

/// Stops only the API server; pods go on.
pub fn stop_api() {
    stop("kube-apiserver", Duration::from_secs(10));
}

/// Makes an image known to the node's runtime.
pub fn import(tar: &Path) -> Result<()> {
    let socket = Path::new(HOME).join("containerd/containerd.sock");
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(socket).args(["-n", "k8s.io", "images", "import"]).arg(tar);
    shell::output(&mut ctr).map(|_| ())
}

fn start(name: &str, program: &Path, args: &[String]) -> Result<()> {
    start_with(name, program, args, &[])
}

fn start_with(name: &str, program: &Path, args: &[String], env: &[(&str, &str)]) -> Result<()> {
    let home = Path::new(HOME);
    let log = fs::File::create(home.join(format!("{name}.log")))?;
    let mut command = Command::new(program);
    command.args(args).envs(env.iter().copied()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.process_group(0); // Ctrl-C is for this task, which stops them in order
    let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    fs::write(home.join("pids").join(name), child.id().to_string())?;
    Ok(())
}

fn bridge() -> Result<()> {
    let ip = |args: &str| shell::output(Command::new("ip").args(args.split(' ')));
    // An address of its own: else it takes its ports' lowest, a new pod changes it, and the others talk to nobody for
    // as long as their neighbour tables keep the old one.
    ip(&format!("link add {BRIDGE} address 02:6f:62:73:76:00 type bridge"))?;
    ip(&format!("addr add {GATEWAY}/16 dev {BRIDGE}"))?;
    ip(&format!("addr add {API}/32 dev {BRIDGE}"))?;
    ip(&format!("link set {BRIDGE} up"))?;
    Ok(())
}

fn configure(cluster: &Cluster) -> Result<()> {
    let home = cluster.home.display().to_string();
    let write = |name: &str, text: String| {
        let path = cluster.home.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&cluster.home))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("tokens.csv", format!("{TOKEN},admin,admin,\"system:masters\"\n"))?;
    // Who asks for what: the API load of the observer is counted from here.
    write(
        "audit.yaml",
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n".into(),
    )?;
    let openssl = |args: String| shell::output(Command::new("openssl").args(args.split(' ')));
    openssl(format!("genrsa -out {home}/sa.key 2048"))?;
    openssl(format!("rsa -in {home}/sa.key -pubout -out {home}/sa.pub"))?;
    write(
        "admin.kubeconfig",
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: observer\ncontexts: [{{name: observer, context: {{cluster: observer, user: admin}}}}]\n\
             clusters: [{{name: observer, cluster: {{server: \"https://{API}\", certificate-authority: {home}/api/apiserver.crt}}}}]\n\
             users: [{{name: admin, user: {{token: {TOKEN}}}}}]\n"
        ),
    )?;
    write(
        "containerd.toml",
        format!(
            "version = 2\nroot = \"{home}/containerd/root\"\nstate = \"{home}/containerd/state\"\n\
             [grpc]\naddress = \"{home}/containerd/containerd.sock\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\nrestrict_oom_score_adj = true\ndisable_apparmor = true\nnetns_mounts_under_state_dir = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"{home}/cni\"\n"
        ),
    )?;
    write(
        "cni/10-bridge.conflist",
        format!(
            "{{\"cniVersion\":\"0.4.0\",\"name\":\"observer\",\"plugins\":[{{\"type\":\"bridge\",\"bridge\":\"{BRIDGE}\",\"isGateway\":true,\"ipMasq\":false,\
             \"ipam\":{{\"type\":\"host-local\",\"dataDir\":\"{home}/ipam\",\"ranges\":[[{{\"subnet\":\"10.244.0.0/16\",\"gateway\":\"{GATEWAY}\"}}]],\"routes\":[{{\"dst\":\"0.0.0.0/0\"}}]}}}}]}}"
        ),
    )?;
    write(
        "kubelet.yaml",
        format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\naddress: {GATEWAY}\n\
             authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}\nauthorization: {{mode: AlwaysAllow}}\n\
             cgroupDriver: cgroupfs\nfailCgroupV1: false\nfailSwapOn: false\nmaxPods: 300\nsyncFrequency: 5s\n\
             containerRuntimeEndpoint: unix://{home}/containerd/containerd.sock\nstaticPodPath: {home}/manifests\n\
             evictionHard: {{memory.available: 100Mi, nodefs.available: 100Mi, imagefs.available: 100Mi}}\n\
             imageGCHighThresholdPercent: 100\nresolvConf: \"\"\nenableServer: true\nhealthzPort: 0\n"
        ),
    )?;
    Ok(())
}

/// Stops everything, the newest first, and removes what a hard stop leaves.
pub fn down() -> Result<()> {
    let home = Path::new(HOME);
    if !home.exists() {
        return Ok(());
    }
    eprintln!("stopping the cluster");
    stop("kubelet", Duration::from_secs(10));
    kill_under("containerd-shim", HOME);
    for name in [
        KEDA.name,
        ROLLOUTS.name,
        "kube-scheduler",
        "kube-controller-manager",
        "kube-apiserver",
        "containerd",
        "etcd",
    ] {
        stop(name, Duration::from_secs(10));
    }
    unmount()?;
    remove_groups();
    // Absent if it was never made; the kernel removes the pods' ends with their namespaces.
    let _ = shell::output(Command::new("ip").args(["link", "delete", BRIDGE]));
    for attempt in 0.. {
        match fs::remove_dir_all(home) {
            Ok(()) => break,
            Err(error) if attempt == 20 => bail!("cannot remove {}: {error}", home.display()),
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
    Ok(())
}

fn pid_of(name: &str) -> Option<Pid> {
    let pid = fs::read_to_string(Path::new(HOME).join("pids").join(name)).ok()?;
    Pid::from_raw(pid.trim().parse().ok()?)
}

fn stop(name: &str, within: Duration) {
    let Some(pid) = pid_of(name) else { return };
    // A pid used again by somebody else is not ours to stop.
    let is_it = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()))
        .is_ok_and(|comm| name.starts_with(comm.trim()));
    if !is_it || kill_process(pid, Signal::TERM).is_err() {
        return;
    }
    let began = Instant::now();
    while test_kill_process(pid).is_ok() && began.elapsed() < within {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
        sleep(Duration::from_millis(50));
    }
    let _ = kill_process(pid, Signal::KILL); // ended already is what is wanted
}

/// Kills programs of this name that were started with a path under `home`, and their children: containers.
fn kill_under(name: &str, home: &str) {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut doomed: Vec<i32> = Vec::new();
    for pid in pids {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command.contains(name) && command.contains(home) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            doomed.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
            doomed.push(pid);
        }
    }
    for pid in doomed.into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL); // gone already is what is wanted
    }
}

/// Mounts under the cluster's home, the innermost first.
fn unmount() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(HOME));
    let mut ours: Vec<&str> = ours.collect();
    ours.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in ours {
        let _ = shell::output(Command::new("umount").args(["-l", path])); // reported by the removal of the home
    }
    Ok(())
}

/// The pods' groups in every hierarchy: children before parents, and only where nothing runs any more.
fn remove_groups() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(point), Some("cgroup" | "cgroup2")) = (words.next(), words.next()) {
            for name in ["kubepods", "k8s.io"] {
                remove_tree(&PathBuf::from(point).join(name));
            }
        }
    }
}

fn remove_tree(directory: &Path) {
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove_tree(&entry.path());
        }
    }
    for _ in 0..20 {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                sleep(Duration::from_millis(50));
            }
            _ => return,
        }
    }
}
