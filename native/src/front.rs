//! The listeners, their connections, and the calls on them.
