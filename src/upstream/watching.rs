//! The probes of one upstream: one watch an endpoint, begun and ended as endpoints come and go.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::certificate::{Certificate, CertificateWarning, RouteNames, warnings};
use super::endpoint::Endpoint;
use super::health::{Health, State};
use super::probe::{Prober, Told, watch};
use super::roster::News;
use crate::config::{self, HealthCheck};
use crate::proxy_protocol::Version;

/// Certificates of one endpoint that are remembered: behind a virtual address each machine has its own.
const REMEMBERED: usize = 16;

/// Has the endpoints of an upstream asked whether they are well.
#[derive(Debug)]
pub(super) struct Watches {
    upstream: Arc<str>,
    /// Without a `health_check` nobody is asked.
    check: Option<(HealthCheck, Arc<Prober>)>,
    announced: Option<Version>,
    sources: Vec<IpAddr>,
    routes: Arc<RouteNames>,
    running: HashMap<SocketAddr, Watched>,
}

#[derive(Debug)]
struct Watched {
    endpoint: Arc<Endpoint>,
    task: AbortHandle,
}

impl Watches {
    /// As the upstream's `health_check` says; certificates are compared with the names of `routes`.
    pub(super) fn new(config: &config::Upstream, routes: RouteNames) -> Self {
        Self {
            upstream: Arc::clone(&config.name),
            check: config
                .health_check
                .as_ref()
                .map(|check| (check.clone(), Prober::new(check, config.proxy_protocol, &config.source_addresses))),
            announced: config.proxy_protocol,
            sources: config.source_addresses.clone(),
            routes: Arc::new(routes),
            running: HashMap::new(),
        }
    }

    /// From now on as configured so. Unless that changes nothing, all watches end; [`Watches::follow`] begins new ones.
    pub(super) fn change(&mut self, config: &config::Upstream, routes: RouteNames) {
        let asked = (self.check.as_ref().map(|(check, _)| check), self.announced, &self.sources);
        if asked != (config.health_check.as_ref(), config.proxy_protocol, &config.source_addresses)
            || *self.routes != routes
        {
            self.running.drain().for_each(|(_, watched)| watched.task.abort());
            *self = Self::new(config, routes);
        }
    }

    /// From now on these are watched, among `tasks`, and no others. Beside each stands what a probe has shown of it before.
    pub(super) fn follow<'e>(
        &mut self,
        endpoints: impl Iterator<Item = (&'e Arc<Endpoint>, Option<State>)>,
        teller: &UnboundedSender<News>,
        tasks: &mut JoinSet<()>,
    ) {
        let Some((check, prober)) = &self.check else { return };
        let (upstream, routes) = (&self.upstream, &self.routes);
        // What a probe has shown of an endpoint before stays until another shows more.
        let mut begin = |endpoint: &Arc<Endpoint>, state: Option<State>, pause| {
            let witness = Witness::new(Arc::clone(upstream), Arc::clone(endpoint), Arc::clone(routes));
            let health = state.map_or_else(|| Health::new(Some(check)), |state| Health::resumed(check, state));
            let watch = watch(prober.endpoint(endpoint.address), health, telling(witness, teller.clone()));
            let task = tasks.spawn_local(async move {
                sleep(pause).await;
                match watch.await {}
            });
            Watched { endpoint: Arc::clone(endpoint), task }
        };
        let mut before = std::mem::take(&mut self.running);
        for (endpoint, state) in endpoints {
            let known = before.remove(&endpoint.address);
            // One that went and came back meanwhile has to be told of anew: only changes are.
            let is_same = known.as_ref().is_some_and(|known| Arc::ptr_eq(&known.endpoint, endpoint));
            let watched = match known {
                Some(known) if is_same && !known.task.is_finished() => known,
                Some(known) if is_same => {
                    // What nobody looks at any more must not count as proved.
                    let (state, failure) = (Health::new(Some(check)).state(), Some("its probes broke off".to_owned()));
                    let _ = teller.send(News::Probed { address: known.endpoint.address, state, failure });
                    begin(endpoint, None, check.interval)
                }
                known => {
                    known.inspect(|other| other.task.abort());
                    begin(endpoint, state, Duration::ZERO)
                }
            };
            self.running.insert(endpoint.address, watched);
        }
        before.into_values().for_each(|gone| gone.task.abort());
    }
}

/// Tells the log what each probe found, and the keeper what has changed.
fn telling(mut witness: Witness, teller: UnboundedSender<News>) -> impl FnMut(Told<'_>) {
    let address = witness.endpoint.address;
    let mut last = None;
    move |Told { state, report }| {
        let failure = report.outcome.as_ref().err().map(ToString::to_string);
        tracing::debug!(upstream = %witness.upstream, endpoint = %address, failure, "probed");
        if let Some(certificate) = &report.certificate {
            witness.see(certificate);
        }
        let news = (state, failure);
        if last.as_ref() != Some(&news) {
            // Nobody listens any more only when this is about to be dropped.
            let _ = teller.send(News::Probed { address, state, failure: news.1.clone() });
            last = Some(news);
        }
    }
}

/// Tells of the certificates that an endpoint shows, each once.
struct Witness {
    upstream: Arc<str>,
    endpoint: Arc<Endpoint>,
    routes: Arc<RouteNames>,
    /// Certificates, with what was there to say of each the last time.
    seen: VecDeque<(Arc<Certificate>, Vec<CertificateWarning>)>,
}

impl Witness {
    fn new(upstream: Arc<str>, endpoint: Arc<Endpoint>, routes: Arc<RouteNames>) -> Self {
        Self { upstream, endpoint, routes, seen: VecDeque::new() }
    }

    fn see(&mut self, certificate: &Arc<Certificate>) {
        self.endpoint.show(certificate);
        let (is_new, warnings) = self.note(certificate, SystemTime::now());
        let (upstream, endpoint) = (&self.upstream, self.endpoint.address);
        if is_new {
            let names = certificate.names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let (issuer, expires) = (&certificate.issuer, certificate.last_day());
            tracing::info!(%upstream, %endpoint, names, issuer, expires, "endpoint shows a certificate");
        }
        for warning in warnings {
            tracing::warn!(%upstream, %endpoint, "{warning}");
        }
    }

    /// Whether this certificate is to be told of, and the warnings that are.
    fn note(&mut self, certificate: &Arc<Certificate>, now: SystemTime) -> (bool, Vec<CertificateWarning>) {
        let current = warnings(certificate, &self.routes, now);
        if let Some((_, before)) = self.seen.iter_mut().find(|(seen, _)| seen == certificate) {
            let new = current.iter().filter(|warning| !before.contains(warning)).cloned().collect();
            *before = current;
            return (false, new);
        }
        if self.seen.len() == REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back((Arc::clone(certificate), current.clone()));
        (true, current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Pin};

    use std::io;
    use std::net::TcpListener;
    use std::time::Duration;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::task::LocalSet;
    use tokio::time::timeout;

    #[test]
    fn certificates_and_what_there_is_to_say_of_them_are_told_once() {
        let now = SystemTime::now();
        let certificate = |key: u8, days: u64| {
            let not_after = now + Duration::from_hours(24 * days);
            let [subject, issuer, fingerprint] = [const { String::new() }; 3];
            Arc::new(Certificate { names: Vec::new(), subject, issuer, not_after, key: Pin([key; 32]), fingerprint })
        };
        let mut witness =
            Witness::new("up".into(), Arc::new(Endpoint::new(([192, 0, 2, 1], 1).into())), Arc::default());
        let (one, other) = (certificate(1, 20), certificate(2, 30));
        let soon = |of: &Certificate| vec![CertificateWarning::ExpiresSoon(of.last_day())];
        assert_eq!(witness.note(&one, now), (true, soon(&one)));
        assert_eq!(witness.note(&other, now), (true, vec![]));
        // As the machines behind one address answer in turn.
        for _ in 0..10 {
            assert_eq!(witness.note(&one, now), (false, vec![]));
            assert_eq!(witness.note(&other, now), (false, vec![]));
        }
        assert_eq!(witness.note(&other, now + Duration::from_hours(24 * 10)), (false, soon(&other)));
        for key in 3.. {
            if witness.note(&one, now).0 {
                assert_eq!((usize::from(key), witness.seen.len()), (REMEMBERED + 2, REMEMBERED));
                return;
            }
            witness.note(&certificate(key, 30), now);
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_takes_the_place_of_another_is_told_of_anew() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut watches = watches("tcp: {}, interval: 1h, timeout: 60s");
        let (teller, mut news) = unbounded_channel();
        let mut tasks = JoinSet::new();
        let told = async {
            let [first, second] = [0, 1].map(|_| Arc::new(Endpoint::new(listener.local_addr().unwrap())));
            for endpoint in [&first, &first, &second] {
                watches.follow([(endpoint, None)].into_iter(), &teller, &mut tasks);
                assert_eq!(watches.running.len(), 1);
            }
            // The first was asked nothing yet, and will not be any more.
            let Some(ended) = tasks.join_next().await else { panic!("nobody was watched") };
            assert!(ended.is_err_and(|error| error.is_cancelled()));
            watches.follow([(&second, None)].into_iter(), &teller, &mut tasks);
            assert!(matches!(news.recv().await, Some(News::Probed { .. })));
            watches.follow([(&first, None)].into_iter(), &teller, &mut tasks);
            assert!(matches!(news.recv().await, Some(News::Probed { .. })));
        };
        timeout(Duration::from_secs(60), LocalSet::new().run_until(told)).await.unwrap();
    }

    #[tokio::test]
    async fn an_endpoint_whose_probes_broke_off_has_to_prove_itself_again() {
        // Nobody listens there: what is told before any probe ends is told by the watches themselves.
        let endpoint = Arc::new(Endpoint::new(([127, 0, 0, 1], 1).into()));
        let mut watches = watches(&format!("tls: {{ pins: ['sha256:{:064}'] }}, interval: 1h", 0));
        let (teller, mut news) = unbounded_channel();
        let mut tasks = JoinSet::new();
        let verified = State { up: true, verified: true };
        let told = async {
            watches.follow([(&endpoint, Some(verified))].into_iter(), &teller, &mut tasks);
            watches.running.values().for_each(|watched| watched.task.abort());
            let Some(Err(_)) = tasks.join_next().await else { panic!("it did not break off") };
            watches.follow([(&endpoint, Some(verified))].into_iter(), &teller, &mut tasks);
            let Ok(News::Probed { state, .. }) = news.try_recv() else { panic!("nothing was told") };
            assert_eq!((state, tasks.len()), (State { up: true, verified: false }, 1));
        };
        LocalSet::new().run_until(told).await;
    }

    #[tokio::test]
    async fn who_is_to_get_another_header_is_asked_anew() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let endpoint = Arc::new(Endpoint::new(listener.local_addr().unwrap()));
        let mut config = configured("tcp: {}, interval: 1h, timeout: 60s");
        let mut watches = Watches::new(&config, RouteNames::default());
        let (teller, mut news) = unbounded_channel();
        let mut tasks = JoinSet::new();
        let asked = async {
            for (header, expected) in [(None, ""), (Some(Version::V1), "PROXY UNKNOWN\r\n")] {
                config.proxy_protocol = header;
                watches.change(&config, RouteNames::default());
                assert!(watches.running.is_empty());
                watches.follow([(&endpoint, None)].into_iter(), &teller, &mut tasks);
                assert!(matches!(news.recv().await, Some(News::Probed { .. })));
                assert_eq!(io::read_to_string(listener.accept().unwrap().0).unwrap(), expected);
                watches.change(&config, RouteNames::default());
                assert_eq!(watches.running.len(), 1, "nothing has changed");
            }
        };
        timeout(Duration::from_secs(60), LocalSet::new().run_until(asked)).await.unwrap();
    }

    /// The watches of an upstream with this check.
    fn watches(check: &str) -> Watches {
        Watches::new(&configured(check), RouteNames::default())
    }

    fn configured(check: &str) -> config::Upstream {
        let yaml = format!(
            "
            listeners: [{{ address: ':1' }}]
            routes: [{{ server_names: [a.test], upstream: up }}]
            upstreams: {{ up: {{ endpoints: ['127.0.0.1:1'], health_check: {{ {check} }} }} }}"
        );
        Config::parse(&yaml).unwrap().upstreams.remove(0)
    }
}
