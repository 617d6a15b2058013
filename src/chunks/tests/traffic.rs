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

/// Lets held requests go before a machine that would wait for them is dropped.
struct Heal<'a>(&'a Store);

impl Drop for Heal<'_> {
    fn drop(&mut self) {
        self.0.faults.heal();
    }
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
        assert!(cold.chunks.prefetch_ahead(move || list, Rank::First));
        begun(&store, &cold, 7);
        store.faults.heal();
        reader.join().unwrap().unwrap();
    });
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
}

#[test]
fn a_reader_does_not_wait_for_prefetch_that_itself_waits_for_its_turn() {
    let store = Store { patience: Duration::from_secs(3600), places: 4, ..Store::new() };
    let slots = store.machine().store_all(&noises(3, 256 * KIB));
    let cold = store.machine();
    let _heal = Heal(&store);
    // Uploads take all three places of the background.
    store.faults.inject(When::every(Op::Put, "packs/"), Fault::Hold);
    for plain in noises(60, 256 * KIB).iter().skip(3) {
        cold.chunks.add_chunk(plain).unwrap();
    }
    let deadline = cold.clock.monotonic() + Duration::from_secs(20);
    while store.counting.stats().puts < 1 + 3 {
        assert!(cold.clock.monotonic() < deadline, "{:?}", store.counting.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    cold.chunks.prefetch_chunks(&slots, 1 << 30);
    std::thread::sleep(Duration::from_millis(200));
    let (sender, answer) = std::sync::mpsc::channel();
    let (chunks, fetch, (id, slot)) = (Arc::clone(&cold.chunks), cold.fetch(), slots[1]);
    std::thread::spawn(move || sender.send(chunks.read(&id, &slot, fetch)));
    let read = answer.recv_timeout(Duration::from_secs(20)).expect("it waits behind uploads");
    assert!(read.is_ok(), "{read:?}");
}

#[test]
fn shutting_down_waits_for_no_prefetch_and_who_waits_for_it_asks_for_itself() {
    let (slots, store, cold) = held();
    let store = Store { patience: Duration::from_secs(3600), ..store };
    drop(cold);
    let cold = store.machine_with(ChunkOptions { first_window_bytes: 0, ..options() });
    let _heal = Heal(&store);
    store.counting.reset();
    cold.chunks.prefetch_chunks(&slots, 1 << 30);
    begun(&store, &cold, 6);
    std::thread::scope(|scope| {
        let joiner = scope.spawn(|| cold.chunks.read(&slots[1].0, &slots[1].1, cold.fetch()));
        begun(&store, &cold, 6);
        let (sender, ended) = std::sync::mpsc::channel();
        let chunks = Arc::clone(&cold.chunks);
        std::thread::spawn(move || {
            chunks.shutdown();
            sender.send(())
        });
        ended.recv_timeout(Duration::from_secs(20)).expect("it waits for the store");
        begun(&store, &cold, 7);
        store.faults.heal();
        joiner.join().unwrap().unwrap();
    });
}

#[test]
fn a_hot_set_that_says_anything_costs_what_it_may_and_no_more() {
    let store = Store::new();
    let small = store.machine().store_all(&noises(3000, 8 * KIB));
    let cold = store.machine();
    store.counting.reset();
    let bad = |offset, len| (ChunkId([7; 32]), PackSlot { offset, len, ..small[0].1 });
    let absent =
        |number: u8| (ChunkId([number; 32]), PackSlot { pack: PackId([number; 32]), ..small[0].1 });
    // Places where no chunk can lie: nothing is asked for.
    let huge = u32::try_from(64 * MIB).unwrap();
    let bad = [bad(8, huge), bad(8, 0), bad(u32::MAX, 1000), bad(0, 1000), bad(8, 51)];
    cold.chunks.prefetch_chunks(&bad, 1 << 30);
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
    assert_eq!(store.gets().len(), 0, "{:?}", store.gets());
    assert!(cold.chunks.read(&bad[0].0, &bad[0].1, cold.fetch()).is_err());
    assert_eq!(store.gets().len(), 0, "{:?}", store.gets());
    // One small chunk of each seven: what lies between is fetched, to four times what was allowed.
    let sparse: Vec<_> = small.iter().step_by(7).copied().collect();
    let bytes_max = 1 << 20;
    cold.chunks.prefetch_chunks(&sparse, bytes_max);
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
    let stats = store.counting.stats();
    assert!(stats.bytes_in <= bytes_max * HOT_GAPS_SHARE, "{stats:?}");
    assert!(stats.bytes_in > bytes_max, "{stats:?}");
    // Packs that are not there: a request each; and what follows still comes.
    store.counting.reset();
    let mut list: Vec<_> = (100..130).map(absent).collect();
    list.push(*small.last().unwrap());
    cold.chunks.prefetch_chunks(&list, 1 << 30);
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
    assert_eq!(store.gets().len(), 31);
    assert!(cold.chunks.is_local(&list[30].0));
    assert_eq!(cold.chunks.stats().prefetch_bytes_left, 0);
}

#[test]
fn the_hot_set_fills_a_quarter_of_a_small_cache_and_metadata_stays() {
    let store = Store::new();
    let slots = store.machine().store_all(&noises(80, 256 * KIB));
    let dir = Arc::new(TempDir::new().unwrap());
    let local = LocalOptions { cache_bytes_max: 16 << 20, ..LocalOptions::default() };
    let cold = store.machine_with_local(dir, options(), &local);
    store.counting.reset();
    cold.chunks.prefetch_chunks(&slots, 1 << 30);
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
    let bytes = store.counting.stats().bytes_in;
    assert!((3 << 20..=4 << 20).contains(&bytes), "{bytes}");
    assert!(slots[..12].iter().all(|(id, _)| cold.chunks.is_local(id)), "the first ones");
}
