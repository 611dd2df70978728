//! The caller's memory, lent to one operation, and taken back without waiting for any socket.
//!
//! Access is *revocable*: bytes are touched only inside short synchronous accesses, never across
//! an await. [`UserMemory`] is the memory; each operation that works on it opens it anew and holds
//! [`UserBuffers`]. One atomic says who may enter:
//!
//! ```text
//! bits  63 .. 32  number of the opening      bit 1   taken back for good
//! bits  31 .. 2   accesses under way         bit 0   closed
//! ```
//!
//! After [`UserBuffers::revoke`] no access begins; when the count is 0 the memory is the caller's
//! again, whatever the lanes are doing. An operation that starts again in the next epoch opens the
//! same memory under the next number, so that a lane which still works for the old one stays out.
//!
//! **Aliasing.** Lanes work on one operation at the same time, each on segments of its own: `Run`
//! hands a segment to one receiver at a time, and what is sent from a segment was written before
//! it became due. The one overlap left is a *repeated* frame, sent again after a lane broke, while
//! its segment is received anew: causality says that the receiver has had those bytes before and
//! drops them, so what the kernel copies then is never looked at.
//!
//! **In place**, each piece of a segment is copied to a backup before it is overwritten. The backup
//! is the input from then on, and what [`UserBuffers::roll_back`] restores. Out of place the send
//! buffer is never written and there is no backup.
#![allow(unsafe_code)]

mod backup;
mod loan;

pub use backup::{Backup, Spares};
pub use loan::{Lendable, Loans, OwnedPair, OwnedVec, lend, lend_all, with_loans};

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::kernels::copy_past_cache;
use crate::mutation::{Mutation, mutated};

const CLOSED: u64 = 1;
const ENDED: u64 = 2;
const ONE_ACCESS: u64 = 4;
const ONE_OPENING: u64 = 1 << 32;

/// The send and the receive buffer of one call; the same memory if it is in place.
pub struct UserMemory {
    send: *const u8,
    recv: *mut u8,
    len_bytes: usize,
    gate: AtomicU64,
    idle_waker: Mutex<Option<Waker>>,
    saved: Mutex<Saved>,
    /// Keeps the memory alive where the call owns it.
    owner: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The memory as one operation has it, until it is revoked.
#[derive(Clone)]
pub struct UserBuffers {
    memory: Arc<UserMemory>,
    /// Number of the opening, in its place in the gate.
    opening: u64,
}

/// The original bytes of what was overwritten in place.
#[derive(Default)]
struct Saved {
    /// Starts of segments, and up to where they are in the backup.
    segments: BTreeMap<usize, usize>,
    backup: Option<Backup>,
}

// SAFETY: the pointers are to memory that `UserMemory::new`'s caller promised to leave to us, from
// any thread; concurrent accesses touch disjoint segments (see the module's aliasing rule).
unsafe impl Send for UserMemory {}
// SAFETY: as above.
unsafe impl Sync for UserMemory {}

impl UserMemory {
    /// Lends `len_bytes` bytes at `send` (input) and at `recv` (output); in place if they are one.
    /// Nobody may enter before it is opened.
    ///
    /// `owner`, if any, keeps the memory alive and is dropped with this.
    ///
    /// # Safety
    ///
    /// Until `take_back` has returned, or this was dropped:
    /// * `send` is valid for reads, and `recv` for writes, of `len_bytes` bytes;
    /// * the two are the same address or do not overlap;
    /// * nobody else writes to either, or reads from `recv`.
    pub unsafe fn new(
        send: *const u8,
        recv: *mut u8,
        len_bytes: usize,
        owner: Option<Box<dyn Any + Send>>,
    ) -> Arc<UserMemory> {
        Arc::new(UserMemory {
            send,
            recv,
            len_bytes,
            gate: AtomicU64::new(CLOSED),
            idle_waker: Mutex::new(None),
            saved: Mutex::new(Saved::default()),
            owner: Mutex::new(owner),
        })
    }

    /// Opens the memory to one operation; an older opening stays shut.
    pub fn open(self: &Arc<Self>) -> UserBuffers {
        let next = |gate: u64| Some(gate.wrapping_add(ONE_OPENING) & !CLOSED);
        let opened = self
            .gate
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let before = opened.unwrap_or_else(|gate| gate);
        let opening = before.wrapping_add(ONE_OPENING) / ONE_OPENING;
        UserBuffers {
            memory: self.clone(),
            opening,
        }
    }

    /// Bytes of either buffer.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Whether input and output are the same memory.
    fn is_in_place(&self) -> bool {
        std::ptr::eq(self.send, self.recv)
    }

    /// Closes the memory for good, waits for accesses under way (microseconds, as none is held
    /// across an await) and drops what kept it alive. It is its owner's again.
    pub fn take_back(&self) {
        self.gate.fetch_or(CLOSED | ENDED, Ordering::AcqRel);
        while accesses(self.gate.load(Ordering::Acquire)) > 0 {
            std::thread::yield_now();
        }
        // A lane that is stuck in the middle of a frame may hold this for a while yet.
        *self.saved() = Saved::default();
        drop(lock(&self.owner).take());
    }
}

/// Accesses under way.
fn accesses(gate: u64) -> u64 {
    gate % ONE_OPENING / ONE_ACCESS
}

impl UserBuffers {
    /// Bytes of either buffer.
    pub fn len_bytes(&self) -> usize {
        self.memory.len_bytes
    }

    /// Whether input and output are the same memory.
    pub fn is_in_place(&self) -> bool {
        self.memory.is_in_place()
    }

    /// Bytes that the backup holds: what a roll-back would copy.
    pub fn saved_bytes(&self) -> usize {
        self.memory
            .saved()
            .segments
            .iter()
            .map(|(start, end)| end - start)
            .sum()
    }

    /// Opens the memory for a short synchronous piece of work; `None` once it was revoked.
    ///
    /// Never hold an access across an await, a lock or anything else that may take its time:
    /// whoever takes the memory back waits for it.
    pub fn access(&self) -> Option<Access<'_>> {
        // Never raises the count of a closed gate: once that is idle, it stays so.
        let enter = |gate: u64| {
            let is_open = gate & (CLOSED | ENDED) == 0 && gate / ONE_OPENING == self.opening;
            is_open.then_some(gate + ONE_ACCESS)
        };
        let entered = self
            .memory
            .gate
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, enter);
        entered.ok().map(|_| Access {
            buffers: &self.memory,
        })
    }

    /// Lets no further access begin.
    pub fn revoke(&self) {
        let close = |gate: u64| (gate / ONE_OPENING == self.opening).then_some(gate | CLOSED);
        // A later opening is not ours to close.
        let _ = self
            .memory
            .gate
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, close);
    }

    /// Whether no access is under way. Final once the buffers are revoked.
    pub fn is_idle(&self) -> bool {
        accesses(self.memory.gate.load(Ordering::Acquire)) == 0
    }

    /// Ready when no access is under way. For one waiter, after [`UserBuffers::revoke`].
    pub fn poll_idle(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_idle() {
            *lock(&self.memory.idle_waker) = Some(context.waker().clone());
            // The last access may have ended before it could see the waker.
            if !self.is_idle() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// As [`UserMemory::take_back`].
    #[cfg(test)]
    pub(crate) fn take_back(&self) {
        self.memory.take_back();
    }

    /// As [`UserMemory::open`], for an operation that starts again.
    #[cfg(test)]
    pub(crate) fn open_again(&self) -> UserBuffers {
        self.memory.open()
    }

    /// Whether this opening was revoked, is idle and is the last.
    fn is_at_rest(&self) -> bool {
        let gate = self.memory.gate.load(Ordering::Acquire);
        gate & CLOSED != 0 && accesses(gate) == 0 && gate / ONE_OPENING == self.opening
    }

    /// Puts every overwritten segment of an operation in place back as it was.
    ///
    /// Does nothing unless the buffers are revoked and idle. Costs a copy of what was saved.
    pub fn roll_back(&self) {
        let memory = &self.memory;
        // Enters as an access does, so that nobody takes the memory back meanwhile.
        let enter = |gate: u64| {
            let is_at_rest = gate & (CLOSED | ENDED) == CLOSED
                && accesses(gate) == 0
                && gate / ONE_OPENING == self.opening;
            is_at_rest.then_some(gate + ONE_ACCESS)
        };
        let entered = memory
            .gate
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, enter);
        if entered.is_err() {
            return;
        }
        let _inside = Access { buffers: memory };
        let Saved { segments, backup } = std::mem::take(&mut *memory.saved());
        let Some(backup) = backup else {
            return;
        };
        let count = match mutated(Mutation::PutBackFirstSegmentOnly) {
            true => 1,
            false => usize::MAX,
        };
        for (start, end) in segments.into_iter().take(count) {
            // SAFETY: both are inside their allocations (`prepare` checked the range, and a backup is
            // as long as the buffer at least). The buffers are revoked and idle, so nobody else refers to either; the
            // caller's memory is ours to write (`new`).
            unsafe {
                let original = backup.start().add(start);
                memory
                    .recv
                    .add(start)
                    .copy_from_nonoverlapping(original, end - start);
            }
        }
        memory.saved().backup = Some(backup);
    }

    /// Lends an operation in place memory for its backup; without, it is allocated once it is
    /// needed. One that is too short, or comes too late, is dropped.
    pub fn supply(&self, backup: Backup) {
        let mut saved = self.memory.saved();
        if saved.backup.is_none() && backup.len_bytes() >= self.memory.len_bytes {
            saved.backup = Some(backup);
        }
    }

    /// Forgets what was saved, and gives the backup back, ahead of the memory itself: a lane that is
    /// stuck in the middle of a frame keeps that alive.
    ///
    /// Does nothing unless the buffers are revoked and idle.
    pub fn release(&self) -> Option<Backup> {
        if !self.is_at_rest() {
            return None;
        }
        std::mem::take(&mut *self.memory.saved()).backup
    }
}

impl UserMemory {
    fn saved(&self) -> MutexGuard<'_, Saved> {
        lock(&self.saved)
    }

    /// Start of the backup, if the whole of `range` was saved, as a segment or a part of one.
    fn backup_of(&self, range: &Range<usize>) -> Option<*mut u8> {
        let saved = self.saved();
        let (_, end) = saved.segments.range(..=range.start).next_back()?;
        let backup = saved.backup.as_ref()?;
        (range.end <= *end).then_some(backup.start())
    }

    fn assert_inside(&self, range: &Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= self.len_bytes,
            "bytes {range:?} of a buffer of {}",
            self.len_bytes
        );
    }
}

/// The memory, open for the moment. Ranges are in bytes and lie in the segment that the holder
/// claimed or was told to send; one beyond the buffer is an error of the program and panics.
pub struct Access<'a> {
    buffers: &'a UserMemory,
}

impl Access<'_> {
    /// The rank's own contribution, as the caller gave it.
    pub fn input(&self, range: Range<usize>) -> &[u8] {
        let buffers = self.buffers;
        buffers.assert_inside(&range);
        if buffers.is_in_place()
            && let Some(backup) = buffers.backup_of(&range)
        {
            // SAFETY: inside the backup, which is as long as the buffer at least and stays while an access
            // is under way; a saved segment is only read.
            return unsafe { slice::from_raw_parts(backup.add(range.start), range.len()) };
        }
        // SAFETY: inside the buffer, valid while the access lasts (`new`); nobody writes a segment
        // in place before it is saved, nor a send buffer ever.
        unsafe { slice::from_raw_parts(buffers.send.add(range.start), range.len()) }
    }

    /// What was written to the output.
    pub fn output(&self, range: Range<usize>) -> &[u8] {
        self.buffers.assert_inside(&range);
        // SAFETY: inside the buffer, valid while the access lasts (`new`); the segment is complete,
        // so nobody writes it (see the module's aliasing rule for repeated frames).
        unsafe { slice::from_raw_parts(self.buffers.recv.add(range.start), range.len()) }
    }

    /// Makes a segment ready to be written from its start to `end`: in place, saves what of that is
    /// not saved yet. Costs a copy of each byte, once, in place only.
    ///
    /// A piece at a time, what is overwritten is still in the cache.
    pub fn prepare(&mut self, segment: &Range<usize>, end: usize) {
        let buffers = self.buffers;
        buffers.assert_inside(segment);
        assert!(end <= segment.end, "{end} is behind a segment {segment:?}");
        if !buffers.is_in_place() {
            return;
        }
        let (start, backup) = {
            let saved = &mut *buffers.saved();
            let start = saved.segments.get(&segment.start).copied();
            let start = start.unwrap_or(segment.start);
            if end <= start {
                return;
            }
            let backup = saved
                .backup
                .get_or_insert_with(|| Backup::new(buffers.len_bytes));
            (start, backup.start())
        };
        // SAFETY: both are inside their allocations, as the backup is as long as the buffer at least;
        // the segment is claimed by this access's holder and these bytes are not yet noted as saved, so
        // nobody else reads or writes them in the backup, nor writes them in the buffer.
        let (saved, original) = unsafe {
            (
                slice::from_raw_parts_mut(backup.add(start), end - start),
                slice::from_raw_parts(buffers.recv.add(start), end - start),
            )
        };
        copy_past_cache(saved, original);
        buffers.saved().segments.insert(segment.start, end);
    }

    /// The output, to be written. [`Access::prepare`] came before.
    pub fn output_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        let buffers = self.buffers;
        buffers.assert_inside(&range);
        // SAFETY: inside the buffer, valid while the access lasts (`new`); the segment is claimed
        // by this access's holder alone.
        unsafe { slice::from_raw_parts_mut(buffers.recv.add(range.start), range.len()) }
    }

    /// The output, to be combined with the input beside it; `None` for a segment in place that was
    /// never prepared, whose input would be what was just written.
    pub fn output_and_input(&mut self, range: Range<usize>) -> Option<(&mut [u8], &[u8])> {
        let buffers = self.buffers;
        buffers.assert_inside(&range);
        let input = if buffers.is_in_place() {
            let backup = buffers.backup_of(&range)?;
            // SAFETY: as in `input`.
            unsafe { slice::from_raw_parts(backup.add(range.start), range.len()) }
        } else {
            // SAFETY: inside the send buffer, which nobody writes and which `recv` does not touch.
            unsafe { slice::from_raw_parts(buffers.send.add(range.start), range.len()) }
        };
        // SAFETY: as in `output_mut`; `input` is other memory, the backup or the send buffer.
        let output =
            unsafe { slice::from_raw_parts_mut(buffers.recv.add(range.start), range.len()) };
        Some((output, input))
    }
}

impl Drop for Access<'_> {
    fn drop(&mut self) {
        let before = self.buffers.gate.fetch_sub(ONE_ACCESS, Ordering::AcqRel);
        if accesses(before) == 1
            && before & CLOSED != 0
            && let Some(waker) = lock(&self.buffers.idle_waker).take()
        {
            waker.wake();
        }
    }
}

/// Nothing here panics while it holds a lock, so a poisoned one still holds sound data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory for the tests of this room and of `datapath`, with a safe face.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use std::sync::Arc;

    /// A block that can be lent to an operation and looked at when the operation has ended.
    #[derive(Clone)]
    pub(crate) struct Memory(Arc<Block>);

    struct Block(*mut [u8]);

    // SAFETY: tests look at a block only while no operation has it.
    unsafe impl Send for Block {}
    // SAFETY: as above.
    unsafe impl Sync for Block {}

    impl Drop for Block {
        fn drop(&mut self) {
            // SAFETY: it came from `Box::into_raw`, and every borrower held the `Arc`.
            drop(unsafe { Box::from_raw(self.0) });
        }
    }

    impl Memory {
        pub(crate) fn new(bytes: Vec<u8>) -> Memory {
            Memory(Arc::new(Block(Box::into_raw(bytes.into_boxed_slice()))))
        }

        pub(crate) fn bytes(&self) -> Vec<u8> {
            // SAFETY: the block lives as long as `self`; no operation has it now.
            unsafe { (*self.0.0).to_vec() }
        }

        pub(crate) fn fill(&self, byte: u8) {
            // SAFETY: as in `bytes`.
            unsafe { (*self.0.0).fill(byte) }
        }

        pub(crate) fn lend_in_place(&self) -> UserBuffers {
            self.lend_to(self, Arc::new(()))
        }

        /// As a call that works on it in place lends it.
        pub(crate) fn memory(&self) -> Arc<UserMemory> {
            self.lend_in_place().memory
        }

        /// Input from `self`, output to `recv`; `witness` is dropped with the owner.
        pub(crate) fn lend_to(&self, recv: &Memory, witness: Arc<()>) -> UserBuffers {
            let owner = Box::new((self.clone(), recv.clone(), witness));
            // SAFETY: the owner keeps both blocks alive, and tests leave them alone meanwhile.
            unsafe {
                UserMemory::new(
                    self.0.0.cast::<u8>(),
                    recv.0.0.cast::<u8>(),
                    self.0.0.len().min(recv.0.0.len()),
                    Some(owner),
                )
            }
            .open()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Memory;
    use super::*;

    #[test]
    fn a_revoked_buffer_lets_nobody_in_and_waits_for_who_is_inside() {
        let memory = Memory::new(vec![1, 2, 3, 4]);
        let buffers = memory.lend_in_place();
        let inside = buffers.access().unwrap();
        buffers.revoke();
        assert!(buffers.access().is_none());
        assert!(!buffers.is_idle());
        let mut context = Context::from_waker(Waker::noop());
        assert!(buffers.poll_idle(&mut context).is_pending());
        drop(inside);
        assert!(buffers.is_idle());
        assert!(buffers.poll_idle(&mut context).is_ready());
    }

    #[test]
    fn an_older_opening_stays_shut_when_the_memory_is_opened_again() {
        let memory = Memory::new(vec![0; 4]);
        let first = memory.lend_in_place();
        first.revoke();
        let second = first.memory.open();
        assert!(first.access().is_none());
        first.revoke();
        assert!(
            second.access().is_some(),
            "an older opening cannot close a newer one"
        );
        second.memory.take_back();
        assert!(second.access().is_none());
        assert!(
            second.memory.open().access().is_none(),
            "taken back for good"
        );
    }

    #[test]
    fn in_place_the_input_outlives_the_output_and_comes_back() {
        let memory = Memory::new((0..16).collect());
        let buffers = memory.lend_in_place();
        let mut access = buffers.access().unwrap();
        assert!(access.output_and_input(4..8).is_none());
        access.prepare(&(4..8), 8);
        access.output_mut(4..8).fill(99);
        assert_eq!(access.input(4..8), [4, 5, 6, 7]);
        assert_eq!(access.input(5..7), [5, 6]);
        assert_eq!(access.input(8..10), [8, 9]);
        assert_eq!(access.output(4..6), [99, 99]);
        access.prepare(&(4..8), 8);
        let (output, input) = access.output_and_input(4..8).unwrap();
        assert_eq!((&output[..], input), (&[99u8; 4][..], &[4u8, 5, 6, 7][..]));
        buffers.roll_back();
        assert_eq!(access.output(4..5), [99], "not while it is in use");
        drop(access);
        assert_eq!(buffers.saved_bytes(), 4);
        buffers.revoke();
        buffers.roll_back();
        assert_eq!(memory.bytes(), (0..16).collect::<Vec<u8>>());
    }

    #[test]
    fn a_segment_is_saved_piece_by_piece_and_each_piece_once() {
        let memory = Memory::new((0..16).collect());
        let buffers = memory.lend_in_place();
        let mut access = buffers.access().unwrap();
        access.prepare(&(4..12), 7);
        access.output_mut(4..7).fill(99);
        // A lane broke here; the next one begins anew, with pieces of other sizes.
        access.prepare(&(4..12), 6);
        access.prepare(&(4..12), 9);
        assert!(access.output_and_input(4..10).is_none(), "not saved so far");
        assert_eq!(access.input(4..9), [4, 5, 6, 7, 8]);
        access.output_mut(4..9).fill(98);
        drop(access);
        assert_eq!(buffers.saved_bytes(), 5);
        buffers.revoke();
        buffers.roll_back();
        assert_eq!(memory.bytes(), (0..16).collect::<Vec<u8>>());
    }

    #[test]
    fn out_of_place_the_input_is_never_copied() {
        let (send, recv) = (Memory::new(vec![5; 8]), Memory::new(vec![0; 8]));
        let buffers = send.lend_to(&recv, Arc::new(()));
        let mut access = buffers.access().unwrap();
        access.prepare(&(0..8), 8);
        access.output_mut(0..8).fill(9);
        let (output, input) = access.output_and_input(0..8).unwrap();
        output.copy_from_slice(input);
        drop(access);
        assert_eq!(buffers.saved_bytes(), 0);
        assert!(buffers.memory.saved().backup.is_none());
        assert_eq!(recv.bytes(), [5; 8]);
    }

    #[test]
    fn the_owner_is_dropped_when_the_memory_goes_back() {
        let witness = std::sync::Arc::new(());
        let mut byte = 0u8;
        let owner: Box<dyn Any + Send> = Box::new(witness.clone());
        // SAFETY: `byte` outlives the buffers and is not touched meanwhile.
        let buffers = unsafe { UserMemory::new(&byte, &mut byte, 1, Some(owner)) };
        assert_eq!(
            std::sync::Arc::strong_count(&witness),
            2,
            "not while it is lent"
        );
        drop(buffers);
        assert_eq!(std::sync::Arc::strong_count(&witness), 1);
    }

    #[test]
    #[should_panic(expected = "of a buffer of 4")]
    fn a_range_beyond_the_buffer_is_refused() {
        let memory = Memory::new(vec![0; 4]);
        let buffers = memory.lend_in_place();
        let mut access = buffers.access().unwrap();
        access.output_mut(2..5).fill(0);
    }
}
