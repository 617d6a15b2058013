use super::*;
use crate::format::FrameKind;
use crate::remote::{Fault, When};

#[test]
fn a_small_chunk_on_a_cold_cache_costs_one_get_of_at_most_512_kib() {
    let store = Store::new();
    let plains = noises(200, 8 * KIB);
    let slots = store.machine().store_all(&plains);
    let cold = store.machine();
    store.counting.reset();
    let (id, slot) = slots[100];
    assert_eq!(cold.chunks.read(&id, &slot, cold.fetch()).unwrap(), plains[100]);
    let calls = store.counting.log();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].op, Op::Get);
    assert!(calls[0].bytes <= 512 * KIB as u64);
    let stats = cold.chunks.stats();
    assert_eq!((stats.misses, stats.chunk_wanted_bytes), (1, u64::from(slot.len)));
    assert_eq!(stats.chunk_fetched_bytes, calls[0].bytes);
}

#[test]
fn neighbours_of_a_miss_are_local_afterwards_and_cost_nothing() {
    let store = Store::new();
    let plains = noises(20, 8 * KIB);
    let slots = store.machine().store_all(&plains);
    let cold = store.machine();
    cold.chunks.read(&slots[0].0, &slots[0].1, cold.fetch()).unwrap();
    store.counting.reset();
    for ((id, slot), plain) in slots.iter().zip(&plains) {
        assert!(cold.chunks.is_local(id));
        assert_eq!(cold.chunks.read(id, slot, Fetch::LocalOnly).unwrap(), plain);
    }
    assert!(store.counting.log().is_empty());
}

#[test]
fn local_only_makes_no_request_and_says_not_local_at_once() {
    let store = Store::new();
    let slots = store.machine().store_all(&noises(3, KIB));
    let cold = store.machine();
    store.counting.reset();
    store.faults.inject(When::every(Op::Get, ""), Fault::Hang);
    let answer = cold.chunks.read_many(&slots, Fetch::LocalOnly);
    assert!(matches!(answer, Err(ChunkError::NotLocal)), "{answer:?}");
    assert!(!cold.chunks.is_local(&slots[0].0));
    assert_eq!((store.counting.stats().gets, store.faults.injected()), (0, 0));
}

#[test]
fn eight_threads_that_miss_one_chunk_share_one_get() {
    let store = Store::new();
    let plains = noises(8, 16 * KIB);
    let slots = store.machine().store_all(&plains);
    let cold = store.machine();
    store.counting.reset();
    store.faults.inject(When::every(Op::Get, ""), Fault::Latency(Duration::from_millis(300)));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (cold, slots, plains) = (&cold, &slots, &plains);
            // Half of them want another chunk, which the same window brings.
            let index = if thread % 2 == 0 { 0 } else { thread };
            scope.spawn(move || {
                if index != 0 {
                    std::thread::sleep(Duration::from_millis(100));
                }
                let (id, slot) = &slots[index];
                assert_eq!(cold.chunks.read(id, slot, cold.fetch()).unwrap(), plains[index]);
            });
        }
    });
    assert_eq!(store.gets().len(), 1, "{:?}", store.gets());
}

#[test]
fn many_misses_take_one_round_trip_and_near_ones_one_request() {
    let store = Store::new();
    let plains = noises(700, 16 * KIB);
    let slots = store.machine().store_all(&plains);
    let cold = store.machine();
    store.counting.reset();
    store.faults.inject(When::every(Op::Get, ""), Fault::Latency(Duration::from_millis(50)));
    let wanted: Vec<_> = [5, 3, 4, 300, 600, 3].map(|index| slots[index]).to_vec();
    let read = cold.chunks.read_many(&wanted, cold.fetch()).unwrap();
    for (index, plain) in [5, 3, 4, 300, 600, 3].into_iter().zip(read) {
        assert_eq!(plain, plains[index]);
    }
    let stats = store.counting.stats();
    assert_eq!((stats.gets, stats.round_trips), (3, 1), "{:?}", store.gets());
    // All at once, in few large requests.
    store.counting.reset();
    cold.forget_local();
    let read = cold.chunks.read_many(&slots, cold.fetch()).unwrap();
    assert!(read.iter().zip(&plains).all(|(read, plain)| read == plain));
    assert!(store.gets().len() <= 6, "{:?}", store.gets());
    assert_eq!(store.counting.stats().round_trips, 1);
}

/// Between a look into the cache and the request another one may have brought it.
#[test]
fn what_came_after_the_look_into_the_cache_is_not_fetched_again() {
    let store = Store::new();
    let plains = noises(3, 16 * KIB);
    let slots = store.machine().store_all(&plains);
    let cold = store.machine();
    cold.chunks.read(&slots[0].0, &slots[0].1, cold.fetch()).unwrap();
    cold.chunks.forget_memory();
    store.counting.reset();
    assert_eq!(cold.chunks.fetcher.read_missing(&slots, cold.fetch()).unwrap(), plains);
    assert_eq!(store.gets().len(), 0, "{:?}", store.gets());
    // Where only a part of it came, all of it is asked for.
    cold.local.cache_remove(&slots[1].0.0).unwrap();
    cold.chunks.forget_memory();
    assert_eq!(cold.chunks.fetcher.read_missing(&slots, cold.fetch()).unwrap(), plains);
    assert_eq!(store.gets().len(), 1, "{:?}", store.gets());
}

#[test]
fn reading_backwards_brings_hardly_a_byte_twice() {
    let store = Store::new();
    let plains = noises(500, 10 * KIB);
    let large = ChunkOptions { pack_bytes: 32 * MIB, ..options() };
    let slots = store.machine_with(large).store_all(&plains);
    let cold = store.machine();
    store.counting.reset();
    for (id, slot) in slots.iter().rev().step_by(7) {
        cold.chunks.read(id, slot, cold.fetch()).unwrap();
    }
    let stored: u64 = slots.iter().map(|(_, slot)| u64::from(slot.len)).sum();
    let fetched = bytes_of(&store.gets());
    assert!(fetched < stored + stored / 20, "{fetched} of {stored}");
}

#[test]
fn reading_in_sequence_widens_the_window_within_its_bounds() {
    let store = Store::new();
    let plains = noises(1500, 10 * KIB);
    let large = ChunkOptions { pack_bytes: 32 * MIB, ..options() };
    let slots = store.machine_with(large).store_all(&plains);
    let cold = store.machine();
    store.counting.reset();
    for ((id, slot), plain) in slots.iter().zip(&plains) {
        assert_eq!(cold.chunks.read(id, slot, cold.fetch()).unwrap(), plain);
    }
    let calls = store.gets();
    let sizes: Vec<u64> = calls.iter().map(|call| call.bytes).collect();
    assert!(sizes[0] <= 512 * KIB as u64, "{sizes:?}");
    assert!(sizes.iter().all(|&size| size <= 4 * MIB as u64), "{sizes:?}");
    assert!(calls.len() <= 9, "15 MiB in windows of up to 4 MiB: {sizes:?}");
    let stored: u64 = slots.iter().map(|(_, slot)| u64::from(slot.len)).sum();
    assert!(bytes_of(&calls) < stored + stored / 20, "cut frames are all that is read twice");
}

#[test]
fn jumping_about_never_widens_the_window() {
    let store = Store::new();
    let large = ChunkOptions { pack_bytes: 64 * MIB, ..options() };
    let plains = noises(150, 200 * KIB);
    let slots = store.machine_with(large).store_all(&plains);
    let cold = store.machine();
    store.counting.reset();
    for step in 0..30 {
        let (id, slot) = &slots[(step * 67) % 150];
        cold.chunks.read(id, slot, cold.fetch()).unwrap();
    }
    assert!(store.gets().iter().all(|call| call.bytes <= 512 * KIB as u64));
}

#[test]
fn bytes_damaged_on_the_way_are_fetched_again() {
    let store = Store::new();
    let plains = noises(4, 32 * KIB);
    let slots = store.machine().store_all(&plains);
    let cold = store.machine();
    store.counting.reset();
    store.faults.inject(When::next(Op::Get, ""), Fault::Corrupt(20_000));
    let (id, slot) = slots[0];
    assert_eq!(cold.chunks.read(&id, &slot, cold.fetch()).unwrap(), plains[0]);
    assert_eq!(store.gets().len(), 2);
    assert_eq!(store.gets()[1].bytes, u64::from(slot.len), "only what was damaged");
    assert_eq!(cold.chunks.stats().fetched_corrupt, 1);
    cold.chunks.forget_memory();
    let cached = cold.chunks.read(&id, &slot, Fetch::LocalOnly).unwrap();
    assert_eq!(cached, plains[0], "the good bytes were cached, not the damaged ones");
}

#[test]
fn bytes_damaged_in_the_store_are_an_error_that_names_chunk_and_pack() {
    let store = Store::new();
    let slots = store.machine().store_all(&noises(4, 32 * KIB));
    let cold = store.machine();
    store.counting.reset();
    store.faults.inject(When::every(Op::Get, ""), Fault::Corrupt(20_000));
    let (id, slot) = slots[0];
    let error = cold.chunks.read(&id, &slot, cold.fetch()).unwrap_err();
    assert!(matches!(error, ChunkError::Corrupt { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&id.to_string()) && text.contains(&slot.pack.to_string()), "{text}");
    assert_eq!(store.gets().len(), 2);
    store.faults.heal();
    assert!(cold.chunks.read(&id, &slot, Fetch::LocalOnly).is_err(), "nothing bad was cached");
    cold.chunks.read(&id, &slot, cold.fetch()).unwrap();
}

#[test]
fn a_neighbour_that_came_damaged_is_noticed_when_it_is_read() {
    let store = Store::new();
    let plains = noises(4, 32 * KIB);
    let slots = store.machine().store_all(&plains);
    let cold = store.machine();
    store.faults.inject(When::next(Op::Get, ""), Fault::Corrupt(50_000));
    cold.chunks.read(&slots[0].0, &slots[0].1, cold.fetch()).unwrap();
    let (id, slot) = slots[1];
    let local = cold.chunks.read(&id, &slot, Fetch::LocalOnly);
    assert!(matches!(local, Err(ChunkError::NotLocal)), "{local:?}");
    assert_eq!(cold.chunks.read(&id, &slot, cold.fetch()).unwrap(), plains[1]);
    assert_eq!(cold.chunks.stats().cache_corrupt, 1);
    cold.chunks.forget_memory();
    assert_eq!(cold.chunks.read(&id, &slot, Fetch::LocalOnly).unwrap(), plains[1]);
}

#[test]
fn a_wrong_frame_of_the_right_length_in_the_cache_is_never_returned() {
    let store = Store::new();
    let plains = noises(2, 4 * KIB);
    let slots = store.machine().store_all(&plains);
    let cold = store.machine();
    let planted =
        crate::format::encode_frame(crate::format::FrameKind::Chunk, &slots[0].0.0, &plains[1]);
    cold.local.cache_put(&slots[0].0.0, &planted).unwrap();
    let local = cold.chunks.read(&slots[0].0, &slots[0].1, Fetch::LocalOnly);
    assert!(matches!(local, Err(ChunkError::NotLocal)));
    assert_eq!(cold.chunks.read(&slots[0].0, &slots[0].1, cold.fetch()).unwrap(), plains[0]);
}

#[test]
fn a_missing_pack_is_said_to_be_missing() {
    let store = Store::new();
    let (id, slot) = store.machine().store_all(&noises(1, KIB))[0];
    let cold = store.machine();
    let elsewhere = PackSlot { pack: PackId([9; 32]), ..slot };
    let error = cold.chunks.read(&id, &elsewhere, cold.fetch()).unwrap_err();
    assert!(matches!(error, ChunkError::Missing { .. }), "{error:?}");
    let beyond = PackSlot { offset: 1 << 30, ..slot };
    let error = cold.chunks.read(&id, &beyond, cold.fetch()).unwrap_err();
    assert!(matches!(error, ChunkError::Corrupt { .. }), "{error:?}");
}

#[test]
fn the_deadline_holds_when_the_store_hangs_for_who_asks_and_for_who_waits() {
    let store = Store::new();
    let (id, slot) = store.machine().store_all(&noises(1, KIB))[0];
    let cold = store.machine();
    store.faults.inject(When::every(Op::Get, ""), Fault::Hang);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let start = cold.clock.monotonic();
                let fetch = cold.fetch_for(Duration::from_millis(200));
                let error = cold.chunks.read(&id, &slot, fetch).unwrap_err();
                assert!(matches!(error, ChunkError::Unavailable(_)), "{error:?}");
                let waited = cold.clock.monotonic() - start;
                assert!(waited < Duration::from_millis(900), "{waited:?}");
            });
        }
    });
}

#[test]
fn who_has_more_time_than_the_leader_of_a_flight_tries_again() {
    let store = Store::new();
    let plains = noises(1, KIB);
    let (id, slot) = store.machine().store_all(&plains)[0];
    let cold = store.machine();
    store.counting.reset();
    store.faults.inject(When::next(Op::Get, ""), Fault::Hang);
    std::thread::scope(|scope| {
        let hasty = scope
            .spawn(|| cold.chunks.read(&id, &slot, cold.fetch_for(Duration::from_millis(300))));
        std::thread::sleep(Duration::from_millis(100));
        let patient = cold.chunks.read(&id, &slot, cold.fetch_for(Duration::from_secs(5)));
        assert_eq!(patient.unwrap(), plains[0]);
        assert!(hasty.join().unwrap().is_err());
    });
}

#[test]
fn what_was_evicted_is_fetched_again() {
    let store = Store::new();
    let plains = noises(10, 8 * KIB);
    let machine = store.machine();
    let slots = machine.store_all(&plains);
    store.counting.reset();
    machine.chunks.read_many(&slots, Fetch::LocalOnly).unwrap();
    machine.forget_local();
    assert!(matches!(
        machine.chunks.read(&slots[3].0, &slots[3].1, Fetch::LocalOnly),
        Err(ChunkError::NotLocal)
    ));
    machine.chunks.read_many(&slots, machine.fetch()).unwrap();
    assert_eq!(store.gets().len(), 1);
}

#[test]
fn memory_stays_within_its_bound() {
    let store = Store::new();
    let machine = store.machine_with(ChunkOptions { memory_bytes_max: 8 * MIB, ..options() });
    let slots = machine.store_all(&noises(100, 200 * KIB));
    machine.chunks.read_many(&slots, machine.fetch()).unwrap();
    let bytes = machine.chunks.stats().memory_bytes;
    assert!(bytes > MIB as u64 && bytes <= 8 * MIB as u64, "{bytes}");
}

#[test]
fn what_a_reader_will_want_comes_in_pieces_once_and_its_use_is_counted() {
    let store = Store::new();
    let large = ChunkOptions { pack_bytes: 64 * MIB, ..options() };
    let plains = noises(120, 256 * KIB);
    let slots = store.machine_with(large).store_all(&plains);
    let cold = store.machine();
    store.counting.reset();
    store.faults.inject(When::every(Op::Get, ""), Fault::Latency(Duration::from_millis(50)));
    let list = slots.clone();
    assert!(cold.chunks.prefetch_ahead(move || list, Rank::First));
    for ((id, slot), plain) in slots.iter().zip(&plains).take(60) {
        assert_eq!(cold.chunks.read(id, slot, cold.fetch()).unwrap(), plain);
    }
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
    let calls = store.gets();
    assert!(calls.iter().all(|call| call.bytes <= MIB as u64), "{calls:?}");
    // A reader that comes too early makes a request of its own, which brings three frames more.
    let stored: u64 = slots.iter().map(|(_, slot)| u64::from(slot.len)).sum();
    assert!(bytes_of(&calls) <= stored + stored / 10, "{} of {stored}", bytes_of(&calls));
    let stats = cold.chunks.stats();
    assert!(stats.ahead_bytes >= stored * 9 / 10, "{stats:?}");
    assert!(stats.ahead_used_bytes <= stats.ahead_bytes / 2, "{stats:?}");
    assert!(stats.ahead_used_bytes >= stats.ahead_bytes / 3, "{stats:?}");
}

#[test]
fn what_was_read_first_and_then_what_was_written_is_the_hot_set() {
    let store = Store::new();
    let plains = noises(5, KIB);
    let machine = store.machine();
    let slots = machine.store_all(&plains);
    for index in [3, 1, 3, 4] {
        machine.chunks.read(&slots[index].0, &slots[index].1, machine.fetch()).unwrap();
    }
    assert_eq!(machine.chunks.first_reads(), [slots[3], slots[1], slots[4]]);
    let hot = machine.chunks.hot_set();
    assert_eq!(hot, [slots[3], slots[1], slots[4], slots[0], slots[2]]);
}

#[test]
fn parts_come_to_their_places_from_memory_the_cache_and_the_store() {
    let store = Store::new();
    // Large ones wanted whole, in part, and a small one.
    let plains = [noises(3, 200 * KIB), noises(1, 8 * KIB)].concat();
    let slots = store.machine().store_all(&plains);
    let part = |index: usize, within: usize, at: usize, len: usize| ChunkPart {
        id: slots[index].0,
        slot: slots[index].1,
        within,
        to: at..at + len,
    };
    let parts = [
        part(0, 0, 1000, 200 * KIB),
        part(1, 5000, 1000 + 200 * KIB, 100 * KIB),
        part(3, 0, 0, 1000),
        part(2, 0, 2000 + 300 * KIB, 200 * KIB),
        part(0, 77, 1000 + 300 * KIB, 1000),
    ];
    let mut wanted = vec![9; 3000 + 500 * KIB];
    for part in &parts {
        let index = slots.iter().position(|(id, _)| *id == part.id).unwrap();
        let plain = &plains[index][part.within..][..part.to.len()];
        wanted[part.to.clone()].copy_from_slice(plain);
    }
    let read = |machine: &Machine, fetch| {
        let mut out = vec![9; wanted.len()];
        machine.chunks.read_parts(&parts, &mut out, fetch).map(|missed| (out == wanted, missed))
    };
    let cold = store.machine();
    assert!(matches!(read(&cold, Fetch::LocalOnly), Err(ChunkError::NotLocal)));
    assert_eq!(read(&cold, cold.fetch()).unwrap(), (true, true));
    store.counting.reset();
    assert_eq!(read(&cold, Fetch::LocalOnly).unwrap(), (true, false), "memory");
    // Four chunks, of which one is wanted whole and in part: that is kept for the part, and only
    // the other whole one comes from the cache once more.
    cold.chunks.forget_memory();
    for hits in [5, 1] {
        let before = cold.chunks.stats().cache_hits;
        assert_eq!(read(&cold, Fetch::LocalOnly).unwrap(), (true, false), "the cache");
        assert_eq!(cold.chunks.stats().cache_hits - before, hits);
    }
    assert!(store.counting.log().is_empty());
}

#[test]
fn a_part_beyond_its_chunk_or_of_a_damaged_one_is_an_error_or_fetched_again() {
    let store = Store::new();
    let plains = noises(1, 100 * KIB);
    let (id, slot) = store.machine().store_all(&plains)[0];
    let cold = store.machine();
    cold.chunks.read(&id, &slot, cold.fetch()).unwrap();
    let mut out = vec![0; 100 * KIB + 1];
    for memory in [true, false] {
        if !memory {
            cold.chunks.forget_memory();
        }
        for (within, len) in [(0, 100 * KIB + 1), (1, 100 * KIB), (usize::MAX, 1)] {
            let part = ChunkPart { id, slot, within, to: 0..len };
            let answer = cold.chunks.read_parts(&[part], &mut out, Fetch::LocalOnly);
            assert!(matches!(answer, Err(ChunkError::Corrupt { .. })), "{answer:?}");
        }
    }
    // Another chunk's frame under its id: right by every checksum.
    cold.chunks.forget_memory();
    cold.local.cache_remove(&id.0).unwrap();
    let other = crate::format::encode_frame(FrameKind::Chunk, &id.0, &noises(2, 100 * KIB)[1]);
    cold.local.cache_put(&id.0, &other).unwrap();
    let part = ChunkPart { id, slot, within: 0, to: 0..100 * KIB };
    let parts = [part];
    let answer = cold.chunks.read_parts(&parts, &mut out, Fetch::LocalOnly);
    assert!(matches!(answer, Err(ChunkError::NotLocal)), "{answer:?}");
    assert!(cold.chunks.read_parts(&parts, &mut out, cold.fetch()).unwrap());
    assert!(out[..100 * KIB] == plains[0]);
}
