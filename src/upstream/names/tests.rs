use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::ready;
use std::rc::Rc;

use tokio::time::timeout;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn resolved(hosts: &[u8]) -> Vec<Resolved> {
    let one = |&host: &u8| Resolved {
        address: ([192, 0, 2, host], 1).into(),
        target: "a.test:1".into(),
        weight: 1,
        priority: 0,
    };
    hosts.iter().map(one).collect()
}

fn good(hosts: &[u8], ttl: u64) -> Answer {
    Answer { addresses: resolved(hosts), ttl: Duration::from_secs(ttl), trouble: None }
}

/// What a name's follower did, with the second of each since the start.
#[derive(Default)]
struct Story {
    answers: RefCell<VecDeque<Answer>>,
    asked: RefCell<Vec<u64>>,
    told: RefCell<Vec<(u64, Vec<Resolved>)>>,
    nudge: Notify,
}

impl Story {
    /// Follows a name whose look-ups come to these answers, the last one again and again, for so many seconds, while
    /// `meanwhile` goes on.
    async fn of(answers: &[Answer], seconds: u64, meanwhile: impl AsyncFnOnce(&Notify)) -> Rc<Self> {
        let story = Rc::new(Self { answers: RefCell::new(answers.iter().cloned().collect()), ..Self::default() });
        let start = Instant::now();
        let second = move || start.elapsed().as_secs();
        let ask = |_| {
            story.asked.borrow_mut().push(second());
            let mut answers = story.answers.borrow_mut();
            ready(if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() })
        };
        let tell = |addresses| story.told.borrow_mut().push((second(), addresses));
        let follow = follow_answers("a.test:1", ask, &story.nudge, tell);
        let nudging = async {
            meanwhile(&story.nudge).await;
            pending::<()>().await;
        };
        let both = async {
            tokio::select! {
                _ = follow => {}
                () = nudging => {}
            }
        };
        assert!(timeout(Duration::from_secs(seconds), both).await.is_err(), "it goes on for ever");
        story
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_again_after_its_time_and_told_when_it_changed() {
    let answers = [good(&[1], 20), good(&[1], 20), good(&[1, 2], 600)];
    let story = Story::of(&answers, 178, async |_| {}).await;
    let asked = story.asked.borrow();
    // Each wait is up to a tenth longer.
    assert_eq!(asked.len(), 5, "{asked:?}");
    for (asked, bounds) in asked.iter().zip([0..=0, 20..=22, 40..=44, 100..=110, 160..=176]) {
        assert!(bounds.contains(asked), "{asked} in {bounds:?}");
    }
    assert_eq!(*story.told.borrow(), [(0, resolved(&[1])), (asked[2], resolved(&[1, 2]))]);
}

#[tokio::test(start_paused = true)]
async fn a_nudge_asks_at_once_but_not_more_often_than_once_a_second() {
    let story = Story::of(&[good(&[1], 60)], 50, async |nudge| {
        tokio::time::sleep(10 * SECOND).await;
        for _ in 0..1_000 {
            nudge.notify_one();
            tokio::time::sleep(SECOND / 100).await;
        }
    })
    .await;
    let asked = story.asked.borrow();
    assert_eq!(asked[..3], [0, 10, 11]);
    // One that comes while a look-up is under way, or just after it, is not lost.
    assert!((10..=12).contains(&(asked.len() - 1)), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_known_outlives_an_outage() {
    let lost = Answer { trouble: Some("lost".to_owned()), ..good(&[1], 0) };
    let answers = [good(&[1], 5), lost.clone(), lost, good(&[2], 60)];
    let story = Story::of(&answers, 30, async |_| {}).await;
    let (asked, told) = (story.asked.borrow(), story.told.borrow());
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert_eq!(*told, [(0, resolved(&[1])), (asked[3], resolved(&[2]))]);
    assert!(asked[3] <= 9, "it is asked for again soon: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn an_address_is_told_once_and_needs_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("none");
    let names = Names::on_files(&config::Dns::default(), nowhere.clone(), nowhere);
    let what = EndpointAddress::Ip(([192, 0, 2, 1], 6443).into());
    let nudge = Notify::new();
    nudge.notify_one();
    let mut told = Vec::new();
    let follow = names.follow(&what, &nudge, |addresses| told.push(addresses));
    assert!(timeout(100 * SECOND, follow).await.is_err());
    let expected =
        Resolved { address: ([192, 0, 2, 1], 6443).into(), target: "192.0.2.1:6443".into(), weight: 1, priority: 0 };
    assert_eq!(told, [vec![expected.clone()]]);
    assert_eq!(names.resolve(&what).await.unwrap(), [expected]);
}

#[test]
fn a_follower_may_move_between_threads() {
    fn assert_send<T: Send>(_: T) {}
    let names = Names::new(&config::Dns::default());
    let (what, nudge) = (EndpointAddress::Name("a.test".into(), 1), Notify::new());
    assert_send(names.follow(&what, &nudge, |_| {}));
}

#[test]
fn waits_grow_by_a_tenth_at_most() {
    for _ in 0..1_000 {
        let wait = jittered(10 * SECOND);
        assert!((10 * SECOND..=11 * SECOND).contains(&wait), "{wait:?}");
    }
}
