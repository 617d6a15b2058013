use super::*;
use crate::remote::{Fault, RemoteError, When};

#[test]
fn the_same_content_under_two_names_is_uploaded_once() {
    let store = Store::new();
    let machine = store.machine();
    let plains = noises(40, 256 * KIB);
    let twice: Vec<_> = plains.iter().chain(&plains).cloned().collect();
    let slots = machine.store_all(&twice);
    assert_eq!(slots[..40], slots[40..]);
    let sent = store.counting.stats().bytes_out;
    assert!(sent < 40 * 257 * KIB as u64, "{sent}");
    let again = machine.store_all(&plains);
    assert_eq!(again, slots[..40], "known after the upload, too");
    assert_eq!(store.counting.stats().bytes_out, sent);
    let stats = machine.chunks.stats();
    assert_eq!((stats.chunks_added, stats.chunks_deduplicated), (120, 80));
    assert_eq!(stats.data_pack_bytes_stored, sent);
}

#[test]
fn one_content_from_eight_threads_at_once_is_uploaded_once() {
    let store = Store::new();
    let machine = store.machine();
    // Compressible, so that it takes a while: long enough for the threads to meet.
    let plains: Vec<Vec<u8>> = noises(60, 256 * KIB)
        .into_iter()
        .map(|plain| plain.iter().map(|byte| byte & 15).collect())
        .collect();
    let together = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for plain in &plains {
                    together.wait();
                    machine.chunks.add_chunk(plain).unwrap();
                }
            });
        }
    });
    machine.chunks.flush().unwrap();
    let alone = Store::new();
    alone.machine().store_all(&plains);
    assert_eq!(store.counting.stats().bytes_out, alone.counting.stats().bytes_out);
    assert_eq!(machine.chunks.stats().chunks_deduplicated, 7 * 60);
}

#[test]
fn what_was_uploaded_is_known_after_a_restart() {
    let store = Store::new();
    let machine = store.machine();
    let plains = noises(10, 4 * KIB);
    let slots = machine.store_all(&plains);
    let machine = machine.restart();
    store.counting.reset();
    assert_eq!(machine.store_all(&plains), slots);
    assert!(store.counting.log().is_empty());
}

#[test]
fn a_copy_of_what_was_read_from_the_store_needs_no_upload() {
    let store = Store::new();
    let plains = noises(3, 4 * KIB);
    let slots = store.machine().store_all(&plains);
    let other = store.machine();
    other.chunks.read_many(&slots[..1], other.fetch()).unwrap();
    store.counting.reset();
    assert_eq!(other.store_all(&plains[..1]), slots[..1]);
    assert_eq!(store.puts(), 0);
}

#[test]
fn many_small_chunks_travel_in_few_packs_and_read_back_elsewhere() {
    let store = Store::new();
    let machine = store.machine();
    let plains = noises(3000, 4 * KIB);
    let slots = machine.store_all(&plains);
    assert!(store.puts() <= 4, "12 MiB in packs of 4: {}", store.puts());
    let cold = store.machine();
    let read = cold.chunks.read_many(&slots, cold.fetch()).unwrap();
    assert!(read.iter().zip(&plains).all(|(read, plain)| read == plain));
}

#[test]
fn a_place_is_told_only_after_the_store_acknowledged_the_pack() {
    let store = Store::new();
    let machine = store.machine();
    store.faults.inject(When::every(Op::Put, ""), Fault::Latency(Duration::from_millis(300)));
    let id = machine.chunks.add_chunk(&noise(1, KIB)).unwrap();
    assert_eq!(machine.chunks.slot_of(&id), None);
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| machine.chunks.flush().unwrap());
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(machine.chunks.slot_of(&id), None);
        let packs = flush.join().unwrap();
        let slot = machine.chunks.slot_of(&id).unwrap();
        assert_eq!(*packs[0].value(), slot.pack);
    });
}

#[test]
fn a_flush_with_nothing_pending_makes_no_request() {
    let store = Store::new();
    let machine = store.machine();
    assert!(machine.chunks.flush().unwrap().is_empty());
    machine.store_all(&noises(1, KIB));
    store.counting.reset();
    assert!(machine.chunks.flush().unwrap().is_empty());
    assert!(store.counting.log().is_empty());
}

#[test]
fn after_an_outage_the_next_flush_uploads_everything() {
    let store = Store::new();
    // The client tries longer for longer bodies.
    let machine = store.machine_with(ChunkOptions { pack_bytes: 128 * KIB, ..options() });
    let plains = noises(30, 16 * KIB);
    store.faults.set_outage(true);
    let ids: Vec<_> = plains.iter().map(|p| machine.chunks.add_chunk(p).unwrap()).collect();
    let error = machine.chunks.flush().unwrap_err();
    assert!(matches!(error, ChunkError::Unavailable(_)), "{error:?}");
    assert!(ids.iter().all(|id| machine.chunks.slot_of(id).is_none()));
    assert!(machine.chunks.stats().upload_bytes_waiting > 480 * KIB as u64);
    store.faults.heal();
    let packs = machine.chunks.flush().unwrap();
    assert_eq!(packs.len(), 4);
    assert!(ids.iter().all(|id| machine.chunks.slot_of(id).is_some()));
    assert_eq!(machine.chunks.stats().upload_bytes_waiting, 0);
    let slots: Vec<_> = ids.iter().map(|id| (*id, machine.chunks.slot_of(id).unwrap())).collect();
    let cold = store.machine();
    let read = cold.chunks.read_many(&slots, cold.fetch()).unwrap();
    assert!(read.iter().zip(&plains).all(|(read, plain)| read == plain));
}

#[test]
fn a_flush_tries_at_once_and_the_background_does_not_hammer() {
    let store = Store::new();
    let machine = store.machine();
    let refused = RemoteError::Denied { cause: "for a while".to_owned() };
    store.faults.inject(When::every(Op::Put, ""), Fault::Answer(refused));
    machine.chunks.add_chunk(&noise(1, KIB)).unwrap();
    for _ in 0..6 {
        assert!(machine.chunks.flush().is_err());
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(store.puts(), 6);
    store.faults.heal();
    let start = machine.clock.monotonic();
    machine.chunks.flush().unwrap();
    // The pause after six failures is half a minute.
    assert!(machine.clock.monotonic() - start < Duration::from_secs(5));
}

#[test]
fn one_failed_pack_keeps_no_other_from_the_store() {
    let store = Store::new();
    let machine = store.machine();
    store.faults.inject(When::next(Op::Put, ""), Fault::Unavailable);
    let slots = machine.store_all(&noises(60, 256 * KIB));
    assert_eq!(slots.len(), 60, "the client's own retry was enough");
}

#[test]
fn with_the_store_down_pending_bytes_stay_bounded_and_adding_fails_instead_of_waiting() {
    let store = Store::new();
    let machine =
        store.machine_with(ChunkOptions { pack_bytes: MIB, upload_packs_at_once: 1, ..options() });
    store.faults.set_outage(true);
    let mut taken = Vec::new();
    let mut refused = None;
    for seed in 0..40 {
        match machine.chunks.add_chunk(&noise(seed, 256 * KIB)) {
            Ok(id) => taken.push(id),
            Err(error) => {
                refused = Some((seed, error));
                break;
            }
        }
        assert!(machine.chunks.stats().upload_bytes_waiting <= 3 * MIB as u64);
    }
    let (seed, error) = refused.expect("3 MiB are the bound, 10 were offered");
    assert!(matches!(error, ChunkError::Unavailable(_)), "{error:?}");
    store.faults.heal();
    taken.push(retry_until_added(&machine, seed));
    machine.chunks.flush().unwrap();
    assert!(taken.iter().all(|id| machine.chunks.slot_of(id).is_some()));
}

/// A background retry makes room once its pause is over.
fn retry_until_added(machine: &Machine, seed: u64) -> ChunkId {
    for _ in 0..100 {
        match machine.chunks.add_chunk(&noise(seed, 256 * KIB)) {
            Ok(id) => return id,
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    panic!("the background did not retry");
}

#[test]
fn a_lost_answer_to_an_upload_is_settled_by_uploading_again() {
    let store = Store::new();
    let machine = store.machine();
    store.faults.inject(When::next(Op::Put, ""), Fault::LostAnswer);
    machine.chunks.add_chunk(&noise(1, KIB)).unwrap();
    let packs = machine.chunks.flush().unwrap();
    machine.chunks.confirm(&packs).unwrap();
}

/// A hibernation said that a pack was damaged which the store showed a moment later.
#[test]
fn a_store_that_shows_late_what_it_acknowledged_is_asked_again() {
    let store = Store::new();
    let machine = store.machine();
    machine.chunks.add_chunk(&noise(1, KIB)).unwrap();
    let packs = machine.chunks.flush().unwrap();
    let key = packs[0].evidence().key().to_owned();
    let absent = Fault::Answer(RemoteError::Absent { key });
    store.faults.inject(When { times: 2, ..When::next(Op::Stat, "") }, absent);
    store.counting.reset();
    machine.chunks.confirm(&packs).unwrap();
    assert_eq!(store.counting.log().len(), 3);
}

#[test]
fn a_chunk_over_256_kib_is_refused() {
    let machine = Store::new().machine();
    let answer = machine.chunks.add_chunk(&vec![0; 256 * KIB + 1]);
    assert!(matches!(answer, Err(ChunkError::Invalid(_))), "{answer:?}");
    assert!(machine.chunks.flush().unwrap().is_empty());
}

#[test]
fn after_a_shutdown_nothing_waits_forever() {
    let machine = Store::new().machine();
    machine.chunks.add_chunk(&noise(1, KIB)).unwrap();
    machine.chunks.shutdown();
    assert!(matches!(machine.chunks.flush(), Err(ChunkError::Closed)));
    assert!(matches!(machine.chunks.add_chunk(&noise(2, KIB)), Err(ChunkError::Closed)));
}

#[test]
fn confirm_asks_once_for_each_pack_and_finds_what_is_missing_or_changed() {
    let store = Store::new();
    let machine = store.machine();
    for plain in noises(40, 256 * KIB) {
        machine.chunks.add_chunk(&plain).unwrap();
    }
    let packs = machine.chunks.flush().unwrap();
    assert!(packs.len() >= 3);
    store.counting.reset();
    machine.chunks.confirm(&packs).unwrap();
    assert_eq!(store.counting.log().len(), packs.len());
    let key = packs[1].evidence().key();
    let size = packs[1].evidence().size();
    let infos = [PackInfo { id: *packs[1].value(), len: size }];

    store.memory.overwrite(key, Bytes::from(vec![0; size as usize]));
    let error = machine.chunks.confirm(&packs).unwrap_err();
    assert!(matches!(error, ChunkError::Missing { pack, .. } if pack == infos[0].id), "{error:?}");
    machine.chunks.confirm_sizes(&infos).unwrap();

    store.memory.overwrite(key, Bytes::from_static(b"cut"));
    assert!(matches!(machine.chunks.confirm_sizes(&infos), Err(ChunkError::Missing { .. })));

    machine.chunks.fetcher.below.remote.delete(key).unwrap();
    assert!(matches!(machine.chunks.confirm(&packs), Err(ChunkError::Missing { .. })));
}
