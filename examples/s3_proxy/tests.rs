//! Through the proxy to a server of the test's own: exact counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes as AnyBody;
use axum::http::StatusCode;
use axum::routing::any;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, oneshot};

use crate::control;
use crate::counts::{Counts, Kind, Ledger};
use crate::faults::{Faults, Rule};
use crate::forward::{Proxy, serve};
use crate::wire::Line;

/// Longer than anything here takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    address: String,
    ledger: Arc<Ledger>,
    line: Arc<Line>,
    faults: Arc<Faults>,
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A proxy in front of what listens at `upstream`.
async fn proxy_to(upstream: String, line: Line) -> World {
    let (clients, address) = listener().await;
    let (ledger, line) = (Arc::new(Ledger::default()), Arc::new(line));
    let faults = Arc::new(Faults::default());
    let world = World { address, ledger, line, faults };
    let (ledger, line) = (Arc::clone(&world.ledger), Arc::clone(&world.line));
    let proxy = Proxy { upstream, line, ledger, faults: Arc::clone(&world.faults) };
    tokio::spawn(serve(clients, proxy));
    world
}

async fn proxy_to_router(router: Router) -> World {
    let (upstream, address) = listener().await;
    tokio::spawn(async move { axum::serve(upstream, router).await });
    proxy_to(address, Line::new(0, 0)).await
}

/// Answers each request with as many bytes as its path says: `/bucket/100`.
fn sized() -> Router {
    let answer = async |request: axum::extract::Request| {
        let path = request.uri().path().to_owned();
        let is_head = request.method() == Method::HEAD;
        // The server reads what it is sent, as S3 does before it answers.
        let _body: AnyBody = request.into_body().collect().await.unwrap().to_bytes();
        match path.rsplit('/').next().unwrap().parse() {
            Ok(bytes) if !is_head => (StatusCode::OK, vec![b'x'; bytes]),
            Ok(_) => (StatusCode::OK, Vec::new()),
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, Vec::new()),
        }
    };
    Router::new().fallback(any(answer))
}

type Client = SendRequest<Full<Bytes>>;

impl World {
    async fn client(&self) -> Client {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (client, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

/// Asks, and reads all of the answer: its status and length.
async fn ask(client: &mut Client, method: Method, path: &str, body: usize) -> (u16, usize) {
    client.ready().await.unwrap();
    let body = Full::new(Bytes::from(vec![b'y'; body]));
    let request = Request::builder().method(method).uri(path).header("host", "s3");
    let answer = client.send_request(request.body(body).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.into_body().collect().await.unwrap().to_bytes().len())
}

#[tokio::test]
async fn requests_bytes_and_chain_are_exact() {
    let world = proxy_to_router(sized()).await;
    let mut client = world.client().await;
    assert_eq!(ask(&mut client, Method::GET, "/b/1000000", 0).await, (200, 1_000_000));
    assert_eq!(ask(&mut client, Method::PUT, "/b/0", 2_000_001).await, (200, 0));
    assert_eq!(ask(&mut client, Method::HEAD, "/b/77", 0).await, (200, 0));
    assert_eq!(ask(&mut client, Method::GET, "/b/?list-type=2", 0).await.0, 503);
    let by_kind = [(Kind::Get, 1), (Kind::Head, 1), (Kind::List, 1), (Kind::Put, 1)];
    let wanted = Counts {
        requests: 4,
        by_kind: BTreeMap::from(by_kind),
        bytes_up: 2_000_001,
        bytes_down: 1_000_000,
        chain: 4,
        in_flight: 0,
        failed: 1,
        parallel_max: 1,
    };
    assert_eq!(world.ledger.counts(), wanted);
    assert_eq!(world.ledger.reset(), wanted);
    assert_eq!(world.ledger.counts(), Counts::default());
}

#[tokio::test]
async fn requests_at_once_are_one_round_trip_and_those_after_them_the_next() {
    const AT_ONCE: usize = 4;
    let met = Arc::new(Barrier::new(AT_ONCE));
    let answer = async move || {
        met.wait().await;
        "met"
    };
    let world = proxy_to_router(Router::new().fallback(any(answer))).await;
    for round in 1..=2 {
        let mut asking = Vec::new();
        for _ in 0..AT_ONCE {
            let mut client = world.client().await;
            asking
                .push(tokio::spawn(async move { ask(&mut client, Method::GET, "/b/k", 0).await }));
        }
        for asked in asking {
            assert_eq!(asked.await.unwrap(), (200, 3));
        }
        let counts = world.ledger.counts();
        assert_eq!((counts.chain, counts.requests), (round, round * AT_ONCE as u64));
    }
    assert_eq!(world.ledger.counts().parallel_max, AT_ONCE as u64);
}

/// A server that the test plays itself, one connection long.
async fn by_hand() -> (TcpListener, World) {
    let (upstream, address) = listener().await;
    let world = proxy_to(address, Line::new(0, 0)).await;
    (upstream, world)
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn bodies_stream_in_both_directions() {
    const HALF: usize = 500_000;
    let (upstream, world) = by_hand().await;
    let (has_half, server_has_half) = oneshot::channel();
    let (got_half, client_got_half) = oneshot::channel();
    let server = tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("PUT /b/k HTTP/1.1\r\n"));
        let mut half = vec![0; HALF];
        stream.read_exact(&mut half).await.unwrap();
        has_half.send(()).unwrap();
        stream.read_exact(&mut half).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * HALF);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&half).await.unwrap();
        client_got_half.await.unwrap();
        stream.write_all(&half).await.unwrap();
    });
    let client = async {
        let mut stream = TcpStream::connect(&world.address).await.unwrap();
        let head = format!("PUT /b/k HTTP/1.1\r\nhost: s3\r\ncontent-length: {}\r\n\r\n", 2 * HALF);
        let mut half = vec![b'z'; HALF];
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&half).await.unwrap();
        server_has_half.await.unwrap();
        stream.write_all(&half).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
        stream.read_exact(&mut half).await.unwrap();
        assert_eq!(world.ledger.counts().in_flight, 1, "half of the answer is not the end");
        got_half.send(()).unwrap();
        stream.read_exact(&mut half).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, client).await.expect("a whole body was held back");
    server.await.unwrap();
    let counts = world.ledger.counts();
    assert_eq!((counts.bytes_up, counts.bytes_down), (2 * HALF as u64, 2 * HALF as u64));
    assert_eq!((counts.in_flight, counts.chain), (0, 1));
}

#[tokio::test]
async fn a_chunked_answer_and_a_second_request_share_a_connection() {
    let (upstream, world) = by_hand().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        for _ in 0..2 {
            read_head(&mut stream).await;
            let answer =
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let mut client = world.client().await;
    assert_eq!(ask(&mut client, Method::GET, "/b/k", 0).await, (200, 3));
    assert_eq!(ask(&mut client, Method::GET, "/b/k", 0).await, (200, 3));
    server.await.unwrap();
    let counts = world.ledger.counts();
    assert_eq!((counts.requests, counts.bytes_down, counts.chain), (2, 6, 2));
}

#[tokio::test]
async fn a_server_that_closes_the_line_costs_the_client_its_connection() {
    let (upstream, world) = by_hand().await;
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        read_head(&mut stream).await;
    });
    let mut client = world.client().await;
    let request = Request::builder().uri("/b/k").header("host", "s3");
    let request = request.body(Full::new(Bytes::new())).unwrap();
    assert!(client.send_request(request).await.is_err());
    let counts = world.ledger.counts();
    assert_eq!((counts.requests, counts.failed, counts.in_flight), (1, 1, 0));
}

#[tokio::test]
async fn latency_and_bandwidth_hold_answers_back() {
    let world = proxy_to_router(sized()).await;
    // No answer can come sooner than this, 10 ms of slack and rounding taken off; how much later
    // is the machine's business.
    world.line.set(50, 10_000_000);
    let mut client = world.client().await;
    let begin = tokio::time::Instant::now();
    ask(&mut client, Method::GET, "/b/1000000", 0).await;
    assert!(begin.elapsed() >= Duration::from_millis(50 + 89), "{:?}", begin.elapsed());
    let begin = tokio::time::Instant::now();
    ask(&mut client, Method::PUT, "/b/0", 1_000_000).await;
    assert!(begin.elapsed() >= Duration::from_millis(50 + 89), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn the_counts_are_read_and_reset_over_http() {
    let world = proxy_to_router(sized()).await;
    let (listener, address) = listener().await;
    let faults = Arc::clone(&world.faults);
    let router = control::router(Arc::clone(&world.ledger), Arc::clone(&world.line), faults);
    tokio::spawn(async move { axum::serve(listener, router).await });
    ask(&mut world.client().await, Method::GET, "/b/10", 0).await;
    let (ledger, line) = (Arc::default(), Arc::new(Line::new(0, 0)));
    let control = World { address, ledger, line, faults: Arc::default() };
    let mut client = control.client().await;
    for (method, path) in [(Method::GET, "/counts"), (Method::POST, "/reset")] {
        let request = Request::builder().method(method).uri(path).header("host", "c");
        client.ready().await.unwrap();
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let answer = client.send_request(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let counts: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(counts["requests"], 1);
        assert_eq!(counts["by_kind"]["get"], 1);
        assert_eq!(counts["bytes_down"], 10);
    }
    assert_eq!(world.ledger.counts(), Counts::default());
    let path = "/wire?latency_millis=3&bytes_per_sec=5";
    assert_eq!(ask(&mut client, Method::POST, path, 0).await.0, 200);
    assert_eq!(world.line.latency(), Duration::from_millis(3));
}

/// What a client sees of one PUT of 1,000 bytes, or GET of as many, with this fault on the line:
/// the status and body, or none where the connection broke.
async fn meet(world: &World, method: Method, fault: &str) -> Option<(u16, Vec<u8>)> {
    let rule: Rule = serde_json::from_str(&format!("{{\"fault\": {fault}}}")).unwrap();
    world.faults.set(1, vec![rule]);
    let sent = if method == Method::PUT { 1000 } else { 0 };
    let mut client = world.client().await;
    let body = Full::new(Bytes::from(vec![b'y'; sent]));
    let request = Request::builder().method(method).uri("/b/1000").header("host", "s3");
    let answer = client.send_request(request.body(body).unwrap()).await.ok()?;
    let status = answer.status().as_u16();
    let etag = answer.headers().get("etag").map(|etag| etag.as_bytes().to_vec());
    let bytes = answer.into_body().collect().await.ok()?.to_bytes().to_vec();
    Some((status, etag.unwrap_or(bytes)))
}

/// A server that notes the bodies of PUTs and gives 1,000 bytes for a GET.
async fn noting() -> (World, Arc<Mutex<Vec<Vec<u8>>>>) {
    let noted: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let notes = Arc::clone(&noted);
    let answer = async move |request: axum::extract::Request| {
        let is_put = request.method() == Method::PUT;
        let Ok(body) = request.into_body().collect().await else { return Vec::new() };
        if !is_put {
            return vec![b'x'; 1000];
        }
        notes.lock().push(body.to_bytes().to_vec());
        Vec::new()
    };
    (proxy_to_router(Router::new().fallback(any(answer))).await, noted)
}

#[tokio::test]
async fn each_fault_of_an_answer_is_what_it_says() {
    let (world, _) = noting().await;
    let whole = vec![b'x'; 1000];
    let get = async |fault: &str| meet(&world, Method::GET, fault).await;
    assert_eq!(get(r#"{"latency": {"millis": 1}}"#).await, Some((200, whole.clone())));
    assert_eq!(get(r#"{"slow": {"bytes_per_sec": 100000}}"#).await, Some((200, whole.clone())));
    assert_eq!(get(r#""reset""#).await, None);
    assert_eq!(get(r#""lost_answer""#).await, None);
    assert_eq!(get(r#"{"cut_answer": {"after": 100}}"#).await, None);
    let short = get(r#"{"truncate_answer": {"after": 100}}"#).await;
    assert_eq!(short, Some((200, whole[..100].to_vec())));
    let mut flipped = whole.clone();
    flipped[7] ^= 1;
    assert_eq!(get(r#"{"flip_answer": {"at": 2007}}"#).await, Some((200, flipped)));
    let (status, text) = get(r#"{"answer": {"status": 503, "code": "SlowDown"}}"#).await.unwrap();
    assert!(status == 503 && String::from_utf8(text).unwrap().contains("<Code>SlowDown</Code>"));
    assert_eq!(get(r#"{"stale": {"millis": 1000}}"#).await, Some((200, whole)), "never put");
}

#[tokio::test]
async fn each_fault_of_a_put_reaches_the_server_as_it_says() {
    let (world, noted) = noting().await;
    let whole = vec![b'y'; 1000];
    let seen = async |fault: &str| {
        noted.lock().clear();
        let met = meet(&world, Method::PUT, fault).await.map(|(status, _)| status);
        (met, noted.lock().clone())
    };
    let nothing = Vec::<Vec<u8>>::new();
    assert_eq!(seen(r#""reset""#).await, (None, nothing.clone()));
    let refuse = r#"{"answer": {"status": 507, "code": "QuotaExceeded"}}"#;
    assert_eq!(seen(refuse).await, (Some(507), nothing.clone()));
    assert_eq!(seen(r#"{"cut_upload": {"after": 100}}"#).await, (None, nothing));
    assert_eq!(seen(r#""lost_answer""#).await, (None, vec![whole.clone()]));
    let after = r#"{"answer_after": {"status": 500, "code": "InternalError"}}"#;
    assert_eq!(seen(after).await, (Some(500), vec![whole.clone()]));
    let twice = seen(r#"{"twice": {"later_millis": 0}}"#).await;
    assert_eq!(twice, (Some(200), vec![whole.clone(), whole.clone()]));
    let mut flipped = whole;
    flipped[999] ^= 1;
    assert_eq!(seen(r#"{"flip_upload": {"at": 999}}"#).await, (Some(200), vec![flipped]));
}

#[tokio::test]
async fn a_wrong_etag_takes_the_place_of_one_that_was_there() {
    let answer = async || ([("etag", "\"right\"")], "body");
    let world = proxy_to_router(Router::new().fallback(any(answer))).await;
    let etag = async |fault: &str| meet(&world, Method::GET, fault).await.unwrap().1;
    assert_eq!(etag(r#"{"latency": {"millis": 0}}"#).await, b"\"right\"");
    assert_eq!(etag(r#""wrong_etag""#).await, b"\"00000000000000000000000000000bad\"");
}

#[tokio::test]
async fn a_late_second_delivery_comes_after_the_answer() {
    let (world, noted) = noting().await;
    let met = meet(&world, Method::PUT, r#"{"twice": {"later_millis": 1}}"#).await;
    assert_eq!(met.map(|(status, _)| status), Some(200));
    while noted.lock().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn what_is_not_answered_stays_so_until_the_server_is_away() {
    let (world, _) = noting().await;
    world.faults.set(1, vec![serde_json::from_str(r#"{"fault": "hang"}"#).unwrap()]);
    let mut client = world.client().await;
    let asking = tokio::spawn(async move {
        let request = Request::builder().uri("/b/k").header("host", "s3");
        client.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.is_err()
    });
    while world.ledger.counts().in_flight == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.faults.set_away(true);
    assert!(tokio::time::timeout(PATIENCE, asking).await.unwrap().unwrap());
    while TcpStream::connect(&world.address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.faults.set(1, Vec::new());
    world.faults.set_away(false);
    while TcpStream::connect(&world.address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(ask(&mut world.client().await, Method::GET, "/b/1000", 0).await, (200, 1000));
}
