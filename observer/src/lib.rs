//! The daemon: sources, sinks and commands around the pure core ([`observer_core`]).
//!
//! The modules in the order in which data passes them:
//!
//! ```text
//! sources      kernel programs, cgroup files, /proc, the Kubernetes API, the ledger -> events
//! (core)       observer_core::pipeline: events -> findings
//! sinks        findings -> metrics, log lines, what the API shows
//! http         serves the sinks: TLS, authorisation, routes
//! recording    events <-> a file; histories kept over restarts
//! companion    what the next two have in common: how they serve and end
//! ledger       `observer ledger`: the changes of every workload of the cluster
//! lend         `observer lend`: memory lent for the start of pods
//! commands     check, docs, analyse, advise, why, top
//! app          config -> build -> run -> drain: the only place that knows sources and sinks
//! ```

#![deny(clippy::print_stderr, clippy::print_stdout)] // both panic where the reader is gone

pub mod app;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod companion;
pub mod config;
pub mod descriptors;
mod failure;
mod files;
pub mod host_thread;
pub mod http;
pub mod ledger;
pub mod lend;
pub mod memory;
pub mod recording;
mod signals;
pub mod sinks;
pub mod sources;
