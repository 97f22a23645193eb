//! Events to a file and back; what is remembered of workloads over restarts.

pub mod folder;
pub mod history_file;
pub mod kill_journal;
pub mod pace;
pub mod replay;
pub mod serve;
pub mod writer;
