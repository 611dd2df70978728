//! I8: after a communicator is destroyed no task, socket, timer or buffer of it remains.

use std::collections::BTreeSet;

use super::{Checker, End};
use crate::sim::history::{Event, Life, ProcessId, Record};

/// See the module's text.
#[derive(Debug, Default)]
pub struct NothingLeftOver {
    living: BTreeSet<(ProcessId, Life)>,
}

impl Checker for NothingLeftOver {
    fn invariant(&self) -> &'static str {
        "nothing_left_over"
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        let process = record.process;
        match &record.event {
            Event::LifeBegan(life) => {
                self.living.insert((process, *life));
            }
            Event::Died => self.living.retain(|(of, _)| *of != process),
            Event::LifeEnded {
                life,
                sockets,
                tasks,
                buffers,
            } => {
                self.living.remove(&(process, *life));
                if sockets + tasks + buffers > 0 {
                    return Err(format!(
                        "communicator {life} of {process} left {sockets} sockets, {tasks} tasks \
                         and {buffers} buffers"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, _: &End) -> Result<(), String> {
        match self.living.first() {
            Some((process, life)) => Err(format!(
                "communicator {life} of {process} never came to its end"
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn ended(sockets: usize, tasks: usize, buffers: usize) -> Event {
        Event::LifeEnded {
            life: 0,
            sockets,
            tasks,
            buffers,
        }
    }

    #[test]
    fn nothing_left_is_right() {
        let mut story = Story::of_two(NothingLeftOver::default());
        story.tell(1, ended(0, 0, 0));
        story.tell(2, Event::Died);
        story.end(&[]).unwrap();
    }

    #[test]
    fn a_socket_a_task_or_a_buffer_is_seen() {
        for left in [ended(1, 0, 0), ended(0, 1, 0), ended(0, 0, 1)] {
            let mut story = Story::of_two(NothingLeftOver::default());
            assert!(story.try_tell(1, left).is_err());
        }
    }

    #[test]
    fn a_communicator_that_does_not_end_is_seen() {
        let mut story = Story::of_two(NothingLeftOver::default());
        story.tell(1, ended(0, 0, 0));
        assert!(story.end(&[]).is_err());
    }
}
