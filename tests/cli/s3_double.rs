//! An S3 store in this process that keeps the rules, notes what it is asked, and fails as told.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};

use crate::support::{Request, World, http_server};

type Answer = (u16, Vec<(String, String)>, Vec<u8>);

/// What happens to a request instead of being served.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// This status and code.
    Answer(u16, &'static str),
    /// No answer until the trouble is over, and then 503.
    Silence,
}

type Script = dyn FnMut(&Request) -> Option<Trouble> + Send;

#[derive(Default)]
struct State {
    /// Content, and how often it was written.
    objects: BTreeMap<String, (Vec<u8>, u64)>,
    /// Method and path of each request.
    asked: Vec<(String, String)>,
    script: Option<Box<Script>>,
    healed: u64,
}

/// A handle on the store.
#[derive(Clone, Default)]
pub struct Double(Arc<(Mutex<State>, Condvar)>);

impl Double {
    /// A store, and a world whose commands use it. Nothing is in it yet.
    pub fn world() -> (Double, World) {
        let double = Double::default();
        let server = double.clone();
        let mut world = World::bare();
        world.set("DORMOUSE_STORE", "s3://bucket/prefix");
        world.set("DORMOUSE_ENDPOINT", http_server(move |request| server.answer(request)));
        world.set("AWS_REGION", "us-east-1");
        world.set("DORMOUSE_HOT_SET_SIZE", "0");
        (double, world)
    }

    /// From now on each request meets what this says; none: it is served.
    pub fn trouble(&self, script: impl FnMut(&Request) -> Option<Trouble> + Send + 'static) {
        self.0.0.lock().unwrap().script = Some(Box::new(script));
    }

    /// Everything is served again.
    pub fn heal(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.script = None;
        state.healed += 1;
        self.0.1.notify_all();
    }

    /// Forgets what was asked.
    pub fn reset(&self) {
        self.0.0.lock().unwrap().asked.clear();
    }

    /// Requests of this method whose path has this part.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let state = self.0.0.lock().unwrap();
        state.asked.iter().filter(|(m, path)| m == method && path.contains(part)).count()
    }

    /// Objects whose key has this part.
    pub fn objects(&self, part: &str) -> usize {
        self.0.0.lock().unwrap().objects.keys().filter(|key| key.contains(part)).count()
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut state = self.0.0.lock().unwrap();
        state.asked.push((request.method.clone(), request.path.clone()));
        let mut script = state.script.take();
        let trouble = script.as_mut().and_then(|script| script(request));
        state.script = script;
        match trouble {
            None => state.serve(request),
            Some(Trouble::Answer(status, code)) => refusal(status, code),
            Some(Trouble::Silence) => {
                let healed = state.healed;
                drop(self.0.1.wait_while(state, |state| state.healed == healed).unwrap());
                refusal(503, "SlowDown")
            }
        }
    }
}

impl State {
    fn serve(&mut self, request: &Request) -> Answer {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let etag = |version: u64| ("etag".to_owned(), format!("\"{version:032x}\""));
        match request.method.as_str() {
            "PUT" => {
                let found = self.objects.get(path).map(|(_, version)| *version);
                let wanted = request.header("if-match");
                let is_other = wanted
                    .is_some_and(|wanted| found.map(|v| etag(v).1).as_deref() != Some(wanted));
                if is_other || request.header("if-none-match").is_some() && found.is_some() {
                    return refusal(412, "PreconditionFailed");
                }
                let version = found.unwrap_or(0) + 1;
                self.objects.insert(path.to_owned(), (request.body.clone(), version));
                (200, vec![etag(version)], Vec::new())
            }
            "DELETE" => {
                self.objects.remove(path);
                (204, Vec::new(), Vec::new())
            }
            _ if query.contains("list-type=2") => (200, Vec::new(), self.list(query)),
            _ => match self.objects.get(path) {
                Some((body, version)) => part(request, body, etag(*version)),
                None => refusal(404, "NoSuchKey"),
            },
        }
    }

    fn list(&self, query: &str) -> Vec<u8> {
        let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix="));
        let prefix = prefix.unwrap_or("").replace("%2F", "/");
        let mut text = String::from("<ListBucketResult><IsTruncated>false</IsTruncated>");
        for (path, (body, version)) in &self.objects {
            let key = path.trim_start_matches("/bucket/");
            if key.starts_with(&prefix) {
                text.push_str(&format!(
                    "<Contents><Key>{key}</Key><Size>{}</Size><ETag>\"{version:032x}\"</ETag>\
                     </Contents>",
                    body.len()
                ));
            }
        }
        text.push_str("</ListBucketResult>");
        text.into_bytes()
    }
}

/// The range of the object that is asked for.
fn part(request: &Request, body: &[u8], etag: (String, String)) -> Answer {
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
    let Some((from, to)) = range.and_then(|range| range.split_once('-')) else {
        return (200, vec![etag], body.to_vec());
    };
    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
    if from >= body.len() {
        return refusal(416, "InvalidRange");
    }
    let to = (to + 1).min(body.len());
    let range = format!("bytes {from}-{}/{}", to - 1, body.len());
    (206, vec![etag, ("content-range".to_owned(), range)], body[from..to].to_vec())
}

fn refusal(status: u16, code: &str) -> Answer {
    let body = format!("<Error><Code>{code}</Code><Message>as told</Message></Error>");
    (status, vec![("content-type".into(), "application/xml".into())], body.into_bytes())
}
