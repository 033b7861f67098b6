//! What probes have shown of one endpoint: a state machine without clock and sockets.
//!
//! Two things are kept apart. *Up or down* is about readiness and takes some probes in a row to change, but for the very
//! first one, since nothing speaks against it. *Verified or not* is about identity: one handshake decides, and a probe that
//! saw no certificate (a timeout, a refused connect, a connection that was kept) says nothing about it.

use crate::config::HealthCheck;

/// What is thought of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether it is ready for new connections.
    pub up: bool,
    /// Whether it has proved who it is, or need not.
    pub verified: bool,
}

impl State {
    /// Whether it may get new connections.
    pub fn is_well(self) -> bool {
        self.up && self.verified
    }
}

/// What one probe says about who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: nobody was asked, or nobody showed a certificate.
    None,
    /// It is who it should be.
    Given,
    /// It is not, or cannot show that it is.
    Failed,
}

/// What is thought of an endpoint, and what it takes to change that.
#[derive(Clone, Debug)]
pub struct Health {
    state: State,
    rise: u32,
    fall: u32,
    /// Probes in a row that speak against `state.up`.
    against: u32,
    probed: bool,
}

impl Health {
    /// An endpoint that nothing is known of: up, and unverified if it has to prove who it is.
    pub fn new(check: Option<&HealthCheck>) -> Self {
        let verified = !check.is_some_and(HealthCheck::asks_for_proof);
        let (rise, fall) = check.map_or((1, 1), |check| (check.rise, check.fall));
        Self { state: State { up: true, verified }, rise, fall, against: 0, probed: false }
    }

    /// As somebody else has left it.
    pub fn resumed(check: &HealthCheck, state: State) -> Self {
        Self { state, probed: true, ..Self::new(Some(check)) }
    }

    /// What is thought of it now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes in one probe. Returns whether the state has changed.
    ///
    /// One that failed for identity alone says nothing about readiness: `passed` is `None` then.
    pub fn note(&mut self, passed: Option<bool>, proof: Proof) -> bool {
        let before = self.state;
        match proof {
            Proof::None => {}
            Proof::Given => self.state.verified = true,
            Proof::Failed => self.state.verified = false,
        }
        if let Some(passed) = passed {
            self.count(passed);
        }
        self.state != before
    }

    fn count(&mut self, passed: bool) {
        let first = !std::mem::replace(&mut self.probed, true);
        if passed == self.state.up {
            self.against = 0;
            return;
        }
        self.against += 1;
        let needed = match passed {
            _ if first => 1,
            true => self.rise,
            false => self.fall,
        };
        if self.against >= needed {
            self.state.up = passed;
            self.against = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pin, Question, TlsQuestion};
    use std::time::Duration;

    fn health(rise: u32, fall: u32, proof: bool) -> Health {
        let pins = if proof { vec![Pin([0; 32])] } else { Vec::new() };
        let question = Question::Tls(TlsQuestion { pins, ..TlsQuestion::default() });
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(3));
        Health::new(Some(&HealthCheck { question, interval, timeout, rise, fall }))
    }

    const UP: State = State { up: true, verified: true };
    const DOWN: State = State { up: false, verified: true };
    const UNVERIFIED: State = State { up: true, verified: false };

    /// The states after each of these probes; `note` tells of every change, and of nothing else.
    fn states(mut health: Health, probes: &[(Option<bool>, Proof)]) -> Vec<State> {
        let after = |&(passed, proof)| {
            let before = health.state();
            assert_eq!(health.note(passed, proof), health.state() != before);
            health.state()
        };
        probes.iter().map(after).collect()
    }

    fn up_down(health: Health, passed: &[bool]) -> Vec<bool> {
        let probes: Vec<_> = passed.iter().map(|passed| (Some(*passed), Proof::None)).collect();
        states(health, &probes).into_iter().map(|state| state.up).collect()
    }

    #[test]
    fn without_a_check_an_endpoint_is_up_and_need_not_prove_anything() {
        assert_eq!(Health::new(None).state(), UP);
        assert_eq!(health(2, 2, false).state(), UP);
        assert_eq!(health(2, 2, true).state(), UNVERIFIED);
    }

    #[test]
    fn changes_take_probes_in_a_row() {
        let passed = [true, false, false, true, false, false, false, true, true, false, true, true, true];
        let up = [true, true, true, true, true, true, false, false, false, false, false, false, true];
        assert_eq!(up_down(health(3, 3, false), &passed), up);
        assert_eq!(up_down(health(1, 1, false), &passed), passed);
    }

    #[test]
    fn the_first_probe_decides_alone() {
        assert_eq!(up_down(health(2, 3, false), &[false, true, true, false]), [false, false, true, true]);
        assert_eq!(up_down(health(2, 3, false), &[true, false, false, false]), [true, true, true, false]);
    }

    #[test]
    fn only_a_handshake_says_who_it_is() {
        let probes = [
            (Some(false), Proof::None),
            (Some(true), Proof::Given),
            (Some(true), Proof::None),
            (Some(true), Proof::None),
            (None, Proof::Failed),
            (Some(true), Proof::None),
            (Some(false), Proof::None),
            (Some(false), Proof::None),
            (Some(true), Proof::Given),
            (Some(true), Proof::None),
            (Some(true), Proof::None),
        ];
        let neither = State { up: false, verified: false };
        let expected = [neither, DOWN, DOWN, UP, UNVERIFIED, UNVERIFIED, UNVERIFIED, neither, DOWN, DOWN, UP];
        assert_eq!(states(health(3, 2, true), &probes), expected);
    }

    #[test]
    fn a_failed_identity_says_nothing_about_readiness() {
        let failed = (None, Proof::Failed);
        let states = states(health(2, 2, true), &[failed, failed, failed, (Some(true), Proof::Given)]);
        assert_eq!(states, [UNVERIFIED, UNVERIFIED, UNVERIFIED, UP]);
    }

    #[test]
    fn an_endpoint_proves_itself_though_it_is_not_ready() {
        let states = states(health(2, 2, true), &[(Some(false), Proof::Given), (Some(true), Proof::Given)]);
        assert_eq!(states, [DOWN, DOWN]);
    }
}
