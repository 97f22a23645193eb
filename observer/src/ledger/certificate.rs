//! A certificate for the ledger, for clusters without an issuer of certificates: `observer ledger-secret`.

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

/// A Secret (YAML) with a certificate authority of its own, and a certificate for these names.
pub fn manifest(namespace: &str, secret: &str, names: &[String]) -> Result<String, rcgen::Error> {
    let (ca, cert, key) = generate(names)?;
    let indent = |pem: &str| pem.trim().lines().map(|line| format!("    {line}\n")).collect::<String>();
    Ok(format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {secret}\n  namespace: {namespace}\ntype: kubernetes.io/tls\nstringData:\n  ca.crt: |\n{}  tls.crt: |\n{}  tls.key: |\n{}",
        indent(&ca),
        indent(&cert),
        indent(&key)
    ))
}

/// Authority, certificate and key, each PEM. The authority's key is thrown away: nothing else can be signed by it.
pub fn generate(names: &[String]) -> Result<(String, String, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "memory observer");
    let ca_key = KeyPair::generate()?;
    let ca = params.self_signed(&ca_key)?;
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, names.first().map_or("observer-ledger", String::as_str));
    let cert = params.signed_by(&key, &issuer)?;
    Ok((ca.pem(), cert.pem(), key.serialize_pem()))
}
