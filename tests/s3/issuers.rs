//! Credentials that a machine's role or a web identity stands for, and their refresh. The issuers
//! and the store are one small server of the test's own, which notes with which key each put was
//! signed; that a signature is right is what the real servers' tests show.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use dormouse::types::{Clock, SystemClock};

use crate::credentials::child;

/// Issued keys are good for so long: the SDK asks anew well before, so at each request.
const LIFE: Duration = Duration::from_secs(5);

/// What the server was asked: first lines, and the key ids and tokens of puts.
#[derive(Debug, Default)]
struct Seen {
    asked: Vec<String>,
    signed: Vec<(String, String)>,
}

struct Issuer {
    endpoint: String,
    seen: Arc<Mutex<Seen>>,
}

impl Issuer {
    /// Serves until the test's process ends.
    fn start() -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let issuer = Issuer { endpoint, seen: Arc::clone(&seen) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                thread::spawn(move || while answer(&stream, &seen) {});
            }
        });
        issuer
    }

    /// What has a process take keys of the machine's role from it.
    fn role(&self) -> [(&str, &str); 2] {
        [
            ("AWS_EC2_METADATA_DISABLED", "false"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.endpoint),
        ]
    }

    /// What has a process take keys from it for this token.
    fn web_identity<'a>(&'a self, token: &'a Path) -> [(&'a str, &'a str); 4] {
        [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/dormouse"),
            ("AWS_ENDPOINT_URL_STS", &self.endpoint),
            ("AWS_REGION", "us-east-1"),
        ]
    }

    fn count(&self, part: &str) -> usize {
        self.seen.lock().unwrap().asked.iter().filter(|line| line.contains(part)).count()
    }

    /// The puts' key ids and tokens, in order.
    fn signed(&self) -> Vec<(String, String)> {
        self.seen.lock().unwrap().signed.clone()
    }
}

/// A web identity's token, as a file.
fn token_in(home: &Path) -> PathBuf {
    let token = home.join("token");
    std::fs::write(&token, "the-pod-s-own-token").unwrap();
    token
}

/// Answers one request; false at the connection's end.
fn answer(mut stream: &TcpStream, seen: &Mutex<Seen>) -> bool {
    let mut lines = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let found = head.iter().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")));
        found.map(|line| line[name.len() + 2..].to_owned()).unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    lines.read_exact(&mut body).unwrap();
    let first = head[0].clone();
    let (extra, answer) = reply(&first, &String::from_utf8_lossy(&body), seen, &header);
    let len = answer.len();
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n{extra}\r\n{answer}");
    stream.write_all(text.as_bytes()).is_ok()
}

fn reply(
    first: &str,
    body: &str,
    seen: &Mutex<Seen>,
    header: &dyn Fn(&str) -> String,
) -> (&'static str, String) {
    let mut seen = seen.lock().unwrap();
    let turn = seen.asked.len();
    let now: SystemTime = SystemClock::new().now().into();
    let until = humantime::format_rfc3339_seconds(now + LIFE);
    seen.asked.push(format!("{first} {body}"));
    if first.starts_with("PUT /latest/api/token") {
        return ("x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n", String::from("session"));
    }
    if first.contains("/security-credentials/role ") {
        let text = format!(
            r#"{{"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "{until}",
            "AccessKeyId": "ROLE{turn}", "SecretAccessKey": "issued", "Token": "token{turn}",
            "Expiration": "{until}"}}"#
        );
        return ("", text);
    }
    if first.contains("/security-credentials") {
        return ("", String::from("role"));
    }
    if body.contains("Action=AssumeRoleWithWebIdentity") {
        let text = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>WEB{turn}</AccessKeyId>\
             <SecretAccessKey>issued</SecretAccessKey><SessionToken>token{turn}</SessionToken>\
             <Expiration>{until}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
             </AssumeRoleWithWebIdentityResponse>"
        );
        return ("Content-Type: text/xml\r\n", text);
    }
    assert!(first.starts_with("PUT /bucket/"), "{first}");
    let authorization = header("authorization");
    let key = authorization.split("Credential=").nth(1).unwrap_or("").split('/').next();
    seen.signed.push((key.unwrap_or("").to_owned(), header("x-amz-security-token")));
    ("ETag: \"0123456789abcdef0123456789abcdef\"\r\n", String::new())
}

/// Each put was signed with a key issued for it, and carried that key's token.
fn are_refreshed(signed: &[(String, String)], prefix: &str) -> bool {
    let turns: Vec<_> = signed.iter().filter_map(|(key, _)| key.strip_prefix(prefix)).collect();
    let own = |((_, token), turn): (&(String, String), &&str)| *token == format!("token{turn}");
    let mut issued = turns.clone();
    issued.dedup();
    turns.len() == signed.len() && issued.len() >= 2 && signed.iter().zip(&turns).all(own)
}

#[test]
fn credentials_of_the_machine_s_role_are_used_and_refreshed() {
    let issuer = Issuer::start();
    let home = tempfile::tempdir().unwrap();
    let said = child(&format!("{} bucket - 3", issuer.endpoint), home.path(), &issuer.role());
    assert_eq!(said.matches("STORED").count(), 3, "{said}");
    assert!(issuer.count("PUT /latest/api/token") >= 1, "only with a session token");
    assert!(are_refreshed(&issuer.signed(), "ROLE"), "{:?}", issuer.signed());
}

#[test]
fn credentials_of_a_web_identity_are_used_and_refreshed() {
    let issuer = Issuer::start();
    let home = tempfile::tempdir().unwrap();
    let token = token_in(home.path());
    let set = issuer.web_identity(&token);
    let said = child(&format!("{} bucket - 3", issuer.endpoint), home.path(), &set);
    assert_eq!(said.matches("STORED").count(), 3, "{said}");
    assert!(issuer.count("the-pod-s-own-token") >= 2, "{:?}", issuer.seen.lock().unwrap());
    assert!(are_refreshed(&issuer.signed(), "WEB"), "{:?}", issuer.signed());
}

#[test]
fn without_tls_no_root_certificate_is_read() {
    let issuer = Issuer::start();
    let home = tempfile::tempdir().unwrap();
    // Whoever opens it waits for somebody who writes, for ever.
    let roots = home.path().join("roots.pem");
    nix::unistd::mkfifo(&roots, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let none = home.path().join("none");
    std::fs::create_dir(&none).unwrap();
    let token = token_in(home.path());
    let certificates = [
        ("SSL_CERT_FILE", roots.to_str().unwrap()),
        ("SSL_CERT_DIR", none.to_str().unwrap()),
        ("AWS_REGION", "us-east-1"),
    ];
    let fixed = [("AWS_ACCESS_KEY_ID", "testkey"), ("AWS_SECRET_ACCESS_KEY", "testsecret")];
    let role = issuer.role();
    let web = issuer.web_identity(&token);
    for given in [&fixed[..], &role[..], &web[..]] {
        let set = [given, &certificates].concat();
        let said = child(&format!("{} bucket - 1", issuer.endpoint), home.path(), &set);
        assert_eq!(said.matches("STORED").count(), 1, "{given:?}: {said}");
    }
}

#[test]
fn an_https_endpoint_is_spoken_to_by_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let (sender, first_bytes) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut first = [0; 1];
            if stream.read_exact(&mut first).is_ok() {
                let _ = sender.send(first[0]);
            }
        }
    });
    let home = tempfile::tempdir().unwrap();
    let set = [
        ("AWS_ACCESS_KEY_ID", "testkey"),
        ("AWS_SECRET_ACCESS_KEY", "testsecret"),
        ("AWS_REGION", "us-east-1"),
    ];
    let said = child(&format!("{endpoint} bucket - 1"), home.path(), &set);
    assert_eq!(said.matches("FAILED").count(), 1, "{said}");
    // The type of a handshake's record.
    assert_eq!(first_bytes.try_recv(), Ok(22), "{said}");
}
