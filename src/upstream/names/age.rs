//! How old the answers are that endpoints stand on.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

/// The names that are followed, for who wants to know when each was answered last.
#[derive(Debug, Default)]
pub struct Ages(Mutex<Vec<Weak<Age>>>);

/// When one name was answered last, for as long as it is followed.
#[derive(Debug)]
pub(super) struct Age {
    name: String,
    answered: Mutex<Option<Instant>>,
}

impl Ages {
    pub(super) fn enter(&self, name: String) -> Arc<Age> {
        let age = Arc::new(Age { name, answered: Mutex::default() });
        self.with(|ages| {
            ages.retain(|age| age.strong_count() > 0);
            ages.push(Arc::downgrade(&age));
        });
        age
    }

    /// Each name with the time since it was answered last, if it ever was. A name may be there twice.
    pub fn read(&self) -> Vec<(String, Option<Duration>)> {
        let age = |age: &Weak<Age>| {
            let age = age.upgrade()?;
            let answered = age.answered.lock().unwrap_or_else(PoisonError::into_inner);
            Some((age.name.clone(), answered.map(|at| at.elapsed())))
        };
        self.with(|ages| ages.iter().filter_map(age).collect())
    }

    fn with<T>(&self, step: impl FnOnce(&mut Vec<Weak<Age>>) -> T) -> T {
        step(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Age {
    pub(super) fn answered(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_grows_old_until_it_is_answered_and_is_gone_with_who_follows_it() {
        let ages = Ages::default();
        let [one, other] = ["a.test:1", "b.test:1"].map(|name| ages.enter(name.to_owned()));
        one.answered();
        tokio::time::advance(Duration::from_secs(7)).await;
        let expected = [("a.test:1".to_owned(), Some(Duration::from_secs(7))), ("b.test:1".to_owned(), None)];
        assert_eq!(ages.read(), expected);
        one.answered();
        drop(other);
        assert_eq!(ages.read(), [("a.test:1".to_owned(), Some(Duration::ZERO))]);
    }
}
