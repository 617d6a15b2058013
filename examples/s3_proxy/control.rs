//! The counts, the line and what goes wrong on it, over HTTP.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use crate::counts::{Counts, Ledger, Record};
use crate::faults::{Faults, Rule, Seen};
use crate::wire::Line;

/// The line's settings; what is left out becomes none.
#[derive(Debug, Deserialize)]
struct Wires {
    #[serde(default)]
    latency_millis: u64,
    #[serde(default)]
    bytes_per_sec: u64,
}

/// What goes wrong from now on, instead of all that did.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    rules: Vec<Rule>,
    /// Nothing listens.
    #[serde(default)]
    away: bool,
}

pub fn router(ledger: Arc<Ledger>, line: Arc<Line>, faults: Arc<Faults>) -> Router {
    let wires = async move |Query(wires): Query<Wires>| {
        line.set(wires.latency_millis, wires.bytes_per_sec);
    };
    let (told, asked) = (Arc::clone(&faults), faults);
    let set_faults = async move |Json(script): Json<Script>| {
        told.set(script.seed, script.rules);
        told.set_away(script.away);
    };
    let seen = async move || -> Json<Vec<Seen>> { Json(asked.seen()) };
    Router::new()
        .route("/counts", get(counts))
        .route("/requests", get(requests))
        .route("/reset", post(reset))
        .route("/wire", post(wires))
        .route("/faults", post(set_faults).get(seen))
        .with_state(ledger)
}

async fn counts(State(ledger): State<Arc<Ledger>>) -> Json<Counts> {
    Json(ledger.counts())
}

async fn requests(State(ledger): State<Arc<Ledger>>) -> Json<Vec<Record>> {
    Json(ledger.requests())
}

async fn reset(State(ledger): State<Arc<Ledger>>) -> Json<Counts> {
    Json(ledger.reset())
}
