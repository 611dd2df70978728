//! Safe ways to lend memory to the data path: each takes the memory back, by revoking it and
//! waiting for the short accesses under way, before its owner can see it again.
#![allow(unsafe_code)]

use std::any::Any;
use std::sync::{Arc, Mutex};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{UserMemory, lock};

/// Memory to lend.
#[derive(Debug)]
pub enum Lendable<'a> {
    /// Input and output, of equal lengths.
    Apart {
        /// The input.
        send: &'a [u8],
        /// The output.
        recv: &'a mut [u8],
    },
    /// Input and output in one.
    InPlace(&'a mut [u8]),
}

/// Lends memory for the time of `work`.
///
/// # Panics
///
/// If an input and its output have different lengths.
pub fn lend<R>(memory: Lendable<'_>, work: impl FnOnce(&Arc<UserMemory>) -> R) -> R {
    lend_all(std::iter::once(memory), |buffers| work(&buffers[0]))
}

/// Lends several pieces of memory for the time of `work`.
///
/// # Panics
///
/// If an input and its output have different lengths.
pub fn lend_all<'a, R>(
    memory: impl Iterator<Item = Lendable<'a>>,
    work: impl FnOnce(&[Arc<UserMemory>]) -> R,
) -> R {
    let lent = memory.map(|memory| {
        let (send, recv, len_bytes) = match memory {
            Lendable::Apart { send, recv } => {
                assert_eq!(
                    send.len(),
                    recv.len(),
                    "input and output have equal lengths"
                );
                (send.as_ptr(), recv.as_mut_ptr(), recv.len())
            }
            Lendable::InPlace(buffer) => {
                let start = buffer.as_mut_ptr();
                (start.cast_const(), start, buffer.len())
            }
        };
        // SAFETY: borrows are valid, those of an input and its output lie apart, and all last
        // until `Lent` has taken the memory back.
        unsafe { UserMemory::new(send, recv, len_bytes, None) }
    });
    let lent = Lent(lent.collect());
    work(&lent.0)
}

/// Takes memory back when dropped, also while a panic unwinds.
struct Lent(Vec<Arc<UserMemory>>);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.iter().for_each(|memory| memory.take_back());
    }
}

/// A book of loans that are all taken back before [`with_loans`] returns.
#[derive(Default)]
pub struct Loans {
    lent: Mutex<Vec<Arc<UserMemory>>>,
}

/// Memory that outlives `'scope` can be lent inside `work`; `settle` is called first in the end,
/// also after a panic, and may wait for whoever uses it.
pub fn with_loans<R>(settle: impl FnOnce(), work: impl FnOnce(&Loans) -> R) -> R {
    struct Settled<'a, S: FnOnce()>(&'a Loans, Option<S>);
    impl<S: FnOnce()> Drop for Settled<'_, S> {
        fn drop(&mut self) {
            if let Some(settle) = self.1.take() {
                settle();
            }
            lock(&self.0.lent)
                .iter()
                .for_each(|memory| memory.take_back());
        }
    }
    let loans = Loans::default();
    let _settled = Settled(&loans, Some(settle));
    work(&loans)
}

impl Loans {
    /// Lends input and output.
    ///
    /// # Safety
    ///
    /// Both stay borrowed until [`with_loans`] returns, and have equal lengths.
    pub unsafe fn lend(&self, send: &[u8], recv: &mut [u8]) -> Arc<UserMemory> {
        // SAFETY: valid and apart, as two borrows are; the caller keeps them borrowed.
        self.note(unsafe {
            UserMemory::new(
                send.as_ptr(),
                recv.as_mut_ptr(),
                recv.len().min(send.len()),
                None,
            )
        })
    }

    /// Lends one buffer as input and output.
    ///
    /// # Safety
    ///
    /// It stays borrowed until [`with_loans`] returns.
    pub unsafe fn lend_in_place(&self, buffer: &mut [u8]) -> Arc<UserMemory> {
        let start = buffer.as_mut_ptr();
        // SAFETY: valid; the caller keeps it borrowed.
        self.note(unsafe { UserMemory::new(start, start, buffer.len(), None) })
    }

    fn note(&self, memory: Arc<UserMemory>) -> Arc<UserMemory> {
        lock(&self.lent).push(memory.clone());
        memory
    }
}

/// A vector that belongs to the data path until it is taken back. Dropping it leaves the vector
/// alive for as long as the data path needs it.
pub struct OwnedVec<T> {
    vec: Arc<Mutex<Option<Vec<T>>>>,
    memory: Arc<UserMemory>,
}

impl<T: IntoBytes + FromBytes + Immutable + Send + 'static> OwnedVec<T> {
    /// Gives a vector away as input and output.
    pub fn new(mut vec: Vec<T>) -> Self {
        let bytes = vec.as_mut_slice().as_mut_bytes();
        let (start, len_bytes) = (bytes.as_mut_ptr(), bytes.len());
        let vec = Arc::new(Mutex::new(Some(vec)));
        let owner: Box<dyn Any + Send> = Box::new(vec.clone());
        // SAFETY: the owner keeps the vector's heap block where it is; it is moved out only by
        // `take_back`, after revoking.
        let memory = unsafe { UserMemory::new(start, start, len_bytes, Some(owner)) };
        Self { vec, memory }
    }

    /// The memory, for the data path.
    pub fn memory(&self) -> &Arc<UserMemory> {
        &self.memory
    }

    /// Takes the vector back; no access to it begins any more.
    pub fn take_back(self) -> Vec<T> {
        self.memory.take_back();
        lock(&self.vec).take().unwrap_or_default()
    }
}

type Pair<T> = (Vec<T>, Vec<T>);

/// Two vectors, an input and an output, that belong to the data path until they are taken back.
/// Dropping them leaves both alive for as long as the data path needs them.
pub struct OwnedPair<T> {
    vecs: Arc<Mutex<Option<Pair<T>>>>,
    memory: Arc<UserMemory>,
}

impl<T: IntoBytes + FromBytes + Immutable + Send + 'static> OwnedPair<T> {
    /// Gives two vectors of equal lengths away.
    ///
    /// # Panics
    ///
    /// If their lengths differ.
    pub fn new(send: Vec<T>, mut recv: Vec<T>) -> Self {
        assert_eq!(
            send.len(),
            recv.len(),
            "input and output have equal lengths"
        );
        let input = send.as_slice().as_bytes().as_ptr();
        let output = recv.as_mut_slice().as_mut_bytes();
        let (start, len_bytes) = (output.as_mut_ptr(), output.len());
        let vecs = Arc::new(Mutex::new(Some((send, recv))));
        let owner: Box<dyn Any + Send> = Box::new(vecs.clone());
        // SAFETY: the owner keeps the heap blocks of both, which lie apart, where they are; they
        // are moved out only by `take_back`, after revoking.
        let memory = unsafe { UserMemory::new(input, start, len_bytes, Some(owner)) };
        Self { vecs, memory }
    }

    /// The memory, for the data path.
    pub fn memory(&self) -> &Arc<UserMemory> {
        &self.memory
    }

    /// Takes both back; no access to them begins any more.
    pub fn take_back(self) -> (Vec<T>, Vec<T>) {
        self.memory.take_back();
        lock(&self.vecs).take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lent_memory_is_closed_when_its_owner_sees_it_again() {
        let (send, mut recv) = ([1u8; 4], [0u8; 4]);
        let kept = lend(
            Lendable::Apart {
                send: &send,
                recv: &mut recv,
            },
            |memory| {
                let buffers = memory.open();
                buffers.access().unwrap().output_mut(0..4).fill(7);
                buffers
            },
        );
        assert!(kept.access().is_none());
        assert_eq!(recv, [7; 4]);
    }

    #[test]
    fn a_panic_takes_lent_memory_back() {
        let mut buffer = [0u8; 4];
        let mut kept = None;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            lend(Lendable::InPlace(&mut buffer), |memory| {
                kept = Some(memory.open());
                panic!("while lent");
            })
        }));
        assert!(result.is_err());
        assert!(kept.unwrap().access().is_none());
    }

    #[test]
    fn a_vector_given_away_comes_back_and_outlives_its_handle() {
        let owned = OwnedVec::new(vec![1u32, 2, 3]);
        owned
            .memory()
            .open()
            .access()
            .unwrap()
            .output_mut(0..4)
            .copy_from_slice(&9u32.to_ne_bytes());
        assert_eq!(owned.take_back(), [9, 2, 3]);

        let owned = OwnedVec::new(vec![1u8; 8]);
        let buffers = owned.memory().open();
        drop(owned);
        assert_eq!(buffers.access().unwrap().input(0..8), [1; 8]);
    }

    #[test]
    fn a_pair_given_away_comes_back_with_its_input_as_it_was() {
        let owned = OwnedPair::new(vec![1u8; 4], vec![0u8; 4]);
        let buffers = owned.memory().open();
        buffers.access().unwrap().output_mut(0..2).fill(7);
        assert_eq!(buffers.access().unwrap().input(0..4), [1; 4]);
        assert_eq!(owned.take_back(), (vec![1; 4], vec![7, 7, 0, 0]));
        assert!(buffers.access().is_none());
    }
}
