//! A line to the server that breaks as it is told.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

/// What happens to the next connection that carries a PUT of the armed key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Break {
    /// The request arrives, the answer does not come back.
    DropAnswer,
    /// The line is cut in the middle of the request's body.
    CutBody,
    /// A bit of the request's body is flipped.
    FlipBit,
}

#[derive(Debug)]
struct Armed {
    how: Break,
    /// Text of the request line.
    marker: String,
}

/// Forwards connections on a port of its own to a server.
#[derive(Debug)]
pub struct Proxy {
    pub endpoint: String,
    armed: Arc<Mutex<Option<Armed>>>,
}

impl Proxy {
    pub fn start(server: &str) -> Proxy {
        let server = server.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let armed = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&armed);
        // Ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, armed) = (server.clone(), Arc::clone(&shared));
                thread::spawn(move || {
                    let Ok(upstream) = TcpStream::connect(&server) else { return };
                    forward(client, upstream, &armed);
                });
            }
        });
        Proxy { endpoint, armed }
    }

    /// Breaks the next PUT whose request line holds `key`.
    pub fn arm(&self, how: Break, key: &str) {
        *self.armed.lock() = Some(Armed { how, marker: key.to_owned() });
    }

    /// True once the armed break has happened.
    pub fn fired(&self) -> bool {
        self.armed.lock().is_none()
    }
}

/// Takes what is armed, if this begins its request.
fn due(head: &[u8], armed: &Mutex<Option<Armed>>) -> Option<Break> {
    let line = head.split(|&byte| byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut armed = armed.lock();
    let hit = line.starts_with("PUT ") && line.contains(&armed.as_ref()?.marker);
    hit.then(|| armed.take()).flatten().map(|armed| armed.how)
}

fn forward(mut client: TcpStream, mut upstream: TcpStream, armed: &Mutex<Option<Armed>>) {
    let drop_answer = Arc::new(Mutex::new(false));
    let answers = {
        let (mut from, mut to) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
        let drop_answer = Arc::clone(&drop_answer);
        thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                // A server may ask for the body first: that is no answer yet.
                let interim = buffer.starts_with(b"HTTP/1.1 100");
                if (*drop_answer.lock() && !interim) || to.write_all(&buffer[..len]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        })
    };
    let mut buffer = [0; 65536];
    let mut how = None;
    let mut body_bytes = 0;
    while let Ok(len @ 1..) = client.read(&mut buffer) {
        let part = &mut buffer[..len];
        let mut body_at = 0;
        if how.is_none() {
            how = due(part, armed);
            body_at = match part.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => end + 4,
                None => len,
            };
        }
        *drop_answer.lock() |= how == Some(Break::DropAnswer);
        if how == Some(Break::FlipBit) && body_at < len {
            part[body_at] ^= 1;
            // Once; the connection may carry more requests.
            how = None;
        }
        body_bytes += len - body_at;
        if how == Some(Break::CutBody) && body_bytes > 0 {
            break;
        }
        if upstream.write_all(part).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = upstream.shutdown(Shutdown::Both);
    let _ = answers.join();
}
