//! The memory observer. See ARCHITECTURE.md for the one picture of how the modules hang together.

pub mod app;
pub mod attribution;
pub mod board;
pub mod cgroup;
pub mod check;
pub mod cli;
pub mod config;
pub mod docs;
pub mod event;
pub mod finding;
pub mod identity;
pub mod journal;
pub mod kernel;
pub mod lifecycle;
pub mod metrics;
pub mod node;
pub mod oom;
pub mod pipeline;
pub mod record;
pub mod replay;
pub mod server;
pub mod stability;
pub mod time;
pub mod units;
