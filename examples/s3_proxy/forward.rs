//! From a client's connection to one of its own at the server, and back, with what goes wrong on
//! the way.

use std::future::pending;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED,
    RANGE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::body::{Damage, Direction, Metered};
use crate::counts::{Flight, Kind, Ledger};
use crate::faults::{Asked, Fault, Faults, Past, REMEMBERED_BYTES_MAX, Version};
use crate::wire::Line;

/// Pause between tries to listen again.
const LISTEN_PAUSE: Duration = Duration::from_millis(20);

/// What connections share.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// `HOST:PORT`.
    pub upstream: String,
    pub line: Arc<Line>,
    pub ledger: Arc<Ledger>,
    pub faults: Arc<Faults>,
}

/// A body as it came, or one that the proxy holds.
type AnyBody = Either<Metered, Full<Bytes>>;

/// Takes connections, for ever; while the server is to be away, refuses them.
pub async fn serve(clients: TcpListener, proxy: Proxy) -> Result<()> {
    let address = clients.local_addr()?;
    let mut clients = Some(clients);
    let mut away = proxy.faults.away();
    loop {
        let Some(listener) = &clients else {
            away.wait_for(|away| !*away).await?;
            clients = Some(listen_again(address).await);
            continue;
        };
        let accepted = tokio::select! {
            _ = away.wait_for(|away| *away) => None,
            accepted = listener.accept() => Some(accepted.context("accepting a connection")?),
        };
        match accepted {
            Some((client, _)) => _ = tokio::spawn(serve_connection(client, proxy.clone())),
            None => clients = None,
        }
    }
}

async fn listen_again(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => sleep(LISTEN_PAUSE).await,
        }
    }
}

/// A broken connection is the client's to notice.
async fn serve_connection(client: TcpStream, proxy: Proxy) -> Result<()> {
    client.set_nodelay(true)?;
    // The same socket once more: what is served is the HTTP library's.
    let socket = std::net::TcpStream::from(client.as_fd().try_clone_to_owned()?);
    let socket = TcpStream::from_std(socket)?;
    let mut away = proxy.faults.away();
    let connection = Arc::new(Connection { proxy, upstream: Mutex::default(), socket });
    let forwarding = Arc::clone(&connection);
    let service = service_fn(move |request| Arc::clone(&forwarding).forward(request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(client), service);
    tokio::select! {
        _ = served => {}
        _ = away.wait_for(|away| *away) => connection.socket.set_zero_linger()?,
    }
    Ok(())
}

/// One client's connection and what it leads to.
struct Connection {
    proxy: Proxy,
    /// Kept between requests; HTTP/1 has one at a time.
    upstream: Mutex<Option<SendRequest<AnyBody>>>,
    /// The client's, to be reset.
    socket: TcpStream,
}

impl Connection {
    /// An error here closes the client's connection, as the server's would have been.
    async fn forward(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<AnyBody>> {
        let kind = Kind::of(request.method(), request.uri(), request.headers());
        let range = request.headers().get(RANGE).and_then(|range| range.to_str().ok());
        let path = request.uri().path().to_owned();
        let asked = Asked { kind, path: &path, access_key: access_key(request.headers()) };
        let fault = self.proxy.faults.decide(asked);
        let flight = self.proxy.ledger.begin(kind, path, range.map(str::to_owned));
        match self.answer(request, kind, &flight, fault).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                flight.broke();
                Err(error)
            }
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        kind: Kind,
        flight: &Flight,
        fault: Option<Fault>,
    ) -> Result<Response<AnyBody>> {
        match &fault {
            Some(Fault::Reset) => return self.reset(),
            Some(Fault::Hang) => return pending().await,
            Some(Fault::Answer { status, code }) => {
                // The server reads what it is sent, as S3 mostly does before it answers.
                let _ = request.into_body().collect().await;
                return Ok(made_up(flight, refusal(*status, code)?));
            }
            Some(Fault::Stale { millis }) => {
                if let Some(past) = self.proxy.faults.past(request.uri().path(), *millis) {
                    return Ok(made_up(flight, reading(past)?));
                }
            }
            _ => {}
        }
        let line = match &fault {
            Some(Fault::Slow { bytes_per_sec }) => {
                let latency = self.proxy.line.latency().as_millis() as u64;
                Arc::new(Line::new(latency, *bytes_per_sec))
            }
            _ => Arc::clone(&self.proxy.line),
        };
        let answer = self.deliver(request, kind, (flight, &line), fault.as_ref()).await?;
        if let Some(Fault::Latency { millis }) = &fault {
            sleep(Duration::from_millis(*millis)).await;
        }
        sleep(line.latency()).await;
        match &fault {
            Some(Fault::LostAnswer) => return self.reset(),
            Some(Fault::CutAnswer { .. }) => self.socket.set_zero_linger()?,
            Some(Fault::AnswerAfter { status, code }) => {
                return Ok(made_up(flight, refusal(*status, code)?));
            }
            _ => {}
        }
        flight.answered(answer.status().as_u16());
        let (mut head, body) = answer.into_parts();
        let body = Metered::new(body, line, Direction::Down, flight.clone());
        let body = body.damaged(match &fault {
            Some(Fault::CutAnswer { after }) => Some(Damage::Cut(*after)),
            Some(Fault::TruncateAnswer { after }) => Some(Damage::Truncate(*after)),
            Some(Fault::FlipAnswer { at }) => Some(Damage::Flip(*at)),
            _ => None,
        });
        match &fault {
            Some(Fault::TruncateAnswer { .. }) => _ = head.headers.remove(CONTENT_LENGTH),
            Some(Fault::WrongEtag) if head.headers.contains_key(ETAG) => {
                let etag = HeaderValue::from_static("\"00000000000000000000000000000bad\"");
                head.headers.insert(ETAG, etag);
            }
            _ => {}
        }
        Ok(Response::from_parts(head, Either::Left(body)))
    }

    /// Sends the request to the server, as often and as damaged as the fault says, and gives the
    /// answer.
    async fn deliver(
        &self,
        request: Request<Incoming>,
        kind: Kind,
        (flight, line): (&Flight, &Arc<Line>),
        fault: Option<&Fault>,
    ) -> Result<Response<Incoming>> {
        let damage = match fault {
            Some(Fault::CutUpload { after }) => Some(Damage::Cut(*after)),
            Some(Fault::FlipUpload { at }) => Some(Damage::Flip(*at)),
            _ => None,
        };
        let later = match fault {
            Some(Fault::Twice { later_millis }) => Some(Duration::from_millis(*later_millis)),
            _ => None,
        };
        let is_noted = kind == Kind::Put && self.proxy.faults.remembers();
        if later.is_none() && !is_noted {
            let metered = |body| {
                let line = Arc::clone(line);
                Metered::new(body, line, Direction::Up, flight.clone()).damaged(damage)
            };
            return self.send(request.map(|body| Either::Left(metered(body)))).await;
        }
        let (head, body) = request.into_parts();
        let bytes = body.collect().await.context("reading the request")?.to_bytes();
        flight.sent_up(bytes.len() as u64);
        let path = head.uri.path().to_owned();
        let copy = || Request::from_parts(head.clone(), Either::Right(Full::new(bytes.clone())));
        let answer = self.send(copy()).await?;
        if is_noted && answer.status().is_success() {
            self.proxy.faults.remember(&path, version(&answer, &bytes));
        }
        match later {
            Some(Duration::ZERO) => {
                answer.into_body().collect().await.context("reading the first answer")?;
                self.send(copy()).await
            }
            Some(later) => {
                let (proxy, again) = (self.proxy.clone(), copy());
                tokio::spawn(async move {
                    sleep(later).await;
                    let answer = proxy.connect().await?.send_request(again).await?;
                    answer.into_body().collect().await?;
                    Ok::<(), anyhow::Error>(())
                });
                Ok(answer)
            }
            None => Ok(answer),
        }
    }

    async fn send(&self, request: Request<AnyBody>) -> Result<Response<Incoming>> {
        let mut upstream = self.upstream.lock().await;
        // The server may have closed it while it was idle.
        let kept = match upstream.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let sender = match kept {
            Some(sender) => sender,
            None => self.proxy.connect().await?,
        };
        let sender = upstream.insert(sender);
        sender.send_request(request).await.context("asking the server")
    }

    fn reset<T>(&self) -> Result<T> {
        self.socket.set_zero_linger()?;
        bail!("reset as told")
    }
}

impl Proxy {
    async fn connect(&self) -> Result<SendRequest<AnyBody>> {
        let address = &self.upstream;
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// The key id that a request was signed with.
fn access_key(headers: &HeaderMap) -> &str {
    let signed = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("");
    let credential = signed.split("Credential=").nth(1).unwrap_or("");
    credential.split('/').next().unwrap_or("")
}

/// What was put, if it is small enough to be remembered.
fn version(answer: &Response<Incoming>, bytes: &Bytes) -> Option<Version> {
    let text = |name| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
    let (etag, date) = (text(ETAG)?, text(DATE)?);
    let fits = bytes.len() as u64 <= REMEMBERED_BYTES_MAX;
    fits.then(|| Version { bytes: bytes.clone(), etag, date })
}

/// An answer of the proxy's own.
fn made_up(flight: &Flight, answer: Response<Full<Bytes>>) -> Response<AnyBody> {
    flight.answered(answer.status().as_u16());
    flight.end();
    answer.map(Either::Right)
}

/// As S3 says no.
fn refusal(status: u16, code: &str) -> Result<Response<Full<Bytes>>> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>injected \
         by the proxy</Message></Error>"
    );
    let answer = Response::builder().status(status).header(CONTENT_TYPE, "application/xml");
    Ok(answer.body(Full::new(text.into()))?)
}

/// As S3 gives an object.
fn reading(past: Past) -> Result<Response<Full<Bytes>>> {
    let Past::Was(Version { bytes, etag, date }) = past else { return refusal(404, "NoSuchKey") };
    let answer = Response::builder().header(ETAG, etag).header(LAST_MODIFIED, date);
    Ok(answer.body(Full::new(bytes))?)
}
