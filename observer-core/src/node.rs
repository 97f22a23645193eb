//! What starts on this node, what it will still take, and whether there is room.

pub mod forecast;
pub mod stampede;
pub mod watch;
