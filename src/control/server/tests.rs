use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::control::{Client, ClientError};
use crate::workspace::ProgressView;

const SOON: Duration = Duration::from_secs(10);

fn handlers(run: Box<RunFn>) -> Handlers {
    Handlers {
        status: Box::new(|| json!({"workspace": "w"})),
        metrics: Box::new(|| "x 1\n".to_owned()),
        run,
    }
}

fn started(run: Box<RunFn>) -> (tempfile::TempDir, Server, Client) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let server = serve(&socket, handlers(run)).unwrap();
    let client = Client::new(&socket);
    (dir, server, client)
}

#[test]
fn the_socket_is_for_its_owner_only() {
    let (dir, _server, _) = started(Box::new(|_, _| {}));
    let mode = std::fs::metadata(dir.path().join("s.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn status_and_metrics_are_answered() {
    let (_dir, _server, client) = started(Box::new(|_, _| {}));
    assert_eq!(client.status(SOON).unwrap(), json!({"workspace": "w"}));
    assert_eq!(client.metrics(SOON).unwrap(), "x 1\n");
}

#[test]
fn a_command_reports_its_progress_and_ends_with_its_receipt() {
    let (_dir, server, client) = started(Box::new(|command, report| {
        assert_eq!(command, Command::Hibernate { timeout_secs: Some(7) });
        report(Event::Progress(ProgressView { packs_done: 1, ..ProgressView::default() }));
        report(Event::Done { receipt: json!({"snapshot": "s"}) });
        report(Event::Done { receipt: json!("said twice") });
    }));
    let mut packs = Vec::new();
    let command = Command::Hibernate { timeout_secs: Some(7) };
    let receipt = client.run(&command, &mut |progress| packs.push(progress.packs_done)).unwrap();
    assert_eq!(receipt, json!({"snapshot": "s"}));
    assert_eq!(packs, [1]);
    server.finish(SOON);
}

#[test]
fn a_refusal_keeps_its_code_and_hint() {
    let refusal = Refusal { code: 3, message: "store gone".into(), hint: Some("try again".into()) };
    let sent = refusal.clone();
    let (_dir, _server, client) =
        started(Box::new(move |_, report| report(Event::Failed(sent.clone()))));
    match client.run(&Command::Checkpoint, &mut |_| {}) {
        Err(ClientError::Refused(got)) => assert_eq!(got, refusal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_handler_that_panics_or_says_nothing_is_a_refusal_not_a_hang() {
    let turn = AtomicUsize::new(0);
    let (_dir, _server, client) = started(Box::new(move |_, _| {
        assert_ne!(turn.fetch_add(1, Ordering::Relaxed), 0, "the first time it fails");
    }));
    for want in ["the daemon failed", "the daemon gave no result"] {
        match client.run(&Command::Checkpoint, &mut |_| {}) {
            Err(ClientError::Refused(got)) => {
                assert_eq!((got.code, got.message.as_str()), (1, want))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_answer_under_way_is_sent_before_the_server_finishes() {
    let (_dir, server, client) = started(Box::new(|_, report| {
        std::thread::sleep(Duration::from_millis(200));
        report(Event::Done { receipt: json!(1) });
    }));
    let (begun, has_begun) = std::sync::mpsc::channel();
    let asking = std::thread::spawn(move || {
        begun.send(()).unwrap();
        client.run(&Command::Checkpoint, &mut |_| {})
    });
    has_begun.recv().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    server.finish(SOON);
    assert_eq!(asking.join().unwrap().unwrap(), json!(1));
}

#[test]
fn a_status_is_answered_while_a_command_runs() {
    let (release, released) = crossbeam_channel::bounded::<()>(0);
    let (_dir, _server, client) = started(Box::new(move |_, report| {
        released.recv().unwrap();
        report(Event::Done { receipt: json!(1) });
    }));
    let other = client.clone();
    let asking = std::thread::spawn(move || other.run(&Command::Checkpoint, &mut |_| {}));
    assert!(client.status(SOON).is_ok());
    release.send(()).unwrap();
    assert_eq!(asking.join().unwrap().unwrap(), json!(1));
}

#[test]
fn nobody_listening_is_gone_and_a_hanging_daemon_is_late() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let client = Client::new(&socket);
    assert!(matches!(client.status(SOON), Err(ClientError::Gone { .. })));
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let late = client.status(Duration::from_millis(50));
    assert!(matches!(late, Err(ClientError::Late { .. })));
    drop(listener);
    assert!(matches!(client.status(SOON), Err(ClientError::Gone { .. })));
}

#[test]
fn a_command_for_another_path_is_refused() {
    assert!(Command::parse("/v1/checkpoint", b"{\"command\":\"hibernate\"}").is_err());
    assert!(Command::parse("/v1/checkpoint", b"nonsense").is_err());
    assert_eq!(Command::parse("/v1/checkpoint", b""), Ok(Command::Checkpoint));
    assert_eq!(Command::parse("/v1/evict", b""), Ok(Command::Evict));
    // Not even by an empty body is anything else than an unmount an unmount.
    assert!(Command::parse("/v1/status", b"").is_err());
}
