//! What starts on this node, and what it will still take.

pub mod forecast;
pub mod stampede;
