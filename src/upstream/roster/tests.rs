use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;
use crate::config::Config;
use crate::upstream::choice::Lack;

const SLOW_START: Duration = Duration::from_secs(30);

const UP: State = State { up: true, verified: true };
const DOWN: State = State { up: false, verified: true };
const UNVERIFIED: State = State { up: true, verified: false };

/// An upstream of so many configured endpoints, the tenth a backup, with these further keys.
fn configured(entries: usize, keys: &str) -> Upstream {
    let endpoint = |entry| format!("{{ address: 'e{entry}.test:1', backup: {} }}", entry == 9);
    let endpoints = (0..entries).map(endpoint).collect::<Vec<_>>().join(", ");
    let yaml = format!(
        "listeners: [{{ address: ':1' }}]\nroutes: [{{ server_names: [a.test], upstream: test }}]\n\
         upstreams: {{ test: {{ balance: round_robin, slow_start: 30s, endpoints: [{endpoints}], {keys} }} }}"
    );
    Config::parse(&yaml).unwrap_or_else(|mistakes| panic!("{mistakes}")).upstreams.remove(0)
}

/// Keys that want proof.
fn wants_proof() -> String {
    format!("health_check: {{ tls: {{ pins: ['sha256:{:064}'] }} }}", 0)
}

fn roster_with(entries: usize, keys: &str) -> Roster {
    Roster::new(&configured(entries, keys), 0)
}

fn roster(entries: usize) -> Roster {
    roster_with(entries, "")
}

fn probed(last: u8, state: State) -> News {
    News::Probed { address: address(last), state, failure: (!state.is_well()).then(|| "a reason".to_owned()) }
}

fn address(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 1).into()
}

fn named(entry: usize) -> EndpointAddress {
    EndpointAddress::Name(format!("e{entry}.test").into(), 1)
}

fn found(entry: usize, last: &[u8]) -> News {
    found_as("host:1", entry, last)
}

fn found_as(target: &str, entry: usize, last: &[u8]) -> News {
    let one = |&last| Resolved { address: address(last), target: target.into(), weight: 1, priority: 0 };
    News::Resolved { of: named(entry), addresses: last.iter().map(one).collect() }
}

/// Whom clients get, over many picks.
fn chosen(roster: &Roster) -> BTreeSet<SocketAddr> {
    let choice = roster.choice();
    let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
    (0..10_000).filter_map(|_| choice.pick(source, &[]).map(|endpoint| endpoint.address)).collect()
}

fn set(last: &[u8]) -> BTreeSet<SocketAddr> {
    last.iter().copied().map(address).collect()
}

fn fail(roster: &mut Roster, last: u8, times: usize, now: Instant) -> Vec<bool> {
    (0..times).map(|_| roster.hear(News::Failed { address: address(last) }, now)).collect()
}

#[test]
fn who_stays_keeps_its_connections_and_who_goes_gets_none() {
    let (mut roster, now) = (roster(1), Instant::now());
    assert!(roster.choice().is_young && chosen(&roster).is_empty());
    assert!(roster.hear(found(0, &[1, 2]), now));
    assert!(!roster.choice().is_young);
    let kept = Arc::clone(&roster.members[1].endpoint);
    assert!(!roster.hear(found(0, &[2, 1]), now), "the order says nothing");
    assert!(roster.hear(found(0, &[2, 3]), now));
    assert_eq!(chosen(&roster), set(&[2, 3]));
    assert!(roster.members.iter().any(|member| Arc::ptr_eq(&member.endpoint, &kept)));
    assert!(roster.hear(found(0, &[]), now));
    assert!(chosen(&roster).is_empty());
}

#[test]
fn an_address_that_two_names_have_is_one_endpoint() {
    let (mut roster, now) = (roster(2), Instant::now());
    roster.hear(found(0, &[1, 2]), now);
    roster.hear(found(1, &[2, 3]), now);
    let addresses: Vec<_> = roster.members.iter().map(|member| member.endpoint.address).collect();
    assert_eq!(addresses, [1, 2, 3].map(address));
}

#[test]
fn an_endpoint_that_fails_is_left_out_for_a_while() {
    let (mut roster, start) = (roster(1), Instant::now());
    roster.hear(found(0, &[1, 2]), start);
    assert_eq!(fail(&mut roster, 1, 3, start), [false, false, true]);
    assert_eq!(chosen(&roster), set(&[2]));
    let release = roster.next_release().unwrap();
    assert!(!roster.release(start) && roster.release(release));
    assert_eq!((chosen(&roster), roster.next_release()), (set(&[1, 2]), None));
    assert_eq!(fail(&mut roster, 1, 1, release), [true], "it is on probation");
    assert!(roster.hear(News::Reached { address: address(1) }, release));
    assert_eq!(chosen(&roster), set(&[1, 2]));
}

#[test]
fn the_last_one_is_never_ejected() {
    let (mut roster, now) = (roster(1), Instant::now());
    roster.hear(found(0, &[1, 2]), now);
    fail(&mut roster, 1, 3, now);
    assert_eq!(fail(&mut roster, 2, 9, now), [false; 9]);
    assert_eq!(chosen(&roster), set(&[2]));
}

#[test]
fn backups_come_before_primaries_that_are_down() {
    let (mut roster, now) = (roster(10), Instant::now());
    roster.hear(found(0, &[1]), now);
    roster.hear(found(9, &[9]), now);
    assert_eq!(chosen(&roster), set(&[1]));
    fail(&mut roster, 1, 3, now);
    assert_eq!(chosen(&roster), set(&[9]));
}

#[test]
fn who_goes_tells_its_connections_if_they_are_to_close() {
    for (key, told) in [("on_removed: keep", None), ("on_removed: close", Some(Reason::EndpointRemoved))] {
        let (mut roster, now) = (roster_with(1, key), Instant::now());
        roster.hear(found(0, &[1, 2]), now);
        let [stays, goes] = [0, 1].map(|at| Arc::clone(&roster.members[at].endpoint));
        roster.hear(found(0, &[1]), now);
        assert_eq!((stays.notice().reason(), goes.notice().reason()), (None, told));
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_starts_slowly() {
    let (mut roster, now) = (roster(1), Instant::now());
    roster.hear(found(0, &[1, 2]), now);
    fail(&mut roster, 1, 3, now);
    roster.hear(News::Reached { address: address(1) }, now);
    let share = || {
        let choice = roster.choice();
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let own = |_: &usize| choice.pick(source, &[]).unwrap().address == address(1);
        (0..10_000).filter(own).count()
    };
    tokio::time::advance(SLOW_START / 10).await;
    assert!((300..1500).contains(&share()), "{}", share());
    tokio::time::advance(SLOW_START).await;
    assert!((4500..5500).contains(&share()), "{}", share());
}

#[test]
fn an_address_that_one_of_two_names_loses_stays_the_others() {
    let (mut roster, now) = (roster(2), Instant::now());
    roster.hear(found(0, &[1, 2]), now);
    roster.hear(found(1, &[2, 3]), now);
    let shared = Arc::clone(&roster.members[1].endpoint);
    roster.hear(found(0, &[1]), now);
    assert_eq!(chosen(&roster), set(&[1, 2, 3]));
    assert!(roster.members.iter().any(|member| Arc::ptr_eq(&member.endpoint, &shared)));
}

#[test]
fn an_address_that_another_name_leads_to_now_is_what_it_was() {
    let (mut roster, now) = (roster_with(2, &format!("on_removed: close, {}", wants_proof())), Instant::now());
    roster.hear(found_as("old:1", 0, &[1]), now);
    roster.hear(found_as("other:1", 1, &[1]), now);
    roster.hear(probed(1, UP), now);
    let before = Arc::clone(&roster.members[0].endpoint);
    for news in [found_as("new:1", 0, &[1]), found_as("new:1", 0, &[])] {
        assert!(roster.hear(news, now));
        assert_eq!(chosen(&roster), set(&[1]), "nobody will say again that it is verified");
        assert!(Arc::ptr_eq(&before, &roster.members[0].endpoint) && !roster.choice().is_young);
    }
    assert_eq!(before.notice().reason(), None);
    assert_eq!(&*roster.members[0].target, "other:1");
}

#[test]
fn another_weight_does_not_make_another_endpoint() {
    let (mut roster, now) = (roster(1), Instant::now());
    roster.hear(found(0, &[1]), now);
    let before = Arc::clone(&roster.members[0].endpoint);
    let mut config = configured(1, "");
    config.endpoints[0].weight = 2;
    roster.change(&config, now);
    assert!(Arc::ptr_eq(&before, &roster.members[0].endpoint));
    assert_eq!(roster.members[0].weight, 2);
}

#[test]
fn records_of_services_bring_weights_and_backups() {
    let mut config = configured(1, "");
    let service = EndpointAddress::Service("_a._tcp.test".into());
    config.endpoints[0] = config::Endpoint { address: service.clone(), weight: 1, backup: false };
    let mut roster = Roster::new(&config, 0);
    let one = |last, weight, priority| Resolved { address: address(last), target: "host:1".into(), weight, priority };
    let addresses = vec![one(1, 7, 10), one(2, 3, 20)];
    roster.hear(News::Resolved { of: service, addresses }, Instant::now());
    let members: Vec<_> = roster.members.iter().map(|member| (member.weight, member.backup)).collect();
    assert_eq!(members, [(7, false), (3, true)]);
}

#[test]
fn who_is_still_configured_stays_who_it_was() {
    let (mut roster, now) = (roster(2), Instant::now());
    roster.hear(found(0, &[1]), now);
    roster.hear(found(1, &[2, 3]), now);
    fail(&mut roster, 2, 3, now);
    let stays = Arc::clone(&roster.members[1].endpoint);
    let mut config = configured(2, "on_removed: close");
    config.endpoints.remove(0);
    config.endpoints.push(config::Endpoint { address: EndpointAddress::Ip(address(4)), weight: 1, backup: false });
    let goes = roster.members[0].endpoint.notice();
    roster.change(&config, now);
    let members: Vec<_> = roster.members.iter().map(|member| member.endpoint.address).collect();
    assert_eq!(members, [2, 3, 4].map(address), "names are known without asking again");
    assert!(Arc::ptr_eq(&stays, &roster.members[0].endpoint));
    assert_eq!(chosen(&roster), set(&[3, 4]), "who was ejected still is");
    assert_eq!(roster.members.last().unwrap().back_since, Some(now), "who is new starts slowly");
    assert_eq!(goes.reason(), Some(Reason::EndpointRemoved));
    assert!(!roster.hear(found(0, &[1]), now), "an answer for who has gone is too late");
}

#[test]
fn who_is_to_prove_itself_from_now_on_has_not_yet() {
    let (mut roster, now) = (roster(1), Instant::now());
    roster.hear(found(0, &[1]), now);
    roster.change(&configured(1, &wants_proof()), now);
    assert!(chosen(&roster).is_empty() && roster.choice().is_young);
    roster.hear(probed(1, UP), now);
    assert_eq!(chosen(&roster), set(&[1]));
    let slower = wants_proof().replace("tls:", "interval: 9s, tls:");
    roster.change(&configured(1, &slower), now);
    assert_eq!(chosen(&roster), set(&[1]), "it is asked the same, less often");
    roster.change(&configured(1, &wants_proof().replace("sha256:0", "sha256:1")), now);
    assert!(chosen(&roster).is_empty(), "another proof is another matter");
}

#[test]
fn who_has_to_prove_itself_gets_nobody_before_it_did() {
    let (mut roster, now) = (roster_with(1, &wants_proof()), Instant::now());
    roster.hear(found(0, &[1, 2]), now);
    assert!(roster.choice().is_young && chosen(&roster).is_empty());
    assert!(roster.hear(probed(1, UP), now));
    assert!(roster.choice().is_young, "the other may prove itself yet");
    assert_eq!(chosen(&roster), set(&[1]));
    assert_eq!(roster.members[0].back_since, None, "it has come, and not come back");
    assert!(roster.hear(probed(2, UNVERIFIED), now));
    assert!(!roster.choice().is_young);
    roster.hear(probed(1, DOWN), now);
    assert_eq!(chosen(&roster), set(&[1]), "better one that is down than a stranger");
    roster.hear(probed(1, UNVERIFIED), now);
    assert!(chosen(&roster).is_empty(), "nobody at all rather than a stranger");
    assert_eq!(roster.choice().lack(), Lack::Proof);
    roster.hear(probed(2, UP), now);
    assert_eq!(chosen(&roster), set(&[2]));
}

#[test]
fn who_is_not_ready_gets_nobody_while_another_is() {
    let (mut roster, now) = (roster(1), Instant::now());
    roster.hear(found(0, &[1, 2]), now);
    assert!(!roster.choice().is_young);
    assert!(roster.hear(probed(1, DOWN), now));
    assert_eq!(chosen(&roster), set(&[2]));
    roster.hear(probed(2, DOWN), now);
    assert_eq!(chosen(&roster), set(&[1, 2]), "all seem down: the fault may be with who looked");
    assert!(roster.hear(probed(1, UP), now));
    assert_eq!((chosen(&roster), roster.members[0].back_since), (set(&[1]), Some(now)));
    assert!(!roster.hear(probed(1, UP), now), "nothing new");
}

#[test]
fn a_probe_that_goes_well_after_a_failure_ends_an_ejection() {
    let (mut roster, now) = (roster(1), Instant::now());
    roster.hear(found(0, &[1, 2]), now);
    fail(&mut roster, 1, 3, now);
    roster.hear(probed(1, UP), now);
    assert_eq!(chosen(&roster), set(&[2]), "the probe was well all the time, and connects failed");
    roster.hear(probed(1, DOWN), now);
    roster.hear(probed(1, UP), now);
    assert_eq!((chosen(&roster), roster.next_release()), (set(&[1, 2]), None));
}

#[test]
fn who_goes_down_loses_its_connections_once_another_is_up_if_so_told() {
    for (key, told) in [("on_unhealthy: keep", None), ("on_unhealthy: close", Some(Reason::EndpointUnhealthy))] {
        let (mut roster, now) = (roster_with(1, key), Instant::now());
        roster.hear(found(0, &[1, 2]), now);
        let [one, two] = [0, 1].map(|at| Arc::clone(&roster.members[at].endpoint));
        let (old, other) = (one.notice(), two.notice());
        roster.hear(probed(1, DOWN), now);
        assert_eq!((old.reason(), one.notice().reason()), (told, None), "new ones are not closed for it");
        roster.hear(probed(2, DOWN), now);
        let news = News::Probed { address: address(2), state: DOWN, failure: Some("another reason".to_owned()) };
        assert!(!roster.hear(news, now), "it was down before");
        assert_eq!(other.reason(), None, "nobody else would take them");
        roster.hear(probed(1, UP), now);
        assert_eq!(other.reason(), told, "now somebody does");
    }
}

#[test]
fn who_comes_back_in_time_keeps_its_connections() {
    let (mut roster, now) = (roster_with(1, "on_unhealthy: close"), Instant::now());
    roster.hear(found(0, &[1]), now);
    let notice = roster.members[0].endpoint.notice();
    roster.hear(probed(1, DOWN), now);
    roster.hear(probed(1, UP), now);
    assert_eq!(notice.reason(), None);
}
