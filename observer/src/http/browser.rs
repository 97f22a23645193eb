//! Security headers for browsers, and the check of `Host`: no foreign script runs, and no foreign name is served.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header, uri::Authority},
    middleware::{Next, from_fn_with_state, map_response},
    response::{IntoResponse, Response},
};

/// Scripts and styles are files of ours; nothing is embedded, posted or loaded from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every answer.
pub fn headers(router: Router) -> Router {
    router.layer(map_response(async |mut response: Response| {
        let fields = [
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        for (name, value) in fields {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }))
}

/// Names that browsers may use for this host, in addition to names that only this network resolves.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Arc<[String]>);

impl Hosts {
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Refuses requests for a foreign name: otherwise a page of evil.example could resolve its name to this address
    /// (DNS rebinding) and read all responses. With TLS the certificate prevents this.
    pub fn guard(self, router: Router) -> Router {
        router.layer(from_fn_with_state(self, refuse_foreign))
    }

    /// Addresses, names without a dot, those of a cluster's own domain or reserved for private networks, and the given.
    fn admits(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        let private = [".localhost", ".internal", ".svc", ".cluster.local"];
        IpAddr::from_str(address).is_ok()
            || !host.is_empty() && !host.contains('.')
            || private.iter().any(|suffix| host.ends_with(suffix))
            || self.0.contains(&host)
    }
}

async fn refuse_foreign(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let field = request.headers().get(header::HOST).map(HeaderValue::to_str);
    let named = match (request.uri().authority(), field) {
        (Some(authority), _) => Some(authority.clone()),
        (None, Some(Ok(field))) => Authority::from_str(field).ok(),
        (None, Some(Err(_))) => None,
        // No browser leaves it out.
        (None, None) => return next.run(request).await,
    };
    match named {
        Some(named) if hosts.admits(named.host()) => next.run(request).await,
        _ => {
            let why =
                "this is not the host of that name; ask by address, or list the name in allowed_hosts\n";
            (StatusCode::MISDIRECTED_REQUEST, why).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_name_is_refused() {
        let hosts = Hosts::new(["Metrics.example.com".to_owned()]);
        let table = [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("[::1]", true),
            ("localhost", true),
            ("node-1", true),
            ("observer.observer.svc", true),
            ("observer.observer.svc.cluster.local.", true),
            ("metrics.example.com", true),
            ("METRICS.example.com", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("metrics.example.com.evil.example", false),
            ("localhost.evil.example", false),
            ("", false),
        ];
        for (host, expected) in table {
            assert_eq!(hosts.admits(host), expected, "{host:?}");
        }
    }
}
