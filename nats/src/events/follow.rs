//! What is served while the stream is followed, pure: the last good state, until a rebuild has caught up.

use crate::events::link::{Delivery, Report};
use ployz_core::routing::credible::Grounds;
use ployz_core::routing::{Applied, Event, Fold, State, Unreadable, Value};

/// What a report means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing to be served differently; not a sign of life of what is served either.
    Nothing,
    /// The stream is there, and what is served is where it is.
    Alive,
    /// What is served has changed.
    Changed,
    /// The rebuild has caught up; whether what is served differs from before.
    Caught(bool),
    /// A message was missed: a new link is needed.
    Gap,
}

/// The state that is served, and the one that is being built.
#[derive(Debug)]
pub(crate) struct Follow {
    /// What of it is kept.
    reads: fn(&Value) -> bool,
    /// What of it is believed.
    grounds: Grounds,
    last: State,
    sequence: u64,
    fold: Option<Fold>,
    caught: bool,
}

impl Follow {
    /// Begins with a state from elsewhere; keeps only values that are read.
    pub fn from(state: State, sequence: u64, reads: fn(&Value) -> bool, grounds: Grounds) -> Self {
        Self { reads, grounds, last: state, sequence, fold: None, caught: false }
    }

    /// What is to be served.
    pub fn state(&self) -> &State {
        match &self.fold {
            Some(fold) if self.caught => fold.state(),
            _ => &self.last,
        }
    }

    /// Where in the stream that is.
    pub fn sequence(&self) -> u64 {
        match &self.fold {
            Some(fold) if self.caught => fold.sequence(),
            _ => self.sequence,
        }
    }

    /// Whether what is served follows the stream.
    pub fn caught(&self) -> bool {
        self.caught
    }

    /// The link is over: what was served last stays.
    pub fn lost(&mut self) {
        let fold = self.fold.take().filter(|_| self.caught);
        if let Some(fold) = fold {
            self.sequence = fold.sequence();
            self.last = fold.into_state();
        }
        self.caught = false;
    }

    /// Takes in a report, [`Report::Lost`] excepted; and what it said that could not be read.
    pub fn take(&mut self, report: Report) -> (Step, Option<Unreadable>) {
        match report {
            Report::Opened { empty } => {
                self.lost();
                self.fold = Some(Fold::default());
                (if empty { self.catch() } else { Step::Nothing }, None)
            }
            Report::Message(delivery) => self.message(*delivery),
            Report::Heartbeat { sent, idle } => (self.heartbeat(sent, idle), None),
            Report::Lost(_) => {
                self.lost();
                (Step::Nothing, None)
            }
        }
    }

    fn message(&mut self, message: Delivery) -> (Step, Option<Unreadable>) {
        let Some(fold) = &mut self.fold else { return (Step::Nothing, None) };
        let Delivery { delivery, sequence, pending, event } = message;
        let (event, unreadable) = match event {
            Ok(event) => (Some(event), None),
            Err(said) => (said.event(), Some(said)),
        };
        let reads = self.reads;
        let grounds = self.grounds;
        let event = event.map(|event| {
            let credible = grounds.credible(&event);
            if !credible {
                tracing::warn!(key = %event.key, "a routing event names addresses that cannot be its own: not believed");
            }
            Event { value: event.value.filter(|value| credible && reads(value)), ..event }
        });
        let applied = fold.take(delivery, sequence, event);
        let step = match applied {
            Applied::Gap => Step::Gap,
            _ if !self.caught && pending == 0 => self.catch(),
            _ if !self.caught => Step::Nothing,
            Applied::Changed => Step::Changed,
            Applied::Same => Step::Alive,
        };
        (step, unreadable)
    }

    fn heartbeat(&mut self, sent: u64, idle: bool) -> Step {
        let Some(fold) = &self.fold else { return Step::Nothing };
        match fold.heard(sent) {
            Applied::Gap => Step::Gap,
            _ if self.caught => Step::Alive,
            // Nothing is left to be sent, and the last one did not say so: its successor was replaced meanwhile.
            _ if idle => self.catch(),
            _ => Step::Nothing,
        }
    }

    fn catch(&mut self) -> Step {
        self.caught = true;
        let before = std::mem::take(&mut self.last);
        Step::Caught(*self.state() != before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::link::Lost;
    use ployz_core::routing::Key;

    /// Without a plan everything is believed.
    fn grounds() -> Grounds {
        let network = ployz_core::id::NetworkId::from_bytes([7; 16]);
        Grounds { overlay: ployz_core::address::OverlayPrefix::of(&network), plan: None }
    }

    fn machine(n: u8, delivery: u64, pending: u64) -> Report {
        let text = format!(r#"{{"kind":"machine","overlay_ip":"fd00::{n}","subnet":"10.101.{n}.0/24"}}"#);
        let event = Event::parse(&format!("machine.n{n}"), text.as_bytes());
        Report::Message(Box::new(Delivery { delivery, sequence: delivery + 100, pending, event }))
    }

    fn step(follow: &mut Follow, report: Report) -> Step {
        follow.take(report).0
    }

    fn follow() -> Follow {
        Follow::from(State::default(), 0, |_| true, grounds())
    }

    fn opened() -> Report {
        Report::Opened { empty: false }
    }

    #[test]
    fn half_of_a_rebuild_is_never_served() {
        let mut follow = follow();
        assert_eq!(step(&mut follow, opened()), Step::Nothing);
        assert_eq!(step(&mut follow, machine(1, 1, 1)), Step::Nothing);
        assert_eq!((follow.state().machines.len(), follow.sequence()), (0, 0));
        assert_eq!(step(&mut follow, machine(2, 2, 0)), Step::Caught(true));
        assert_eq!((follow.state().machines.len(), follow.sequence()), (2, 102));
        assert_eq!(step(&mut follow, machine(3, 3, 0)), Step::Changed);
        assert_eq!(step(&mut follow, machine(3, 4, 0)), Step::Alive, "nothing new");
        for report in [Report::Lost(Lost::Silent), opened(), machine(9, 1, 1)] {
            assert_eq!(step(&mut follow, report), Step::Nothing);
            assert_eq!((follow.state().machines.len(), follow.sequence()), (3, 104), "the last good one");
        }
        assert_eq!(step(&mut follow, machine(8, 2, 0)), Step::Caught(true));
        assert_eq!(follow.state().machines.len(), 2);
    }

    #[test]
    fn a_rebuild_to_the_same_state_says_so() {
        let mut follow = follow();
        step(&mut follow, opened());
        assert_eq!(step(&mut follow, machine(1, 1, 0)), Step::Caught(true));
        step(&mut follow, opened());
        assert_eq!(step(&mut follow, machine(1, 1, 0)), Step::Caught(false));
    }

    #[test]
    fn heartbeats_end_a_rebuild_only_when_nothing_is_left() {
        let mut follow = follow();
        step(&mut follow, opened());
        step(&mut follow, machine(1, 1, 5));
        assert_eq!(step(&mut follow, Report::Heartbeat { sent: 1, idle: false }), Step::Nothing);
        assert_eq!(step(&mut follow, Report::Heartbeat { sent: 1, idle: true }), Step::Caught(true));
        assert_eq!(step(&mut follow, Report::Heartbeat { sent: 1, idle: true }), Step::Alive);
        assert_eq!(step(&mut follow, Report::Heartbeat { sent: 2, idle: true }), Step::Gap);
    }

    #[test]
    fn an_empty_stream_is_known_at_once() {
        let mut follow = follow();
        assert_eq!(step(&mut follow, Report::Opened { empty: true }), Step::Caught(false));
        assert!(follow.caught());
    }

    #[test]
    fn what_cannot_be_read_is_said_and_counts_as_gone() {
        let mut follow = follow();
        step(&mut follow, opened());
        step(&mut follow, machine(1, 1, 0));
        let event = Event::parse("machine.n1", b"{");
        let damaged = Report::Message(Box::new(Delivery { delivery: 2, sequence: 200, pending: 0, event }));
        let (step, said) = follow.take(damaged);
        assert!(step == Step::Changed && said.is_some() && follow.state().machines.is_empty());
    }

    #[test]
    fn what_is_not_read_is_not_kept_and_what_is_not_read_any_more_goes() {
        let low =
            |value: &Value| matches!(value, Value::Machine(route) if route.overlay_ip.segments()[7] < 5);
        let mut follow = Follow::from(State::default(), 0, low, grounds());
        step(&mut follow, opened());
        step(&mut follow, machine(1, 1, 1));
        assert_eq!(step(&mut follow, machine(8, 2, 0)), Step::Caught(true));
        let names =
            |follow: &Follow| follow.state().machines.keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!((names(&follow), follow.sequence()), (vec!["n1".to_owned()], 102));
        assert_eq!(step(&mut follow, machine(8, 3, 0)), Step::Alive, "nothing is different");
        let Report::Message(mut high) = machine(8, 4, 0) else { unreachable!() };
        high.event = high.event.map(|event| Event { key: Key::Machine("n1".parse().unwrap()), ..event });
        assert_eq!(step(&mut follow, Report::Message(high)), Step::Changed);
        assert_eq!(names(&follow), Vec::<String>::new());
    }
}
