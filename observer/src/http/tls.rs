//! Certificates from PEM: those trusted, and a server's own with its key, read again when they are renewed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use axum_server::tls_rustls::RustlsConfig;
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// The kubelet renews a mounted Secret within a minute or two; half of that again is soon enough.
const LOOK: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
#[error("cannot use the certificate {cert} with the key {key}: {source}; nobody could ask over TLS")]
pub struct CannotUse {
    cert: PathBuf,
    key: PathBuf,
    source: std::io::Error,
}

/// The authorities in a PEM text, as DER. `None`: there is none, or one is broken.
pub fn certificates(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found: Vec<Vec<u8>> = found.ok()?.into_iter().map(|der| der.to_vec()).collect();
    (!found.is_empty()).then_some(found)
}

/// Files of a certificate chain and its private key, PEM.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    pub async fn load(&self) -> Result<RustlsConfig, CannotUse> {
        // Of the two providers rustls knows, the one that needs no C compiler; set already if a client was made.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let loaded = RustlsConfig::from_pem_file(&self.cert, &self.key).await;
        loaded.map_err(|source| self.cannot_use(source))
    }

    /// Takes up a renewed pair; never ends. One that cannot be used is told of, and the one before stays.
    pub async fn renew(&self, config: RustlsConfig) {
        let mut taken = self.changed();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.changed();
            if now == taken {
                continue;
            }
            taken = now;
            match config.reload_from_pem_file(&self.cert, &self.key).await {
                Ok(()) => tracing::info!("the certificate {} was renewed", self.cert.display()),
                Err(source) => tracing::warn!("{}; the one before stays in use", self.cannot_use(source)),
            }
        }
    }

    fn cannot_use(&self, source: std::io::Error) -> CannotUse {
        CannotUse { cert: self.cert.clone(), key: self.key.clone(), source }
    }

    fn changed(&self) -> [Option<SystemTime>; 2] {
        let of = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
        [of(&self.cert), of(&self.key)]
    }
}
