//! The workers as they see each other: how many connections each has, and a way to hand one over.
//!
//! The kernel deals connections out by a hash of their addresses. That evens out over thousands, but those of kubectl are
//! few and long, and any two of them may meet on one worker while another is idle.

use std::net::{self, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::limits::Seat;
use crate::snapshot::Entrance;

/// A client on its way from the worker that accepted it to the one that serves it.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket, registered with no runtime, which does not block.
    pub socket: net::TcpStream,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it came in.
    pub entrance: Entrance,
    /// The connection's own.
    pub seat: Seat,
    /// Counts it at the worker that is to serve it, until that one does.
    pub announced: Announced,
}

/// A connection on its way to a worker, counted there for as long as this lives.
#[derive(Debug)]
pub struct Announced(Arc<AtomicUsize>);

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One worker, as the others see it.
#[derive(Debug)]
struct Mate {
    /// Connections it has, and those on their way to it.
    open: Arc<AtomicUsize>,
    inbox: UnboundedSender<Accepted>,
    /// Somebody elsewhere lacks a seat. However many there are, it is asked once until it has answered.
    seat_wanted: Notify,
}

impl Mate {
    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// All workers, from the place of one of them.
#[derive(Debug)]
pub struct Crew {
    own: usize,
    mates: Arc<[Mate]>,
}

/// Where a worker gets what others hand over to it.
pub type Inbox = UnboundedReceiver<Accepted>;

impl Crew {
    /// So many workers, each with its view of all and its inbox.
    pub fn of(workers: usize) -> Vec<(Self, Inbox)> {
        let mate = |_| {
            let (inbox, receiver) = unbounded_channel();
            (Mate { open: Arc::default(), inbox, seat_wanted: Notify::new() }, receiver)
        };
        let (mates, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(mate).unzip();
        let mates: Arc<[_]> = mates.into();
        inboxes.into_iter().enumerate().map(|(own, inbox)| (Self { own, mates: Arc::clone(&mates) }, inbox)).collect()
    }

    /// The connections of this worker, those on their way to it included.
    pub fn open(&self) -> usize {
        self.mates[self.own].open()
    }

    /// What counts the connections of this worker.
    pub fn counter(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.mates[self.own].open)
    }

    /// The worker with the fewest connections, if this one has clearly more.
    pub fn idler(&self) -> Option<usize> {
        let (idlest, mate) = (0..self.mates.len()).map(|mate| (self.mates[mate].open(), mate)).min()?;
        is_clearly_more(self.open(), idlest).then_some(mate)
    }

    /// Asks another worker for the seat of a client that has no route yet: which one, goes by turns.
    pub fn ask_for_seat(&self, turn: usize) {
        let others = self.mates.len() - 1;
        if let Some(place) = turn.checked_rem(others) {
            self.mates[(self.own + 1 + place) % self.mates.len()].seat_wanted.notify_one();
        }
    }

    /// Waits until another worker asks this one for a seat.
    pub async fn seat_wanted(&self) {
        self.mates[self.own].seat_wanted.notified().await;
    }

    /// Hands an accepted client over.
    ///
    /// # Errors
    /// Gives it back when that worker is gone.
    pub fn hand_over(
        &self,
        to: usize,
        socket: net::TcpStream,
        source: SocketAddr,
        entrance: Entrance,
        seat: Seat,
    ) -> Result<(), Accepted> {
        let mate = &self.mates[to];
        mate.open.fetch_add(1, Ordering::Relaxed);
        let announced = Announced(Arc::clone(&mate.open));
        mate.inbox.send(Accepted { socket, source, entrance, seat, announced }).map_err(|returned| returned.0)
    }
}

/// A hand-over wakes another thread: not for the differences that chance makes among many, which are of the order of
/// the square root.
fn is_clearly_more(open: usize, idlest: usize) -> bool {
    open > idlest + idlest.isqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Seats;
    use crate::snapshot::tests::entrance;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    /// Accepts this many at the first of the workers; what each gets.
    fn dealt(connections: usize, workers: usize) -> Vec<usize> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (crews, mut inboxes): (Vec<_>, Vec<_>) = Crew::of(workers).into_iter().unzip();
        let seats = Seats::of(connections);
        for _ in 0..connections {
            match crews[0].idler() {
                None => {
                    crews[0].counter().fetch_add(1, Ordering::Relaxed);
                }
                Some(idler) => {
                    let (client, seat) = (TcpStream::connect(address).unwrap(), seats.take().unwrap());
                    crews[0].hand_over(idler, client, address, entrance(), seat).unwrap();
                }
            }
        }
        let open: Vec<_> = crews.iter().map(Crew::open).collect();
        for (inbox, open) in inboxes.iter_mut().zip(&open).skip(1) {
            assert_eq!(std::iter::from_fn(|| inbox.try_recv().ok()).count(), *open);
        }
        assert!(crews[1..].iter().all(|crew| crew.open() == 0));
        open
    }

    #[test]
    fn whom_the_kernel_prefers_hands_over() {
        assert_eq!(dealt(20, 1), [20]);
        for (connections, workers, most) in [(2, 2, 0), (20, 2, 2), (100, 4, 5)] {
            let open = dealt(connections, workers);
            assert_eq!(open.iter().sum::<usize>(), connections);
            assert!(open.iter().max().unwrap() - open.iter().min().unwrap() <= most, "{open:?}");
        }
    }

    #[test]
    fn a_small_difference_is_left_to_chance() {
        assert!(!is_clearly_more(0, 0));
        assert!(is_clearly_more(1, 0), "two clients, two workers");
        assert!(!is_clearly_more(110, 100));
        assert!(is_clearly_more(120, 100));
    }

    #[test]
    fn a_worker_that_is_gone_gives_back() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut crews = Crew::of(2);
        drop(crews.pop());
        let (client, seat) = (TcpStream::connect(address).unwrap(), Seats::of(1).take().unwrap());
        let returned = crews[0].0.hand_over(1, client, address, entrance(), seat).unwrap_err();
        assert_eq!(returned.source, address);
    }
}
