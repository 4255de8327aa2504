//! Who calls, by token, certificate or socket, as far as a stored answer needs to know.
