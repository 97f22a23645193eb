//! Certificates from PEM: those trusted, and a server's own with its key, read again when they are renewed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsAcceptor;

use crate::files;

/// The kubelet renews a mounted Secret within a minute or two; half of that again is soon enough.
const LOOK: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
#[error("cannot use the certificate {cert} with the key {key}: {source}; TLS cannot be served")]
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

/// What a server shows to its clients: as it was last read.
#[derive(Clone)]
pub struct Certificate(Arc<RwLock<Arc<ServerConfig>>>);

impl Certificate {
    pub fn acceptor(&self) -> TlsAcceptor {
        // Nothing panics while it is held.
        TlsAcceptor::from(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn renew(&self, config: Arc<ServerConfig>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

impl Pair {
    pub async fn load(&self) -> Result<Certificate, CannotUse> {
        // Of the two providers rustls knows, the one that needs no C compiler; set already if a client was made.
        let _ = rustls::crypto::ring::default_provider().install_default();
        self.read().await.map(|config| Certificate(Arc::new(RwLock::new(config))))
    }

    /// Loads a renewed pair; never ends. A pair that cannot be used is logged, and the previous one stays.
    pub async fn renew(&self, certificate: Certificate) {
        let mut taken = self.changed();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.changed();
            if now == taken {
                continue;
            }
            taken = now;
            match self.read().await {
                Ok(config) => {
                    certificate.renew(config);
                    tracing::info!("the certificate {} was renewed", self.cert.display());
                }
                Err(error) => tracing::warn!("{error}; the previous one stays in use"),
            }
        }
    }

    async fn read(&self) -> Result<Arc<ServerConfig>, CannotUse> {
        let pair = self.clone();
        let read = spawn_blocking(move || pair.config()).await.map_err(io::Error::other);
        read.flatten().map_err(|source| self.cannot_use(source))
    }

    fn config(&self) -> io::Result<Arc<ServerConfig>> {
        let (chain, key) = (files::read(&self.cert)?, files::read(&self.key)?);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(io::Error::other)?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain.map_err(io::Error::other)?, key)
            .map_err(io::Error::other)?;
        Ok(Arc::new(config))
    }

    fn cannot_use(&self, source: std::io::Error) -> CannotUse {
        CannotUse { cert: self.cert.clone(), key: self.key.clone(), source }
    }

    fn changed(&self) -> [Option<SystemTime>; 2] {
        let of = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
        [of(&self.cert), of(&self.key)]
    }
}
