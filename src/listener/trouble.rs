//! When accepting fails, or there are as many connections as there may be: nobody spins, and nobody is left waiting
//! without a word for long.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::Reception;
use crate::crew::Crew;
use crate::limits::{Seat, Seats, Undecided};
use crate::outcome::Reason;
use crate::snapshot::Entrance;

/// The pause after the kernel ran short of something, doubled each time it still does.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a client may wait for a seat when there are as many connections as there may be. Longer would help nobody:
/// who hangs in a backlog learns nothing, and who is refused can go elsewhere or come again.
const WAIT_FOR_SEAT: Duration = Duration::from_secs(1);
/// How often it looks for one meanwhile.
const SEAT_CHECK: Duration = Duration::from_millis(10);
/// At most one line about one kind of trouble in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// Accepts that fail for want of descriptors or memory: when to try again, and when to complain.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    pause: Duration,
    began: Option<Instant>,
    complaints: Complaints,
}

impl Trouble {
    pub(super) fn pause_for(&mut self, error: &io::Error, listener: &str) -> Duration {
        self.pause = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.began.get_or_insert_with(Instant::now);
        if self.complaints.is_due() {
            tracing::error!(listener, %error, pause = ?self.pause, "cannot accept connections");
        }
        self.pause
    }

    /// Whether those who wait should be told.
    pub(super) fn lasts(&self) -> bool {
        self.began.is_some_and(|began| began.elapsed() >= WAIT_FOR_SEAT)
    }

    pub(super) fn is_over(&mut self) {
        (self.pause, self.began) = (Duration::ZERO, None);
    }
}

/// As many connections as there may be.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// Until when those who find no seat may wait for one, all of them together: each in its turn, the last in the backlog
    /// would wait for minutes. It begins anew with the next one after there was a seat at once, a second later or more, by
    /// which time nobody is left who waited before.
    patience: Option<Instant>,
    /// Whose turn it is of the other workers to be asked.
    turn: usize,
    complaints: Complaints,
}

impl Crowd {
    /// A seat for one more; if need be by taking that of the client of this worker that has been without a route for
    /// longest, or by asking the others for such a one and waiting a while.
    pub(super) async fn seat(
        &mut self,
        seats: &Arc<Seats>,
        undecided: &Undecided,
        crew: &Crew,
        listener: &str,
    ) -> Option<Seat> {
        loop {
            if let Some(seat) = seats.take() {
                self.patience = self.patience.filter(|end| end.elapsed() < WAIT_FOR_SEAT);
                return Some(seat);
            }
            if !undecided.shed_oldest() {
                break;
            }
            // It closes when it has its turn, before we have ours. Somebody may be quicker to take its seat.
            yield_now().await;
        }
        let end = *self.patience.get_or_insert_with(|| Instant::now() + WAIT_FOR_SEAT);
        loop {
            crew.ask_for_seat(self.turn);
            self.turn = self.turn.wrapping_add(1);
            if Instant::now() >= end {
                break;
            }
            sleep(SEAT_CHECK).await;
            if let Some(seat) = seats.take() {
                return Some(seat);
            }
        }
        if self.complaints.is_due() {
            let max_connections = seats.all();
            tracing::warn!(listener, max_connections, "as many connections as there may be: others are refused");
        }
        None
    }
}

/// When it was last told of one kind of trouble.
#[derive(Debug, Default)]
struct Complaints(Option<Instant>);

impl Complaints {
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now - last >= COMPLAINT_INTERVAL);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

/// A descriptor kept for the time when there is no other: for as long as it takes to turn somebody away.
pub(super) struct Spare(Option<OwnedFd>);

impl Spare {
    pub(super) fn of(socket: &TcpListener) -> Self {
        Self(socket.as_fd().try_clone_to_owned().ok())
    }

    /// Accepts those who wait, one after the other, and closes them at once.
    pub(super) fn turn_away_who_waits(&mut self, socket: &TcpListener, entrance: &Entrance, reception: &Reception) {
        self.0 = None;
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Ok((client, source))) = socket.poll_accept(&mut cx) {
            drop(client);
            reception.turn_away(source, entrance, Reason::LimitGlobal);
        }
        *self = Self::of(socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::tests::undecided;
    use crate::snapshot::tests::config;

    /// The only worker.
    fn alone() -> Crew {
        Crew::of(1).remove(0).0
    }

    #[test]
    fn pauses_grow_to_a_second_and_start_anew() {
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        let mut trouble = Trouble::default();
        let pauses: Vec<_> = (0..9).map(|_| trouble.pause_for(&error, "test").as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        trouble.is_over();
        assert_eq!(trouble.pause_for(&error, "test"), SHORTEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn one_waits_for_a_seat_and_the_next_ones_are_told_at_once() {
        let undecided = undecided(&config()).0;
        let (seats, mut crowd) = (Seats::of(1), Crowd::default());
        for round in 0..2 {
            let taken = crowd.seat(&seats, &undecided, &alone(), "test").await.unwrap();
            for waits in [WAIT_FOR_SEAT, Duration::ZERO, Duration::ZERO] {
                let begin = Instant::now();
                assert!(crowd.seat(&seats, &undecided, &alone(), "test").await.is_none());
                assert_eq!(begin.elapsed(), waits, "round {round}");
            }
            // Who finds a seat then shows that it is worth waiting again.
            drop(taken);
            sleep(WAIT_FOR_SEAT).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_seat_that_becomes_free() {
        let undecided = undecided(&config()).0;
        let (seats, crew, mut crowd) = (Seats::of(1), alone(), Crowd::default());
        let taken = seats.take();
        let leaving = async move {
            sleep(WAIT_FOR_SEAT / 2).await;
            drop(taken);
        };
        let (seat, ()) = tokio::join!(crowd.seat(&seats, &undecided, &crew, "test"), leaving);
        assert!(seat.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_waits_no_longer_than_one_client_though_seats_become_free_again_and_again() {
        let undecided = undecided(&config()).0;
        for all in 1..4 {
            let (seats, mut crowd) = (Seats::of(all), Crowd::default());
            let hold = |seat| {
                tokio::spawn(async move {
                    sleep(WAIT_FOR_SEAT * 9 / 10).await;
                    drop(seat);
                })
            };
            (0..all).for_each(|_| drop(hold(seats.take().unwrap())));
            let (begin, mut refused) = (Instant::now(), 0);
            for _ in 0..50 {
                match crowd.seat(&seats, &undecided, &alone(), "test").await {
                    Some(seat) => drop(hold(seat)),
                    None => refused += 1,
                }
            }
            assert_eq!((refused, begin.elapsed()), (50 - all, WAIT_FOR_SEAT));
        }
    }
}
