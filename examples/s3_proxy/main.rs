//! A line to an S3 server that is as slow as a real one, counts, and breaks as it is told: each
//! answer's first byte comes later by a latency, each direction carries so many bytes a second, and
//! the requests, the bytes and the longest chain of dependent round trips can be read and reset.
//!
//! ```text
//! cargo run --release --example s3_proxy -- --upstream http://127.0.0.1:18080
//! ```
//! prints one line of JSON: `endpoint` is where clients go, `control` where the counts are:
//! `GET /counts`, `POST /reset` (gives the counts up to then), `GET /requests` (each one), `POST
//! /wire?latency_millis=25&bytes_per_sec=100000000` (0: none). Bodies stream: the proxy holds one
//! read of a connection, never a whole body. Connections are kept alive, one upstream for each.
//!
//! `POST /faults` says what goes wrong from now on (`faults.rs` has the words), `GET /faults` how
//! many requests each rule has matched and met:
//!
//! ```json
//! {"seed": 7, "away": false, "rules": [
//!     {"kinds": ["put"], "path": "/packs/", "skip": 2, "times": 1, "fault": "lost_answer"},
//!     {"per_mille": 300, "fault": {"answer": {"status": 503, "code": "SlowDown"}}}]}
//! ```
//! Some faults hold a whole body: `twice`, and puts while a rule says `stale`.
//!
//! Not modelled: handshakes, packet loss, a limit per connection.
#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

mod body;
mod control;
mod counts;
mod faults;
mod forward;
#[cfg(test)]
mod tests;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::net::TcpListener;

use crate::counts::Ledger;
use crate::faults::Faults;
use crate::forward::Proxy;
use crate::wire::Line;

/// Slows down and counts what goes to an S3 server. Everything listens on loopback.
#[derive(Debug, Parser)]
struct Args {
    /// The server: http://HOST:PORT.
    #[arg(long)]
    upstream: String,
    /// Port for clients; 0: any free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Port for the counts; 0: any free one.
    #[arg(long, default_value_t = 0)]
    control_port: u16,
    /// Added to the time until an answer's first byte.
    #[arg(long, default_value_t = 25)]
    latency_millis: u64,
    /// Bytes of bodies per second in each direction, all connections together; 0: no limit.
    #[arg(long, default_value_t = 100_000_000)]
    bytes_per_sec: u64,
}

#[tokio::main(worker_threads = 1)]
async fn main() -> Result<()> {
    let args = Args::parse();
    let upstream = args.upstream.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let line = Arc::new(Line::new(args.latency_millis, args.bytes_per_sec));
    let ledger = Arc::new(Ledger::default());
    let faults = Arc::new(Faults::default());
    let clients = listen(args.port).await?;
    let control = listen(args.control_port).await?;
    let told = serde_json::json!({
        "endpoint": format!("http://{}", clients.local_addr()?),
        "control": format!("http://{}", control.local_addr()?),
    });
    println!("{told}");
    let counts = control::router(Arc::clone(&ledger), Arc::clone(&line), Arc::clone(&faults));
    tokio::spawn(async move { axum::serve(control, counts).await });
    forward::serve(clients, Proxy { upstream, line, ledger, faults }).await
}

async fn listen(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))
}
