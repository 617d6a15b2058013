//! From a client's connection to one of its own at the server, and back.

use std::sync::Arc;

use anyhow::{Context, Result};

use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::RANGE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use crate::body::{Direction, Metered};
use crate::counts::{Flight, Kind, Ledger};
use crate::wire::Line;

/// What connections share.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// `HOST:PORT`.
    pub upstream: String,
    pub line: Arc<Line>,
    pub ledger: Arc<Ledger>,
}

/// Takes connections, for ever.
pub async fn serve(clients: TcpListener, proxy: Proxy) -> Result<()> {
    loop {
        let (client, _) = clients.accept().await.context("accepting a connection")?;
        client.set_nodelay(true)?;
        let connection = Arc::new(Connection { proxy: proxy.clone(), upstream: Mutex::default() });
        tokio::spawn(async move {
            let service = service_fn(move |request| Arc::clone(&connection).forward(request));
            // A broken connection is the client's to notice.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(client), service)
                .await;
        });
    }
}

/// One client's connection and what it leads to.
struct Connection {
    proxy: Proxy,
    /// Kept between requests; HTTP/1 has one at a time.
    upstream: Mutex<Option<SendRequest<Metered>>>,
}

impl Connection {
    /// An error here closes the client's connection, as the server's would have been.
    async fn forward(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Metered>> {
        let kind = Kind::of(request.method(), request.uri(), request.headers());
        let range = request.headers().get(RANGE).and_then(|range| range.to_str().ok());
        let path = request.uri().path().to_owned();
        let flight = self.proxy.ledger.begin(kind, path, range.map(str::to_owned));
        let answer = self.send(request, &flight).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                flight.broke();
                return Err(error);
            }
        };
        tokio::time::sleep(self.proxy.line.latency()).await;
        flight.answered(answer.status().as_u16());
        let line = Arc::clone(&self.proxy.line);
        Ok(answer.map(|body| Metered::new(body, line, Direction::Down, flight)))
    }

    async fn send(
        &self,
        request: Request<Incoming>,
        flight: &Flight,
    ) -> Result<Response<Incoming>> {
        let line = Arc::clone(&self.proxy.line);
        let request = request.map(|body| Metered::new(body, line, Direction::Up, flight.clone()));
        let mut upstream = self.upstream.lock().await;
        // The server may have closed it while it was idle.
        let kept = match upstream.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let sender = upstream.insert(sender);
        sender.send_request(request).await.context("asking the server")
    }

    async fn connect(&self) -> Result<SendRequest<Metered>> {
        let address = &self.proxy.upstream;
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
