//! The counts over HTTP.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use crate::counts::{Counts, Ledger, Record};
use crate::wire::Line;

/// The line's settings; what is left out becomes none.
#[derive(Debug, Deserialize)]
struct Wires {
    #[serde(default)]
    latency_millis: u64,
    #[serde(default)]
    bytes_per_sec: u64,
}

pub fn router(ledger: Arc<Ledger>, line: Arc<Line>) -> Router {
    let wires = async move |Query(wires): Query<Wires>| {
        line.set(wires.latency_millis, wires.bytes_per_sec);
    };
    Router::new()
        .route("/counts", get(counts))
        .route("/requests", get(requests))
        .route("/reset", post(reset))
        .route("/wire", post(wires))
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
