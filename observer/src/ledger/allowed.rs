//! Who may ask where no account is named: the agents beside the ledger, in whatever namespace that is.

use std::{fs, path::Path};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use webpki::EndEntityCert;

/// In a pod, the namespace of its service account.
pub const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// The namespace and the account of deploy/.
const DEPLOYED: &str = "observer";

/// The agents' account in the namespace of this pod. Outside of a pod, in the namespace of the Service that the
/// certificate names first.
pub fn beside(own_namespace: &Path, cert: &Path) -> String {
    let own = fs::read_to_string(own_namespace).ok().map(|text| text.trim().to_owned());
    let namespace = own.filter(|text| is_name(text)).or_else(|| of_service(cert));
    format!("{}:{DEPLOYED}", namespace.as_deref().unwrap_or(DEPLOYED))
}

/// `NAMESPACE` of the first name like `service.NAMESPACE.svc` or `service.NAMESPACE.svc.cluster.local`.
fn of_service(cert: &Path) -> Option<String> {
    let der = CertificateDer::from_pem_slice(&fs::read(cert).ok()?).ok()?;
    let cert = EndEntityCert::try_from(&der).ok()?;
    cert.valid_dns_names().find_map(|name| {
        let mut labels = name.split('.').skip(1);
        let namespace = labels.next()?;
        (labels.next() == Some("svc") && is_name(namespace)).then(|| namespace.to_owned())
    })
}

/// Of a namespace (RFC 1123).
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::certificate;

    #[test]
    fn agents_beside_the_ledger_may_ask_whatever_the_namespace() {
        let folder = std::env::temp_dir().join(format!("observer-allowed-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (own, cert, none) = (folder.join("namespace"), folder.join("tls.crt"), folder.join("none"));
        let with_names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            fs::write(&cert, certificate::generate(&names).unwrap().1).unwrap();
        };
        for (namespace, names, expected) in [
            (Some("monitoring\n"), vec!["observer-ledger.other.svc"], "monitoring:observer"),
            (
                None,
                vec!["observer-ledger.monitoring.svc", "observer-ledger.observer.svc"],
                "monitoring:observer",
            ),
            (None, vec!["10.0.0.1", "ledger.example.org", "l.a.svc.cluster.local"], "a:observer"),
            (None, vec!["ledger.example.org"], "observer:observer"),
            (Some(""), vec!["l.a.svc"], "a:observer"),
            (Some("a:b"), vec!["localhost"], "observer:observer"),
        ] {
            let _ = fs::remove_file(&own);
            if let Some(namespace) = namespace {
                fs::write(&own, namespace).unwrap();
            }
            with_names(&names);
            assert_eq!(beside(&own, &cert), expected, "{namespace:?} {names:?}");
        }
        assert_eq!(beside(&none, &none), "observer:observer");
        fs::remove_dir_all(folder).unwrap();
    }
}
