//! Commands that do not run the daemon.

pub mod advise;
pub mod analyse;
pub mod check;
pub mod client;
pub mod docs;
pub mod incident;
pub mod kubectl;
pub mod notice;
pub mod output;
pub mod report;
pub mod simulate;
pub mod top;
pub mod why;
