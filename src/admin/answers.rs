//! Which question has which answer.

use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::task::spawn_blocking;

use super::api::{self, Said};
use super::formats::Format;
use super::guard::Care;
use super::{Desk, Known, health, metrics};

/// What is answered to whom.
pub(super) async fn answer(desk: &Desk, request: Request<Incoming>, own: Option<IpAddr>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let care = match path {
        "/livez" | "/readyz" => Care::None,
        "/metrics" => Care::TokenOrName,
        _ => Care::TokenAndName,
    };
    if let Err(status) = desk.guard.admit(care, request.headers(), own) {
        return refusal(status);
    }
    if let Some(path) = path.strip_prefix("/api/v1/") {
        let said = api::answer(&desk.known, request.method(), path, request.uri().query()).await;
        return written(said);
    }
    if !matches!(path, "/livez" | "/readyz" | "/metrics") {
        return refusal(StatusCode::NOT_FOUND);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return only("GET, HEAD");
    }
    match path {
        "/livez" => text(StatusCode::OK, "alive\n".to_owned()),
        "/readyz" => readiness(&desk.known),
        _ => figures(&desk.known, &request).await,
    }
}

/// What the API says.
fn written(said: Said) -> Response<Full<Bytes>> {
    match said {
        Said::Json(status, value) => of_type(status, "application/json", format!("{value:#}\n")),
        Said::Yaml(text) => of_type(StatusCode::OK, "application/yaml", text),
        Said::Nothing => refusal(StatusCode::NOT_FOUND),
        Said::Only(methods) => only(methods),
    }
}

fn only(methods: &'static str) -> Response<Full<Bytes>> {
    let mut refused = refusal(StatusCode::METHOD_NOT_ALLOWED);
    refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    refused
}

fn readiness(known: &Known) -> Response<Full<Bytes>> {
    match health::objections(&known.view).as_slice() {
        [] => text(StatusCode::OK, "ready\n".to_owned()),
        objections => {
            let lines = objections.iter().map(|objection| format!("not ready: {objection}\n"));
            text(StatusCode::SERVICE_UNAVAILABLE, lines.collect())
        }
    }
}

async fn figures(known: &Arc<Known>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::preferred(accept);
    let known = Arc::clone(known);
    // Where there are many routes it takes its time, and others ask meanwhile.
    match spawn_blocking(move || format.of(metrics::render(&known))).await {
        Ok(figures) => of_type(StatusCode::OK, format.content_type(), figures),
        Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    of_type(status, "text/plain; charset=utf-8", body)
}

/// Says no.
fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let why = match status {
        StatusCode::UNAUTHORIZED => "the token of `admin.token_file` is needed, as `Authorization: Bearer …`",
        StatusCode::MISDIRECTED_REQUEST => "asked by a name that is not ours: add it to `admin.hosts`",
        StatusCode::FORBIDDEN => "asked by a page that is not ours",
        StatusCode::BAD_REQUEST => "exactly one `Host` is needed",
        other => other.canonical_reason().unwrap_or_default(),
    };
    let mut refused = text(status, format!("{why}\n"));
    if status == StatusCode::UNAUTHORIZED {
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    refused
}

fn of_type(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
