//! Serving over HTTP: what a client can hold, who may ask, certificates, routes.

pub mod accept;
pub mod api;
pub mod auth;
pub mod browser;
mod exposition;
pub mod rendered;
pub mod server;
pub mod shared;
pub mod tls;
