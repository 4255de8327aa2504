//! Calls against a server that answers as a script says.

mod retries;
mod scripted;
mod sockets;
mod tokens;
