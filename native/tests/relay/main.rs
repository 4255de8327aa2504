//! What calls look like on both sides of the front door when the server behind it answers them.

mod cancelling;
mod ending;
mod flow;
mod losing;
mod many;
mod passing;
mod stage;
