//! `/api/v1/`: what the gate knows of itself, as JSON.

mod query;
mod routes;
mod status;
mod upstreams;

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::Known;
use query::Query;

/// An answer.
#[derive(Debug)]
pub(super) enum Said {
    Json(StatusCode, Value),
    /// The configuration.
    Yaml(String),
    /// There is nothing at this path.
    Nothing,
    /// Something else can be done with what is there.
    Only(&'static str),
}

/// What is answered at this path below `/api/v1/`.
pub(super) async fn answer(known: &Arc<Known>, method: &Method, path: &str, query: Option<&str>) -> Said {
    if path == "reload" {
        return if method == Method::POST { reload(known).await } else { Said::Only("POST") };
    }
    let is_known = ["status", "config", "routes", "upstreams", "explain"].contains(&path);
    match *method {
        _ if !is_known => Said::Nothing,
        Method::GET | Method::HEAD => {
            let (known, path, query) = (Arc::clone(known), path.to_owned(), query.map(str::to_owned));
            // Where there are many routes it takes its time, and others ask meanwhile.
            let said = spawn_blocking(move || look(&known, &path, query.as_deref())).await;
            said.unwrap_or_else(|_| mistake(StatusCode::INTERNAL_SERVER_ERROR, "a defect of snigate's"))
        }
        _ => Said::Only("GET, HEAD"),
    }
}

fn look(known: &Known, path: &str, query: Option<&str>) -> Said {
    let found = |value| Said::Json(StatusCode::OK, value);
    match path {
        "status" => found(status::status(known)),
        "config" => Said::Yaml(known.view.current.load().config.to_string()),
        "routes" => found(routes::routes(&known.view)),
        "upstreams" => found(upstreams::upstreams(&known.view)),
        _ => match explain(known, query.unwrap_or_default()) {
            Ok(explained) => found(explained),
            Err(wrong) => mistake(StatusCode::BAD_REQUEST, &wrong),
        },
    }
}

fn explain(known: &Known, query: &str) -> Result<Value, String> {
    let Query { client, listener } = query.parse()?;
    let config = &known.view.current.load().config;
    let explanations = config.explain(&client, listener.as_deref())?;
    let explained = |(listeners, text)| json!({ "listeners": listeners, "explanation": text });
    let explained: Vec<Value> = explanations.into_iter().map(explained).collect();
    Ok(json!({ "source": client.source.to_string(), "explanations": explained }))
}

async fn reload(known: &Known) -> Said {
    let (asked, outcome) = oneshot::channel();
    // A process that takes its leave answers nobody any more.
    let _ = known.reloads.send(asked);
    match outcome.await.unwrap_or_else(|_| Err(vec!["the process is stopping".to_owned()])) {
        Ok(changed) => Said::Json(StatusCode::OK, json!({ "changed": changed })),
        Err(wrong) => Said::Json(StatusCode::UNPROCESSABLE_ENTITY, json!({ "mistakes": wrong })),
    }
}

fn mistake(status: StatusCode, wrong: &str) -> Said {
    Said::Json(status, json!({ "mistakes": [wrong] }))
}
