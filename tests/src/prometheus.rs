//! A real Prometheus as a child process, and its answers.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::daemon::{free_port, get};

/// Ends when dropped.
pub struct Prometheus {
    process: Child,
    pub url: String,
}

impl Prometheus {
    /// With this configuration; it, the log and the series (`tsdb`) are in the directory. Returns once it is ready.
    pub fn start(directory: &Path, configuration: &str) -> Result<Self> {
        let config = directory.join("prometheus.yml");
        fs::write(&config, configuration).with_context(|| format!("cannot write {}", config.display()))?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("prometheus.log"))?)
            .spawn()
            .context("cannot start prometheus")?;
        let prometheus = Self { process, url: format!("http://{address}") };
        let began = Instant::now();
        while get(&format!("{}/-/ready", prometheus.url)).is_err() {
            ensure!(began.elapsed() < Duration::from_secs(120), "Prometheus is not ready after two minutes");
            sleep(Duration::from_millis(200));
        }
        Ok(prometheus)
    }

    /// The series of an instant query.
    pub fn ask(&self, query: &str) -> Result<Vec<Value>> {
        let ask = || -> Result<Value> {
            let request = ureq::get(format!("{}/api/v1/query", self.url)).query("query", query);
            let bounded = request.config().timeout_global(Some(Duration::from_secs(10))).build();
            Ok(serde_json::from_str(&bounded.call()?.body_mut().read_to_string()?)?)
        };
        let mut answer = ask().with_context(|| format!("query {query}"))?;
        match answer["data"]["result"].take() {
            Value::Array(rows) => Ok(rows),
            _ => bail!("query {query}: {answer}"),
        }
    }

    /// Of the first series; none is 0.
    pub fn number(&self, query: &str) -> Result<f64> {
        let rows = self.ask(query)?;
        let value = rows.first().and_then(|row| row["value"][1].as_str());
        Ok(value.map_or(0.0, |value| value.parse().unwrap_or(0.0)))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill(); // ended already is what is wanted
        let _ = self.process.wait();
    }
}
