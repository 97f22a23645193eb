//! One GET, and errors that say what to do.

use std::{io::Read, time::Duration};

use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::http::tls;
use observer_core::model::printable::printable;

/// An answer larger than this is not what was asked for: 10,000 pods are some 20 MB.
const LARGEST: u64 = 256 << 20;

pub struct Http {
    agent: Agent,
    url: String,
    token: Option<String>,
}

impl Http {
    /// `ca`: PEM of the authorities trusted, instead of the public ones.
    pub fn new(
        url: &str,
        timeout: Duration,
        token: Option<String>,
        ca: Option<&str>,
    ) -> Result<Self, String> {
        let mut config = Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false);
        if let Some(pem) = ca {
            let found = tls::certificates(pem.as_bytes()).ok_or("--ca: there is no certificate in it")?;
            let found: Vec<_> = found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
            let roots = RootCerts::new_with_certs(&found);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let url = url.trim_end_matches('/');
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let token = token.map(|token| token.trim().to_owned());
        Ok(Self { agent: config.build().into(), url, token })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<serde_json::Value, String> {
        let what = format!("{}{path}", self.url);
        let mut request = self.agent.get(&what).query_pairs(query.iter().copied());
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(|error| match error {
            ureq::Error::Timeout(_) => format!(
                "{what}: no answer in time; give it longer with --timeout{}",
                if query.is_empty() { "" } else { ", or ask for less with --window" }
            ),
            other => format!("{what}: {other}; is it running, and is the address right?"),
        })?;
        let status = response.status();
        let mut text = String::new();
        let read = response.into_body().into_reader().take(LARGEST).read_to_string(&mut text);
        read.map_err(|error| format!("{what}: the answer broke off: {error}"))?;
        if !status.is_success() {
            let said: String = text.trim().chars().take(300).collect();
            let said = printable(&said);
            return Err(format!("{what}: answered {status}: {said}"));
        }
        serde_json::from_str(&text).map_err(|error| format!("{what}: the answer is not JSON: {error}"))
    }
}
