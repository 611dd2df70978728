//! The registry of open sockets where processes cannot be forked: there is nothing to do.

/// Stands for a socket in the registry; of no effect here.
pub(in crate::transport) struct Registration;

/// Does nothing: no child can inherit the socket.
pub(in crate::transport) fn register<S>(_socket: &S) -> Registration {
    Registration
}
