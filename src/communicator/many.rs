//! Many operations with a limit in flight, each retried until it commits.

use std::collections::BTreeSet;
use std::sync::mpsc;

use zerocopy::IntoBytes;

use super::completion::respond;
use super::{Communicator, Element, ErrorFeedback, ReduceOptions, ReduceReport, same_length};
use crate::driver::ReduceMemory;
use crate::engine::{Lendable, lend_all};
use crate::error::{CollectiveError, Gone};
use crate::types::{DataType, Descriptor, Quantization, Tag};

/// One operation of [`Communicator::all_reduce_many`].
#[derive(Debug)]
#[must_use = "nothing happens before all_reduce_many is given it"]
pub struct Reduce<'a> {
    memory: Lendable<'a>,
    lengths: Result<u64, CollectiveError>,
    data_type: DataType,
    options: ReduceOptions,
    feedback: Option<&'a mut ErrorFeedback>,
    report: Option<ReduceReport>,
}

impl<'a> Reduce<'a> {
    /// From `send` into `recv`.
    pub fn new<T: Element>(send: &'a [T], recv: &'a mut [T], options: ReduceOptions) -> Self {
        Self {
            lengths: same_length(send.len(), recv.len()).map(|()| send.len() as u64),
            memory: Lendable::Apart {
                send: send.as_bytes(),
                recv: recv.as_mut_bytes(),
            },
            data_type: T::DATA_TYPE,
            options,
            feedback: None,
            report: None,
        }
    }

    /// In place.
    pub fn in_place<T: Element>(buffer: &'a mut [T], options: ReduceOptions) -> Self {
        Self {
            lengths: Ok(buffer.len() as u64),
            memory: Lendable::InPlace(buffer.as_mut_bytes()),
            data_type: T::DATA_TYPE,
            options,
            feedback: None,
            report: None,
        }
    }

    /// From `send` into `recv`, elements of `data_type` at any alignment.
    pub fn bytes(
        send: &'a [u8],
        recv: &'a mut [u8],
        data_type: DataType,
        options: ReduceOptions,
    ) -> Self {
        Self {
            lengths: same_length(send.len(), recv.len())
                .and_then(|()| whole_elements(send.len(), data_type)),
            memory: Lendable::Apart { send, recv },
            data_type,
            options,
            feedback: None,
            report: None,
        }
    }

    /// In place, elements of `data_type` at any alignment.
    pub fn bytes_in_place(
        buffer: &'a mut [u8],
        data_type: DataType,
        options: ReduceOptions,
    ) -> Self {
        Self {
            lengths: whole_elements(buffer.len(), data_type),
            memory: Lendable::InPlace(buffer),
            data_type,
            options,
            feedback: None,
            report: None,
        }
    }

    /// Adds what quantization dropped the last time, and keeps what it drops now; see [`ErrorFeedback`].
    /// Without a [quantization](ReduceOptions::quantization) nothing is dropped, and it is left alone.
    pub fn feedback(mut self, feedback: &'a mut ErrorFeedback) -> Self {
        self.feedback = self.options.quantization.map(|_| feedback);
        self
    }

    /// What it did, if it was committed.
    pub fn report(&self) -> Option<&ReduceReport> {
        self.report.as_ref()
    }
}

fn whole_elements(len_bytes: usize, data_type: DataType) -> Result<u64, CollectiveError> {
    let size = data_type.size_bytes();
    if len_bytes.is_multiple_of(size) {
        return Ok((len_bytes / size) as u64);
    }
    Err(CollectiveError::InvalidArgument {
        field: "send",
        reason: format!("{len_bytes} bytes are no whole number of {data_type} elements"),
    })
}

pub(super) fn run(
    communicator: &Communicator,
    operations: &mut [Reduce<'_>],
    max_in_flight: usize,
) -> Result<ReduceReport, CollectiveError> {
    let described = describe(operations, max_in_flight)?;
    let mut reports: Vec<Option<ReduceReport>> = vec![None; operations.len()];
    let count = operations.len();
    let mut residuals = Vec::new();
    let mut residual_of = vec![None; count];
    let mut memory = Vec::with_capacity(count);
    for (index, operation) in operations.iter_mut().enumerate() {
        memory.push(match &mut operation.memory {
            Lendable::Apart { send, recv } => Lendable::Apart { send, recv },
            Lendable::InPlace(buffer) => Lendable::InPlace(buffer),
        });
        if let Some(feedback) = &mut operation.feedback {
            residual_of[index] = Some(count + residuals.len());
            residuals.push(feedback.lend());
        }
    }
    let memory = memory.into_iter().chain(residuals);
    // A deadline of one's own would pass again and again.
    let is_own_deadline = |error: &CollectiveError, index: usize| {
        matches!(error, CollectiveError::DeadlinePassed { .. })
            && described[index].1.deadline.is_some()
    };
    let failure = lend_all(memory, |buffers| {
        let (sender, outcomes) = mpsc::channel();
        let mut waiting: BTreeSet<usize> = (0..count).collect();
        let mut in_flight = 0;
        let mut failure = None;
        loop {
            while failure.is_none()
                && in_flight < max_in_flight
                && let Some(index) = waiting.pop_first()
            {
                let (descriptor, options) = described[index];
                let sender = sender.clone();
                let respond = respond(move |outcome| {
                    let _ = sender.send((index, outcome));
                });
                let memory = ReduceMemory {
                    buffers: buffers[index].clone(),
                    residual: residual_of[index].map(|residual| buffers[residual].clone()),
                };
                communicator.command_all_reduce(memory, descriptor, &options, respond);
                in_flight += 1;
            }
            if in_flight == 0 {
                return failure;
            }
            let Ok((index, outcome)) = outcomes.recv() else {
                return Some(Gone::Closed.into());
            };
            in_flight -= 1;
            match outcome {
                Ok(report) => reports[index] = Some(report),
                Err(error) if error.is_retryable() && !is_own_deadline(&error, index) => {
                    waiting.insert(index);
                }
                // What is in flight is waited for; nothing more is launched.
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
    });
    let mut total: Option<ReduceReport> = None;
    for (operation, report) in operations.iter_mut().zip(reports) {
        if let Some(report) = &report {
            total = Some(add(total, report));
            if let Some(feedback) = &mut operation.feedback {
                feedback.commit();
            }
        }
        operation.report = report;
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(total.unwrap_or_default()),
    }
}

fn describe(
    operations: &[Reduce<'_>],
    max_in_flight: usize,
) -> Result<Vec<(Descriptor, ReduceOptions)>, CollectiveError> {
    if max_in_flight == 0 {
        let reason = "at least one operation must be in flight".to_owned();
        return Err(CollectiveError::InvalidArgument {
            field: "max_in_flight",
            reason,
        });
    }
    let mut tags: BTreeSet<Tag> = BTreeSet::new();
    let mut described = Vec::with_capacity(operations.len());
    for operation in operations {
        let (data_type, options) = (operation.data_type, operation.options);
        if !tags.insert(options.tag) {
            let reason = format!("two operations have tag {}", options.tag);
            return Err(CollectiveError::InvalidArgument {
                field: "operations",
                reason,
            });
        }
        let count = operation.lengths.clone()?;
        if let Some(feedback) = &operation.feedback {
            check_feedback(feedback, count, data_type, &options)?;
        }
        described.push((options.descriptor(count, data_type)?, options));
    }
    Ok(described)
}

fn check_feedback(
    feedback: &ErrorFeedback,
    count: u64,
    data_type: DataType,
    options: &ReduceOptions,
) -> Result<(), CollectiveError> {
    let elements = feedback.residual().len();
    let checked = if elements as u64 == count {
        Quantization::check_feedback(data_type, options.op)
    } else {
        Err(format!(
            "it is of {elements} elements where the buffer has {count}"
        ))
    };
    checked.map_err(|reason| CollectiveError::InvalidArgument {
        field: "feedback",
        reason,
    })
}

/// Sums the traffic and keeps the smaller contributor set.
fn add(total: Option<ReduceReport>, report: &ReduceReport) -> ReduceReport {
    let Some(total) = total else {
        return report.clone();
    };
    let smaller = if report.world_size < total.world_size {
        report
    } else {
        &total
    };
    ReduceReport {
        world_size: smaller.world_size,
        contributors: smaller.contributors.clone(),
        tx_bytes: total.tx_bytes + report.tx_bytes,
        rx_bytes: total.rx_bytes + report.rx_bytes,
    }
}
