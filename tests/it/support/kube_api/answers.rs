//! What the stand-in answers: the few kinds that kubectl asks for, as JSON.

use super::State;
use super::serving::Chunks;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode, Uri, header};
use serde_json::{Value, json};
use std::ops::RangeInclusive;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const PODS: &str = "/api/v1/namespaces/default/pods";

pub(super) fn answer(request: &Request<Incoming>, state: &mut State) -> Response<Chunks> {
    let uri = request.uri();
    match uri.path() {
        "/readyz" => readiness(!state.leaving),
        "/version" => one(&json!({ "major": "1", "minor": "32", "gitVersion": "v1.32.0", "platform": "linux/amd64" })),
        "/api" => one(&json!({ "kind": "APIVersions", "versions": ["v1"] })),
        "/apis" => one(&json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] })),
        "/api/v1" => one(&resources()),
        PODS if asks(uri, "watch") => watch(uri, state),
        PODS if wants_table(request) => one(&table(&state.pods, 1..=state.pods.len())),
        PODS => one(&pod_list(&state.pods)),
        path => one_pod(path, uri, state).unwrap_or_else(|| not_found(path)),
    }
}

/// The event that tells of the pod with this resource version.
pub(super) fn watch_event(pods: &[String], version: usize) -> Bytes {
    line(&json!({ "type": "ADDED", "object": table(pods, version..=version) }).to_string())
}

/// Later pods at once, future ones as they come, until the client goes.
fn watch(uri: &Uri, state: &mut State) -> Response<Chunks> {
    let seen = parameter(uri, "resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    let missed = (seen + 1..=state.pods.len()).map(|version| watch_event(&state.pods, version)).collect();
    stream("application/json", missed, Some(&mut state.watchers))
}

/// `…/pods/NAME` and `…/pods/NAME/log`.
fn one_pod(path: &str, uri: &Uri, state: &mut State) -> Option<Response<Chunks>> {
    let rest = path.strip_prefix(PODS)?.strip_prefix('/')?;
    let (name, log) = rest.strip_suffix("/log").map_or((rest, false), |name| (name, true));
    let place = state.pods.iter().position(|pod| pod == name)?;
    if !log {
        return Some(one(&pod(name, place + 1)));
    }
    let lines = state.log.iter().map(|text| line(text)).collect();
    Some(stream("text/plain", lines, asks(uri, "follow").then_some(&mut state.followers)))
}

fn readiness(ready: bool) -> Response<Chunks> {
    let mut response = stream("text/plain", vec![line(if ready { "ok" } else { "shutdown" })], None);
    if !ready {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

fn resources() -> Value {
    let verbs = ["get", "list", "watch"];
    json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": [
        { "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "shortNames": ["po"], "verbs": verbs },
        { "name": "pods/log", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get"] },
    ]})
}

fn pod(name: &str, version: usize) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": metadata(name, version),
        "spec": { "containers": [{ "name": "main", "image": "main" }] },
        "status": { "phase": "Running" },
    })
}

fn metadata(name: &str, version: usize) -> Value {
    json!({ "name": name, "namespace": "default", "uid": format!("uid-{version}"), "resourceVersion": version.to_string() })
}

fn pod_list(pods: &[String]) -> Value {
    let items: Vec<_> = pods.iter().zip(1..).map(|(name, version)| pod(name, version)).collect();
    json!({ "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": pods.len().to_string() }, "items": items })
}

/// The pods with these resource versions, in the columns that kubectl prints as they are.
fn table(pods: &[String], versions: RangeInclusive<usize>) -> Value {
    let columns = ["Name", "Ready", "Status", "Restarts", "Age"]
        .map(|name| json!({ "name": name, "type": "string", "format": "", "description": "", "priority": 0 }));
    let newest = *versions.end();
    let rows: Vec<_> = versions.map(|version| row(&pods[version - 1], version)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": { "resourceVersion": newest.to_string() },
        "columnDefinitions": columns, "rows": rows,
    })
}

fn row(name: &str, version: usize) -> Value {
    let object = json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata(name, version),
    });
    json!({ "cells": [name, "1/1", "Running", "0", "1m"], "object": object })
}

fn not_found(path: &str) -> Response<Chunks> {
    let mut response = one(&json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404,
        "message": format!("{path} not found"),
    }));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn one(object: &Value) -> Response<Chunks> {
    stream("application/json", vec![line(&object.to_string())], None)
}

/// A body of `chunks`, open for more where it has `listeners` to join.
fn stream(
    kind: &'static str,
    chunks: Vec<Bytes>,
    listeners: Option<&mut Vec<UnboundedSender<Bytes>>>,
) -> Response<Chunks> {
    let (sender, receiver) = unbounded_channel();
    for chunk in chunks {
        // The receiver is in the line below.
        let _ = sender.send(chunk);
    }
    if let Some(listeners) = listeners {
        listeners.push(sender);
    }
    let mut response = Response::new(Chunks(receiver));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

pub(super) fn line(text: &str) -> Bytes {
    Bytes::from(format!("{text}\n"))
}

/// Whether kubectl asks for rows and columns in place of objects.
fn wants_table(request: &Request<Incoming>) -> bool {
    request
        .headers()
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.as_bytes().windows(8).any(|part| part == b"as=Table"))
}

fn asks(uri: &Uri, name: &str) -> bool {
    parameter(uri, name).is_some_and(|value| value == "true" || value == "1")
}

fn parameter<'u>(uri: &'u Uri, name: &str) -> Option<&'u str> {
    uri.query()?
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}
