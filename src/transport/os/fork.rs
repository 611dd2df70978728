#![allow(
    unsafe_code,
    reason = "pthread_atfork, and what the forked child does, are calls into libc"
)]
//! Forked children let go of the library's sockets.
//!
//! A data loader that forks inherits every descriptor of its parent. If the parent then dies, the
//! child's copies keep the connections open and the other peers wait for a process that is gone.
//! So each socket is registered here for as long as it is open, and a `pthread_atfork` handler
//! puts an unconnected socket in the place of each in the child. The numbers stay taken: a
//! destructor that runs in the child closes the stand-in, never a file that the child opened
//! since under the same number.
//!
//! The table is blocks of atomics that are never freed, because the handler may take no lock and
//! no memory: another thread may have held the lock when the process was forked. A socket that is
//! being opened or closed in the very moment of the fork can be missed; that is why connections
//! are also shut down, not just closed (see `WriteHalf`), which no copy can delay.

use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

const FREE: i32 = -1;
const SLOTS_PER_BLOCK: usize = 128;

static FIRST: Block = Block::new();
static HANDLER: Once = Once::new();

/// Keeps a socket in the registry. Must be dropped *before* the socket is closed: its number may
/// belong to somebody else right after.
#[must_use]
pub(in crate::transport) struct Registration {
    slot: &'static AtomicI32,
    fd: RawFd,
}

/// Notes that `socket` is to be let go in forked children.
pub(in crate::transport) fn register<S: AsRawFd>(socket: &S) -> Registration {
    HANDLER.call_once(install_handler);
    let fd = socket.as_raw_fd();
    Registration {
        slot: FIRST.claim(fd),
        fd,
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // In a forked child the slot may be somebody else's by now; theirs is another number.
        let _ = self
            .slot
            .compare_exchange(self.fd, FREE, Ordering::AcqRel, Ordering::Relaxed);
    }
}

struct Block {
    slots: [AtomicI32; SLOTS_PER_BLOCK],
    next: AtomicPtr<Block>,
}

impl Block {
    const fn new() -> Self {
        Self {
            slots: [const { AtomicI32::new(FREE) }; SLOTS_PER_BLOCK],
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn next(&self) -> Option<&'static Block> {
        let next = self.next.load(Ordering::Acquire);
        // SAFETY: `next` is null or came out of `Box::into_raw` in `grow`, fully made, and is
        // never freed or written to except through its atomics.
        unsafe { next.as_ref() }
    }

    /// A slot that holds `fd` from now on; takes memory where all are in use.
    fn claim(&'static self, fd: RawFd) -> &'static AtomicI32 {
        let mut block = self;
        loop {
            for slot in &block.slots {
                let claimed = slot.compare_exchange(FREE, fd, Ordering::AcqRel, Ordering::Relaxed);
                if claimed.is_ok() {
                    return slot;
                }
            }
            block = block.next().unwrap_or_else(|| block.grow());
        }
    }

    fn grow(&self) -> &'static Block {
        let fresh = Box::into_raw(Box::new(Block::new()));
        match self.next.compare_exchange(
            ptr::null_mut(),
            fresh,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            // SAFETY: just made, and leaked on purpose: it lives as long as the process.
            Ok(_) => unsafe { &*fresh },
            Err(theirs) => {
                // SAFETY: `fresh` was not published, so this is its only owner.
                drop(unsafe { Box::from_raw(fresh) });
                // SAFETY: another thread's block, published by the same means as ours would be.
                unsafe { &*theirs }
            }
        }
    }
}

fn install_handler() {
    // SAFETY: the handler has the signature that is asked for and does only what may be done in
    // the child of a process with many threads.
    let code = unsafe { libc::pthread_atfork(None, None, Some(let_go_in_child)) };
    if code != 0 {
        tracing::warn!(code, "forked children will keep connections open");
    }
}

/// Runs in the forked child before `fork` returns there. Only async-signal-safe calls: atomics,
/// `socket`, `dup2`, `fcntl`, `close`; `errno` is left as it was.
extern "C" fn let_go_in_child() {
    let before = errno();
    let mut stand_in = None;
    let mut block = Some(&FIRST);
    while let Some(here) = block {
        for slot in &here.slots {
            let fd = slot.swap(FREE, Ordering::AcqRel);
            if fd != FREE {
                let stand_in = *stand_in.get_or_insert_with(unconnected_socket);
                let_go(fd, stand_in);
            }
        }
        block = here.next();
    }
    if let Some(stand_in) = stand_in.filter(|&fd| fd != FREE) {
        // SAFETY: opened above, and nobody else knows the number.
        unsafe { libc::close(stand_in) };
    }
    set_errno(before);
}

/// `FREE` where the system has no descriptor left to give.
fn unconnected_socket() -> RawFd {
    // SAFETY: takes no pointers; a failure is -1, which is `FREE`.
    unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) }
}

fn let_go(fd: RawFd, stand_in: RawFd) {
    // SAFETY: `fd` was registered, so it is one of the library's sockets, and the only thread of
    // this process is here: nobody can be using it. `dup2` closes it in the same step.
    unsafe {
        if stand_in == FREE || libc::dup2(stand_in, fd) == -1 {
            libc::close(fd);
        } else {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn errno() -> i32 {
    // SAFETY: the location is valid for the calling thread.
    unsafe { *libc::__errno_location() }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_errno(code: i32) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = code }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn errno() -> i32 {
    0
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_errno(_: i32) {}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Whether `fd` is a TCP socket with an address of its own; async-signal-safe.
    fn is_inet_socket(fd: RawFd) -> bool {
        // SAFETY: zeroed is a valid value of this plain struct, and both pointers outlive the
        // call; a bad `fd` is an error code.
        unsafe {
            let mut address: libc::sockaddr_storage = std::mem::zeroed();
            let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            let code = libc::getsockname(fd, (&raw mut address).cast(), &raw mut length);
            code == 0 && i32::from(address.ss_family) == libc::AF_INET
        }
    }

    /// Forks; the child leaves with `check`'s answer. Whether that was true.
    fn in_forked_child(check: impl Fn() -> bool) -> bool {
        // SAFETY: the child only calls `check`, which is async-signal-safe, and `_exit`; the
        // parent waits for exactly that child.
        unsafe {
            let child = libc::fork();
            assert_ne!(child, -1, "fork");
            if child == 0 {
                libc::_exit(if check() { 0 } else { 1 });
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }

    #[test]
    fn a_forked_child_lets_go_of_registered_sockets_and_of_no_other() {
        let registered = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let registration = register(&registered);
        let (fd, other_fd) = (registered.as_raw_fd(), other.as_raw_fd());
        assert!(in_forked_child(|| {
            // SAFETY: a plain query of a number.
            let taken = unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1;
            taken && !is_inet_socket(fd) && is_inet_socket(other_fd)
        }));
        // The parent's own socket is untouched, and after this its children keep it.
        assert!(is_inet_socket(fd));
        drop(registration);
        assert!(in_forked_child(|| is_inet_socket(fd)));
    }

    #[test]
    fn a_connection_closes_with_its_parent_while_a_child_lives_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let registration = register(&near);
        // SAFETY: the child only waits to be killed.
        let child = unsafe { libc::fork() };
        assert_ne!(child, -1, "fork");
        if child == 0 {
            loop {
                // SAFETY: takes nothing.
                unsafe { libc::pause() };
            }
        }
        drop(registration);
        drop(near);
        // The end of the stream: nobody holds the other side any more.
        let end = std::io::Read::read(&mut &far, &mut [0; 1]);
        // SAFETY: the child is ours and not yet waited for.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, ptr::null_mut(), 0);
        }
        assert_eq!(end.unwrap(), 0);
    }

    #[test]
    fn the_table_grows_and_its_slots_are_used_again() {
        static TABLE: Block = Block::new();
        let slots: Vec<_> = (0..300).map(|fd| TABLE.claim(fd)).collect();
        for (fd, slot) in slots.iter().enumerate() {
            assert_eq!(slot.load(Ordering::Relaxed), fd as i32);
        }
        slots[7].store(FREE, Ordering::Relaxed);
        assert!(ptr::eq(TABLE.claim(1000), slots[7]));
    }
}
