//! Serving over HTTP: who may ask, certificates, routes.

pub mod auth;
pub mod server;
pub mod tls;
