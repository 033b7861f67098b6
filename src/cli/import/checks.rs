//! `check`, `verify` and `option httpchk` → how endpoints are asked whether they are well, and who they are.

use std::time::Duration;

use super::notes::Notes;
use super::sections::{Line, Proxy};
use super::servers::{Address, Server};
use super::table::{Authorities, Check, Question};
use super::upstreams::Surroundings;
use super::words;

/// The check of an upstream with these servers; there is one if HAProxy checked them or wanted to know who they are.
pub(super) fn read(
    proxy: &Proxy<'_>,
    servers: &[&Server<'_>],
    around: &Surroundings,
    remarks: &mut Vec<String>,
    notes: &mut Notes,
) -> Option<Check> {
    let checked = servers.iter().find(|server| server.options.check);
    let proves = |server: &&&Server<'_>| {
        let options = &server.options;
        let speaks = options.ssl || options.check && options.check_ssl;
        speaks && !options.unverified && options.ca_file.is_some()
    };
    let proven = servers.iter().find(proves);
    let model = *proven.or(checked)?;
    let question = match checked {
        Some(_) => question(proxy, model, notes)?,
        None => {
            remarks.push(
                "HAProxy wanted this proof for each connection; here probes do, and who fails gets nobody".into(),
            );
            Question::Tls
        }
    };
    let authorities = proven.map(|server| authorities(server, around, notes));
    let server_name = match authorities {
        Some(_) => Some(proven_name(servers, around, remarks)),
        None => agreed(servers, |server| server.options.check_name.as_ref()),
    };
    if proven.is_some() && servers.iter().any(|server| !proves(&server)) {
        remarks
            .push("all endpoints have to prove who they are, also those of which HAProxy did not want to know".into());
    }
    for server in servers.iter().filter(|server| proves(server) && server.options.ca_file != model.options.ca_file) {
        let why = "an upstream has one authority, and this one differs from that of the first: give it an upstream of its own";
        notes.say(server.line, why);
    }
    let timing = &model.options;
    let interval = timing.interval.map(|time| time.clamp(Duration::from_millis(100), Duration::from_secs(3600)));
    Some(Check {
        // Without TLS there is nobody to send a name to.
        server_name: server_name.filter(|_| question != Question::Tcp),
        authorities,
        interval,
        timeout: timeout(proxy, interval, notes),
        rise: timing.rise.map(|times| times.clamp(1, 100)),
        fall: timing.fall.map(|times| times.clamp(1, 100)),
        question,
    })
}

fn question(proxy: &Proxy<'_>, server: &Server<'_>, notes: &mut Notes) -> Option<Question> {
    let options = &server.options;
    let tls = options.ssl || options.check_ssl;
    let http = proxy.option("httpchk");
    if options.check_elsewhere {
        notes.say(server.line, "its check asks another address or port, which is not done here: it counts for nothing");
        return (tls && !options.unverified).then_some(Question::Tls);
    }
    if let Some(line) = proxy.option("external-check") {
        notes.say(line, "no program is run here: checks connect, and shake hands where there is TLS");
    }
    match (http, tls) {
        (Some(line), true) => {
            notes.carried(line);
            let (method, path) = request(proxy, line, notes);
            if method != "GET" {
                notes.say(line, format!("asks by GET here, not by {method}"));
            }
            Some(Question::Https { path, statuses: statuses(proxy, notes) })
        }
        (Some(line), false) => {
            notes.say(line, "asks without TLS, which is not done here: whether it accepts a connection is what counts");
            Some(Question::Tcp)
        }
        (None, true) => Some(Question::Tls),
        (None, false) => match proxy.option("ssl-hello-chk") {
            Some(line) => {
                notes.carried(line);
                Some(Question::Tls)
            }
            None => {
                proxy.option("tcp-check").into_iter().for_each(|line| notes.carried(line));
                Some(Question::Tcp)
            }
        },
    }
}

/// The method and the path of a check by HTTP.
fn request(proxy: &Proxy<'_>, line: &Line, notes: &mut Notes) -> (String, String) {
    let (mut method, mut path) = match &line.words[2..] {
        [] => ("OPTIONS".to_owned(), "/".to_owned()),
        [path] => ("OPTIONS".to_owned(), path.clone()),
        [method, path, ..] => (method.clone(), path.clone()),
    };
    if let Some(send) = proxy.last(&["http-check", "send"]) {
        notes.carried(send);
        let mut words = send.words.iter().skip(2);
        while let Some(word) = words.next() {
            match word.as_str() {
                "meth" => method = words.next().cloned().unwrap_or_default(),
                "uri" => path = words.next().cloned().unwrap_or_default(),
                "ver" => _ = words.next(),
                _ => {
                    notes.say(send, "a probe sends no header and no body of its own");
                    break;
                }
            }
        }
    }
    let plain = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !plain {
        notes.say(line, format!("`{path}` is no plain path: `/` is asked for"));
        path = "/".to_owned();
    }
    (method, path)
}

/// The statuses that count as well, where they differ from 200.
fn statuses(proxy: &Proxy<'_>, notes: &mut Notes) -> Vec<u16> {
    const MOST: usize = 32;
    let Some(line) = proxy.last(&["http-check", "expect"]) else { return vec![200] };
    let read = |text: &str| -> Option<Vec<u16>> {
        let mut all = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            all.extend(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?);
        }
        all.retain(|status| (200..=599).contains(status));
        all.dedup();
        Some(all).filter(|all| (1..=MOST).contains(&all.len()))
    };
    let found = line.begins(&["http-check", "expect", "status"]).then(|| read(line.word(3))).flatten();
    match found {
        Some(statuses) => {
            notes.carried(line);
            statuses
        }
        None => {
            notes.say(line, "a status of 200 counts as well, and others that `statuses` lists one by one");
            vec![200]
        }
    }
}

fn authorities(server: &Server<'_>, around: &Surroundings, notes: &mut Notes) -> Authorities {
    let file = server.options.ca_file.as_deref().unwrap_or_default();
    if file == "@system-ca" {
        return Authorities::System;
    }
    let path = match &around.ca_base {
        _ if file.starts_with('/') => file.to_owned(),
        Some(base) => format!("{}/{file}", base.trim_end_matches('/')),
        None => {
            notes.say(
                server.line,
                "`ca-file` is relative: the folder of this configuration was taken for HAProxy's own",
            );
            format!("{}/{}", around.folder.trim_end_matches('/'), file.trim_start_matches("./"))
        }
    };
    Authorities::File(path)
}

/// The name that certificates must cover. HAProxy may have checked none; here there has to be one.
fn proven_name(servers: &[&Server<'_>], around: &Surroundings, remarks: &mut Vec<String>) -> String {
    let host = |server: &&Server<'_>| match &server.address {
        Address::Host(host, _) => host.to_ascii_lowercase(),
        Address::Service(name) => name.clone(),
    };
    let told = |server: &Server<'_>| server.options.verify_host.is_some() || server.options.check_name.is_some();
    let named = agreed(servers, |server| server.options.verify_host.as_ref().or(server.options.check_name.as_ref()));
    if let Some(name) = named {
        return name;
    }
    let hosts: Vec<String> = servers.iter().map(host).collect();
    let one_host = hosts.iter().all(|host| *host == hosts[0]);
    let see = "`snigate check --probe` shows which names their certificates cover";
    let (name, why) = match &around.public_name {
        _ if servers.iter().any(|server| told(server)) => {
            let name = around.public_name.clone().unwrap_or_else(|| hosts[0].clone());
            (name, "HAProxy wanted another name of each server, and an upstream has one for all of them")
        }
        _ if one_host => {
            (hosts[0].clone(), "HAProxy believed any name of a certificate of this authority; one is needed here")
        }
        Some(public) => {
            (public.clone(), "HAProxy believed any name of a certificate of this authority; one is needed here")
        }
        None => (hosts[0].clone(), "HAProxy believed any name of a certificate of this authority; one is needed here"),
    };
    remarks.push(format!("{why}: {see}"));
    name
}

/// What all servers say, if they do not differ.
fn agreed<'a, 's>(servers: &[&'a Server<'s>], of: impl Fn(&'a Server<'s>) -> Option<&'a String>) -> Option<String> {
    let mut all = servers.iter().filter_map(|server| of(server));
    let first = all.next()?;
    all.all(|other| other == first).then(|| first.clone())
}

fn timeout(proxy: &Proxy<'_>, interval: Option<Duration>, notes: &mut Notes) -> Option<Duration> {
    const INTERVAL: Duration = Duration::from_secs(5);
    let line = proxy.last(&["timeout", "check"])?;
    notes.carried(line);
    let longest = interval.unwrap_or(INTERVAL).min(Duration::from_secs(60));
    words::time(line.word(2)).map(|time| time.clamp(Duration::from_millis(10), longest))
}
