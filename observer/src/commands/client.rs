//! A running observer's API, as every command asks it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

pub mod delta;
pub mod http;
pub mod state;

use http::Http;

/// Which observer is asked, and how it is trusted.
#[derive(Debug, Args)]
pub struct Access {
    /// The observer of a node
    #[arg(long, visible_alias = "url", default_value = "http://127.0.0.1:9843", value_name = "URL")]
    node: String,
    /// PEM file with the certificate authority of an https:// address [default: the public ones, as Mozilla lists them]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Sent as a bearer token, read from this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Of `--timeout`; a client's clock ends somewhere.
pub fn timeout_seconds() -> clap::builder::RangedU64ValueParser {
    clap::builder::RangedU64ValueParser::new().range(1..=3600)
}

impl Access {
    pub fn connect(&self, timeout: Duration) -> Result<Http, String> {
        self.connect_to(&self.node, timeout)
    }

    /// Another address by the same authority and token.
    pub fn connect_to(&self, url: &str, timeout: Duration) -> Result<Http, String> {
        let read = |what: &str, path: &Path| {
            fs::read_to_string(path)
                .map_err(|error| format!("cannot read the {what} in {}: {error}", path.display()))
        };
        let token = self.token_file.as_deref().map(|path| read("token", path)).transpose()?;
        let ca = self.ca.as_deref().map(|path| read("certificate authority", path)).transpose()?;
        Http::new(url, timeout, token, ca.as_deref())
    }
}
