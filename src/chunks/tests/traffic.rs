//! What the background puts on the line, as the store sees it.

use super::*;
use crate::remote::{Fault, When};

/// 60 MiB in one pack, and a cold machine whose requests are held until the store is healed.
fn held() -> (Vec<(ChunkId, PackSlot)>, Store, Machine) {
    let store = Store { patience: Duration::from_secs(60), ..Store::new() };
    let large = ChunkOptions { pack_bytes: 128 * MIB, ..options() };
    let slots = store.machine_with(large).store_all(&noises(240, 256 * KIB));
    // Nothing comes along with what is asked for.
    let cold = store.machine_with(ChunkOptions { first_window_bytes: 0, ..options() });
    store.counting.reset();
    store.faults.inject(When::every(Op::Get, ""), Fault::Hold);
    (slots, store, cold)
}

/// Waits until so many requests were begun, and a little longer for one too many.
fn begun(store: &Store, cold: &Machine, count: u64) {
    let deadline = cold.clock.monotonic() + Duration::from_secs(20);
    while store.counting.stats().gets < count {
        assert!(cold.clock.monotonic() < deadline, "{} of {count}", store.counting.stats().gets);
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(store.counting.stats().gets, count);
}

fn starts(store: &Store) -> Vec<u64> {
    store.gets().iter().filter_map(|call| call.range.as_ref()).map(|range| range.start).collect()
}

#[test]
fn little_of_the_hot_set_is_on_the_line_at_once_and_what_waits_is_nobodys() {
    let (slots, store, cold) = held();
    cold.chunks.prefetch_chunks(&slots, 1 << 30);
    // Six pieces of three frames: 4.7 MB; a seventh does not fit.
    begun(&store, &cold, 6);
    std::thread::scope(|scope| {
        // Far behind what is on its way: the reader asks for itself, at once.
        let reader = scope.spawn(|| cold.chunks.read(&slots[200].0, &slots[200].1, cold.fetch()));
        begun(&store, &cold, 7);
        // What is on its way is not asked for again.
        let joiner = scope.spawn(|| cold.chunks.read(&slots[1].0, &slots[1].1, cold.fetch()));
        begun(&store, &cold, 7);
        store.faults.heal();
        reader.join().unwrap().unwrap();
        joiner.join().unwrap().unwrap();
    });
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
    assert!(slots.iter().all(|(id, _)| cold.chunks.is_local(id)));
    assert!(starts(&store).contains(&u64::from(slots[200].1.offset)));
    assert_eq!(cold.chunks.stats().prefetch_bytes_left, 0);
}

#[test]
fn while_somebody_waits_for_the_store_half_as_much_is_put_on_the_line() {
    let (slots, store, cold) = held();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| cold.chunks.read(&slots[200].0, &slots[200].1, cold.fetch()));
        begun(&store, &cold, 1);
        cold.chunks.prefetch_chunks(&slots, 1 << 30);
        // Three pieces of three frames: 2.4 MB.
        begun(&store, &cold, 4);
        // What a reader is on its way to is not held back: three more.
        let list = slots[100..160].to_vec();
        cold.chunks.prefetch_ahead(move || list);
        begun(&store, &cold, 7);
        store.faults.heal();
        reader.join().unwrap().unwrap();
    });
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
}
