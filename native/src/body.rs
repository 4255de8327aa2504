//! What the front door sends: pieces of stored answers, and what the server behind it said.
