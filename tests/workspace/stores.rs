//! The same life, at the same price, on every kind of store. The S3 server is the one of
//! `scripts/test` (`DORMOUSE_TEST_S3_ENDPOINT`); without it that test says that it was left out.

use dormouse::remote::Op;
use dormouse::types::Ino;
use dormouse::workspace::WorkspaceError;

use crate::world::{World, checkpoint, hibernate, noise};

fn live(world: &World) {
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    world.counts.reset();
    for directory in 0..10 {
        let parent = files.mkdir(&format!("d{directory}"));
        for file in 0..100 {
            let ino = files.create_in(parent, &format!("f{file}"));
            files.write_at(ino, 0, &noise(directory * 100 + file, 4096));
        }
    }
    files.write("large", &noise(7, 3_000_000));
    let before = files.facts();
    assert!(checkpoint(&workspace).unwrap().changed);
    // One data pack, one tree pack, snapshot, head.
    assert_eq!(world.counts.stats().puts, 4, "{:?}", world.counts.log());
    files.write("d3/f33", &noise(9999, 4096));
    let mut options = world.options("b");
    assert!(matches!(world.try_resume(&options), Err(WorkspaceError::LeaseHeld { .. })));
    options.steal = true;
    let thief = world.try_resume(&options).unwrap();
    assert_eq!(world.files(&thief).facts(), before);
    assert!(matches!(checkpoint(&workspace), Err(WorkspaceError::Fenced { .. })));
    drop((files, workspace));
    world.files(&thief).write("d4/f44", &noise(8888, 4096));
    let before = world.files(&thief).facts();
    let receipt = hibernate(&thief).unwrap();
    assert!(receipt.released && receipt.packs_confirmed == 2, "{receipt:?}");
    thief.close().unwrap();
    drop(thief);

    world.counts.reset();
    let workspace = world.resume("c");
    assert_eq!(world.files(&workspace).list(Ino::ROOT, true).len(), 11);
    // Prefetch of packs may have begun; that nobody waits for it, `bounds` asserts.
    let log = world.counts.log();
    let asked =
        |op| log.iter().filter(move |call| call.op == op && !call.key.starts_with("packs/"));
    assert_eq!((asked(Op::Get).count(), asked(Op::Put).count()), (2, 1), "{log:?}");
    assert_eq!(world.files(&workspace).facts(), before);
    world.counts.reset();
    assert!(!hibernate(&workspace).unwrap().changed);
    let log = world.counts.log();
    assert_eq!((world.counts.count(Op::Put, "/head"), log.len()), (1, 1), "{log:?}");
}

#[test]
fn a_life_in_memory() {
    live(&World::new());
}

#[test]
fn a_life_in_a_directory() {
    live(&World::in_directory());
}

#[test]
fn a_life_on_s3() {
    let Ok(endpoint) = std::env::var("DORMOUSE_TEST_S3_ENDPOINT") else {
        let required = std::env::var("DORMOUSE_TEST_S3").is_ok_and(|value| value == "required");
        assert!(!required, "DORMOUSE_TEST_S3_ENDPOINT is not set");
        eprintln!("LEFT OUT: DORMOUSE_TEST_S3_ENDPOINT is not set");
        return;
    };
    live(&World::on_s3(&endpoint, &new_bucket(&endpoint)));
}

fn new_bucket(endpoint: &str) -> String {
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    let bucket = format!("dormouse-{:016x}", u64::from_le_bytes(random));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .region("us-east-1")
            .load()
            .await;
        let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
        let client = aws_sdk_s3::Client::from_conf(config);
        client.create_bucket().bucket(&bucket).send().await.unwrap();
    });
    bucket
}
