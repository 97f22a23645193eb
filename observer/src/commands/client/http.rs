//! One GET, and errors that say what to do.

use std::{
    io::{BufRead, BufReader, Read, Take},
    time::Duration,
};

use serde::de::DeserializeOwned;
use ureq::{
    Agent, BodyReader,
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::http::tls;
use observer_core::model::printable::printable;

/// An answer larger than this is not what was asked for: 10,000 pods are some 20 MB.
const LARGEST: u64 = 256 << 20;

/// Of an answer.
type Body = Take<BodyReader<'static>>;

#[derive(Clone)]
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
        let mut body = self.ask(&what, query, None)?;
        let mut text = String::new();
        body.read_to_string(&mut text).map_err(|error| format!("{what}: the answer broke off: {error}"))?;
        serde_json::from_str(&text).map_err(|error| format!("{what}: the answer is not JSON: {error}"))
    }

    /// An answer of /api/v1.
    pub fn api<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, String> {
        serde_json::from_value(self.get(path, query)?)
            .map_err(|error| format!("{}: that is not an observer's answer: {error}", self.url))
    }

    /// Server-sent events, until the server ends the stream, or for `longest`.
    pub fn events(&self, path: &str, query: &[(&str, &str)], longest: Duration) -> Result<Events, String> {
        let what = format!("{}{path}", self.url);
        Ok(Events { body: BufReader::new(self.ask(&what, query, Some(longest))?) })
    }

    fn ask(&self, what: &str, query: &[(&str, &str)], longest: Option<Duration>) -> Result<Body, String> {
        let mut request = self.agent.get(what).query_pairs(query.iter().copied());
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(longest) = longest {
            request = request.config().timeout_global(Some(longest)).build();
        }
        let response = request.call().map_err(|error| match error {
            ureq::Error::Timeout(_) => format!(
                "{what}: no answer in time; give it longer with --timeout{}",
                if query.iter().any(|(key, _)| *key == "query") {
                    ", or ask for less with --window"
                } else {
                    ""
                }
            ),
            other => format!("{what}: {other}; is it running, and is the address right?"),
        })?;
        let status = response.status();
        let mut body = response.into_body().into_reader().take(LARGEST);
        if status.is_success() {
            return Ok(body);
        }
        let mut text = String::new();
        body.read_to_string(&mut text).map_err(|error| format!("{what}: the answer broke off: {error}"))?;
        let said: String = text.trim().chars().take(300).collect();
        Err(format!("{what}: answered {status}: {}", printable(&said)))
    }
}

/// One event after the other.
pub struct Events {
    body: BufReader<Body>,
}

pub struct Event {
    pub name: String,
    pub data: String,
}

impl Iterator for Events {
    type Item = Event;

    /// `None`: the stream ended, or nothing came for too long.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event { name: String::new(), data: String::new() };
        let mut line = String::new();
        loop {
            line.clear();
            match self.body.read_line(&mut line) {
                Ok(1..) if line.ends_with('\n') => {}
                Ok(_) | Err(_) => return None,
            }
            match line.trim_end().split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("data", data)) => event.data += data,
                _ if line.trim_end().is_empty() && !event.name.is_empty() => return Some(event),
                _ => {}
            }
        }
    }
}
