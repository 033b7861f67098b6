//! Why lines have no place in a gate that passes TLS through, by their first words.

use super::sections::{Kind, Line};

const DECRYPTED: &str = "works on requests, which are inside TLS and cannot be seen here; the upstream has to do it";
const TERMINATION: &str = "TLS is not ended here: the upstream's own settings hold for clients";
const LOGGING: &str = "snigate writes one line a connection to standard output; see `log`";
const PROCESS: &str = "is how HAProxy runs; see `user`, `sandbox`, `workers` and `limits` of snigate";
const STICKING: &str =
    "there are no tables of clients; `balance: source_hash` leads a source to the same endpoint, and `limits` count";
const ERRORS: &str = "refusals are TLS alerts or closes, never pages; see `reject` of a listener";
const STATISTICS: &str = "shows HAProxy's own state";
const KEEPALIVE: &str = "is always so here";

/// First words and what is to be said of such lines; the first that fits counts.
const REASONS: &[(&[&str], &str)] = &[
    (&["mode", "http"], "TLS goes through to the upstream, and nobody reads the requests in it"),
    (&["http-request"], DECRYPTED),
    (&["http-response"], DECRYPTED),
    (&["http-after-response"], DECRYPTED),
    (&["http-reuse"], DECRYPTED),
    (&["http-error"], ERRORS),
    (&["http-send-name-header"], DECRYPTED),
    (&["http-check"], "the answer to a check counts by its status alone; see `statuses` of `health_check`"),
    (&["tcp-check"], "a check is one TCP connect, TLS handshake or GET; see `health_check`"),
    (&["tcp-response"], "what an upstream sends is passed on unseen"),
    (&["tcp-request"], "there is no such rule here"),
    (&["acl"], "no rule that was carried over uses it"),
    (&["stick-table"], STICKING),
    (&["stick"], STICKING),
    (&["cookie"], DECRYPTED),
    (&["appsession"], DECRYPTED),
    (&["capture"], DECRYPTED),
    (&["compression"], DECRYPTED),
    (&["filter"], DECRYPTED),
    (&["redirect"], DECRYPTED),
    (&["rspadd"], DECRYPTED),
    (&["reqadd"], DECRYPTED),
    (&["monitor-uri"], "there is no HTTP here; see `snigate check --probe`"),
    (&["monitor"], "there is no HTTP here; see `snigate check --probe`"),
    (&["errorfile"], ERRORS),
    (&["errorfiles"], ERRORS),
    (&["errorloc"], ERRORS),
    (&["errorloc302"], ERRORS),
    (&["errorloc303"], ERRORS),
    (&["stats"], STATISTICS),
    (&["log"], LOGGING),
    (&["log-format"], LOGGING),
    (&["log-format-sd"], LOGGING),
    (&["error-log-format"], LOGGING),
    (&["log-tag"], LOGGING),
    (&["log-send-hostname"], LOGGING),
    (&["unique-id-format"], "each connection has its own `id` in the log"),
    (&["unique-id-header"], DECRYPTED),
    (&["option", "tcplog"], LOGGING),
    (&["option", "httplog"], LOGGING),
    (&["option", "dontlognull"], LOGGING),
    (&["option", "dontlog-normal"], LOGGING),
    (&["option", "logasap"], LOGGING),
    (&["option", "log-separate-errors"], LOGGING),
    (&["option", "log-health-checks"], "changes of health are always logged"),
    (&["option", "socket-stats"], STATISTICS),
    (&["option", "contstats"], STATISTICS),
    (&["option", "tcpka"], KEEPALIVE),
    (&["option", "clitcpka"], KEEPALIVE),
    (&["option", "srvtcpka"], KEEPALIVE),
    (&["option", "splice-auto"], KEEPALIVE),
    (&["option", "splice-request"], KEEPALIVE),
    (&["option", "splice-response"], KEEPALIVE),
    (&["option", "redispatch"], "the next attempt always goes to another endpoint"),
    (&["option", "allbackups"], "all backups are always used together, once no primary is up"),
    (&["option", "forwardfor"], "headers are inside TLS; a `proxy_protocol` of the upstream tells it the source"),
    (&["option", "forwarded"], "headers are inside TLS; a `proxy_protocol` of the upstream tells it the source"),
    (&["option", "originalto"], DECRYPTED),
    (&["option", "httpchk"], "no server line that was carried over is checked"),
    (&["option", "ssl-hello-chk"], "no server line that was carried over is checked"),
    (&["option", "tcp-check"], "no server line that was carried over is checked"),
    (&["option", "external-check"], "no program is run here; see `health_check`"),
    (&["option", "transparent"], "clients choose no address here"),
    (&["option", "http"], DECRYPTED),
    (&["option"], "is an option of HAProxy's own, without a counterpart here"),
    (&["no", "option"], "is an option of HAProxy's own, without a counterpart here"),
    (&["timeout", "http-request"], "from accept to a whole ClientHello, `client_hello_timeout` is the limit"),
    (&["timeout", "http-keep-alive"], DECRYPTED),
    (&["timeout", "queue"], "nobody waits in a queue here, but for `max_connecting`"),
    (&["timeout", "tarpit"], "nobody is held here who is refused"),
    (&["timeout", "check"], "no server line that was carried over is checked"),
    (&["timeout"], "no route that was carried over needs it"),
    (&["fullconn"], "endpoints have no limit of their own; see `limits` of a route"),
    (&["maxconn"], "holds for another set of connections here: see `limits` of a route and of the whole gate"),
    (&["backlog"], "the queue of a listener is as long as the system allows"),
    (&["hash-type"], "`source_hash` is consistent (Maglev) by itself"),
    (&["hash-balance-factor"], "`source_hash` is consistent (Maglev) by itself"),
    (&["description"], "is a remark"),
    (&["id"], "is a number for HAProxy's statistics"),
    (&["retries"], "no server line of this section was carried over"),
    (&["default-server"], "no server line that was carried over stands under it"),
    (&["enabled"], "is so anyway"),
    (&["email-alert"], "no mail is sent here"),
    (&["force-persist"], STICKING),
    (&["ignore-persist"], STICKING),
    (&["persist"], STICKING),
    (&["source"], "upstreams are connected to from the address that the system chooses"),
    (&["dispatch"], "an address to send to needs to be an endpoint: write it under `endpoints`"),
    (&["server-state-file-name"], "nothing is kept between starts"),
    (&["load-server-state-from-file"], "nothing is kept between starts"),
    (&["bind-process"], "one process serves everything, with `workers`"),
];

/// Why this line is not in the result.
pub(super) fn of(line: &Line, section: Kind) -> String {
    let begins = |words: &[&str]| {
        words.iter().enumerate().all(|(place, word)| {
            // The many options of HTTP begin alike.
            line.word(place) == *word || *word == "http" && place == 1 && line.word(place).starts_with("http")
        })
    };
    let reason = match section {
        Kind::Global if line.keyword().contains("ssl") || line.keyword() == "crt-base" => TERMINATION,
        Kind::Global if line.keyword() == "log" || line.keyword().starts_with("log-") => LOGGING,
        Kind::Global => PROCESS,
        Kind::Resolvers => "names are asked for again by their TTL, and the last good answer is kept; see `dns`",
        _ => match REASONS.iter().find(|(words, _)| begins(words)) {
            Some((_, reason)) => reason,
            None => "is not known to this import: look up what it does, and whether clients depend on it",
        },
    };
    reason.to_owned()
}
